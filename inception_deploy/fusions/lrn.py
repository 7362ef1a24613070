"""Local response normalisation, spelled out by an exporter, becomes the one native `LRN` node.

GoogLeNet's LRN (AlexNet's, Krizhevsky et al. 2012, section 3.3) over a window of n channels is

    y[c] = x[c] / (k + α/n · Σ_{c' = c − ⌊(n−1)/2⌋}^{c + ⌈(n−1)/2⌉} x[c']²)^β

with zeros beyond the first and last channel. That is ONNX's definition, Caffe's and OpenVINO's, and
`torch.nn.LocalResponseNorm` writes it as

    x / (α · AveragePool_{n×1×1}(Pad(x²)) + k)^β

the pool over the channels as an axis of its own, counting the padding: the mean is Σ/n, so α is the
same number in both. PyTorch pads ⌊n/2⌋ channels in front and ⌊(n−1)/2⌋ behind; ONNX has the smaller
half in front. For odd n both are the same window; an even n is refused.

torch.onnx writes it in nine nodes (dynamo) or 35, one an `If` (TorchScript); TensorFlow's `lrn`,
which takes α as the factor of the sum, arrives as a native node from its converter. Engines have
one kernel for it, and FP16 needs to keep the squares together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from inception_deploy.fusions._examples import Weights, graph
from inception_deploy.fusions._shapes import extents, same_extents, same_shape
from inception_deploy.fusions.base import Example, Fusion, Phase
from inception_deploy.graphs import constant_values, is_op, is_output, producer
from inception_deploy.proof import FP32_BOUND

__all__ = ["FUSIONS", "LocalResponseNorm"]

Build: TypeAlias = Callable[[], onnx.ModelProto]

SHAPE_ONLY = ("Reshape", "Squeeze", "Unsqueeze", "Identity")
"""Operators that keep every element in its order."""


@dataclass(frozen=True)
class Spelled:
    """The nodes of a spelled-out LRN, as far as they have to be asked.

    Args:
        inner: all of them but the last.
        source: x.
        square, pad, pool: the nodes that do that.
        alpha, k, beta: the constants.
    """

    inner: tuple[gs.Node, ...]
    source: gs.Tensor
    square: gs.Node
    pad: gs.Node
    pool: gs.Node
    alpha: float
    k: float
    beta: float


class LocalResponseNorm(Fusion):
    """Finds Div(x, Pow(α · AveragePool(Pad(x²)) + k, β)) and writes `LRN`."""

    name = "lrn"
    phase = Phase.CANONICAL
    bound = FP32_BOUND

    @property
    def examples(self) -> tuple[Example, ...]:
        return _EXAMPLES

    def match(self, graph: gs.Graph) -> Iterator[gs.Node]:
        for node in graph.nodes:
            if is_op(node, "Div") and _spelled(node) is not None:
                yield node

    def check(self, graph: gs.Graph, anchor: gs.Node) -> str | None:
        found = _spelled(anchor)
        assert found is not None, f"'{anchor.name}' is no anchor"
        if found.source is not anchor.inputs[0]:
            return f"it divides '{anchor.inputs[0].name}', but squares '{found.source.name}'"
        members = {id(node) for node in (*found.inner, *_inside(found.inner), anchor)}
        for node in found.inner:
            for tensor in node.outputs:
                if is_output(graph, tensor):
                    return f"'{tensor.name}' is an output of the graph or of a block"
                for user in tensor.outputs:
                    if id(user) not in members and not is_op(user, "Shape"):
                        return f"'{tensor.name}' is used by '{user.name}' too"
        return _window(found)

    def rewrite(self, graph: gs.Graph, anchor: gs.Node) -> str:
        found = _spelled(anchor)
        assert found is not None, "check was not asked"
        size = int(np.prod(found.pool.attrs["kernel_shape"]))
        anchor.op, anchor.inputs = "LRN", [found.source]
        anchor.attrs = {"size": size, "alpha": found.alpha, "beta": found.beta, "bias": found.k}
        return f"size {size}, alpha {found.alpha:.6g}, beta {found.beta:.6g}, k {found.k:.6g}"


def _spelled(div: gs.Node) -> Spelled | None:
    """The pattern behind a `Div`, from its end to x²; None where it is another one."""
    power, beta = _with_number(producer(div.inputs[1]), "Pow", ordered=True)
    plus, k = _with_number(power and producer(power.inputs[0]), "Add")
    scaled, alpha = _with_number(plus and producer(_data(plus)), "Mul")
    if power is None or plus is None or scaled is None:
        return None
    inner, tensor = [power, plus, scaled], _data(scaled)
    mean = tensor
    pool, after = _through_shapes(tensor)
    if pool is None or not is_op(pool, "AveragePool"):
        return None
    pad = producer(pool.inputs[0])
    if pad is None or not is_op(pad, "Pad"):
        return None
    square, before = _through_shapes(pad.inputs[0])
    if square is None or not is_op(square, "Mul") or square.inputs[0] is not square.inputs[1]:
        return None
    source = square.inputs[0]
    if len(extents(source) or ()) != 4 or not same_shape(mean, source, same_size=True):
        return None
    inner += [*after, pool, pad, *before, square]
    return Spelled(tuple(inner), source, square, pad, pool, alpha, k, beta)


def _with_number(
    node: gs.Node | None, op: str, *, ordered: bool = False
) -> tuple[gs.Node | None, float]:
    """`node` if it is an `op` with one constant number among its inputs, and that number."""
    if node is not None and is_op(node, op):
        for tensor in node.inputs[1:] if ordered else node.inputs:
            values = constant_values(tensor)
            if values is not None and values.size == 1:
                return node, float(values.reshape(-1)[0])
    return None, 0.0


def _data(node: gs.Node) -> gs.Tensor:
    """The input that is not constant."""
    return next((t for t in node.inputs if constant_values(t) is None), node.inputs[0])


def _through_shapes(tensor: gs.Tensor) -> tuple[gs.Node | None, list[gs.Node]]:
    """The first node above `tensor` that does more than rearrange axes, and those between."""
    between: list[gs.Node] = []
    node = producer(tensor)
    while node is not None and is_op(node, *SHAPE_ONLY, "If"):
        source = _chosen(node) if node.op == "If" else node.inputs[0]
        if source is None:
            break
        between.append(node)
        node = producer(source)
    return node, between


def _branches(choice: gs.Node) -> list[gs.Graph]:
    return [choice.attrs["then_branch"], choice.attrs["else_branch"]]


def _inside(nodes: Sequence[gs.Node]) -> Iterator[gs.Node]:
    for node in nodes:
        for branch in _branches(node) if node.op == "If" else ():
            yield from branch.nodes


def _chosen(choice: gs.Node) -> gs.Tensor | None:
    """The outer tensor whose elements an `If` puts out either way; None where it does more."""
    sources = []
    for branch in _branches(choice):
        inside = {id(node) for node in branch.nodes}
        tensor = branch.outputs[0]
        node = producer(tensor)
        while node is not None and id(node) in inside and is_op(node, *SHAPE_ONLY):
            tensor = node.inputs[0]
            node = producer(tensor)
        sources.append(tensor)
    return sources[0] if sources[0] is sources[1] else None


def _window(found: Spelled) -> str | None:
    """Why pad and pool are not a window of n channels around each one."""
    pool, pad, shape = found.pool, found.pad, extents(found.source) or []
    lifted = [shape[0], 1, *shape[1:]]
    if not same_extents(extents(pad.inputs[0]) or [], lifted, same_size=True):
        return f"'{pad.name}' does not see the channels as an axis of their own"
    size = pool.attrs["kernel_shape"][0]
    plain = {
        "kernel_shape": [size, 1, 1],
        "strides": [1, 1, 1],
        "dilations": [1, 1, 1],
        "pads": [0] * 6,
        "auto_pad": "NOTSET",
        "ceil_mode": 0,
    }
    for name, wanted in plain.items():
        given = pool.attrs.get(name, wanted)
        if (list(given) if isinstance(wanted, list) else given) != wanted:
            return f"'{pool.name}' has {name} {given}"
    if size % 2 == 0:
        return f"a window of {size} channels is even: PyTorch and ONNX place it differently"
    if pad.attrs.get("mode", "constant") != "constant":
        return f"'{pad.name}' pads by {pad.attrs['mode']}"
    if len(pad.inputs) > 2 and not pad.inputs[2].is_empty():
        filler = constant_values(pad.inputs[2])
        if filler is None or filler.any():
            return f"'{pad.name}' does not pad with zeros"
    pads = constant_values(pad.inputs[1])
    half = (size - 1) // 2
    if pads is None or pads.tolist() != [0, 0, half, 0, 0, 0, 0, half, 0, 0]:
        given = "at run time" if pads is None else f"{pads.tolist()}"
        return f"'{pad.name}' pads {given}, not {half} channels on both sides"
    return None


_NUMBERS: Weights = {
    "lifted": np.array([-1, 1, 8, 6, 6]),
    "whole": np.array([0, 8, 6, -1]),
    "map": np.array([-1, 8, 6, 6]),
    "pads": np.array([0, 0, 2, 0, 0, 0, 0, 2, 0, 0]),
    "less": np.array([0, 0, 1, 0, 0, 0, 0, 1, 0, 0]),
    "even": np.array([0, 0, 2, 0, 0, 0, 0, 1, 0, 0]),
    "one": np.array([1]),
    "alpha": np.array(0.5, np.float32),
    "k": np.array(2.0, np.float32),
    "beta": np.array(0.75, np.float32),
    "each": np.linspace(0.5, 0.9, 6, dtype=np.float32),
    "zero": np.zeros((), np.float32),
    "ones": np.ones((), np.float32),
}
_MAP = "batch, 8, 6, 6"
_POOL = "AveragePool<kernel_shape: ints = [5, 1, 1], count_include_pad: int = 1>(pad)"
_DYNAMO = f"""
    square = Mul(input, input)
    view = Reshape<allowzero: int = 1>(square, lifted)
    pad = Pad<mode: string = "constant">(view, pads)
    pool = {_POOL}
    squeeze = Squeeze(pool, one)
    scaled = Mul(squeeze, alpha)
    plus = Add(scaled, k)
    power = Pow(plus, beta)
    output = Div(input, power)"""
_TORCHSCRIPT = f"""
    square = Mul(input, input)
    view = Reshape(square, lifted)
    pad = Pad(view, pads, )
    pool = {_POOL}
    shape = Shape(pool)
    extent = Gather<axis: int = 0>(shape, one)
    single = Equal(extent, one)
    chosen = If(single) <
        then_branch = squeezed () => (float[n, c, h, w] four) {{ four = Squeeze(pool, one) }},
        else_branch = as_is () => (float[n, o, c, h, w] five) {{ five = Identity(pool) }}
    >
    back = Reshape(chosen, map)
    scaled = Mul(back, alpha)
    plus = Add(scaled, k)
    power = Pow(plus, beta)
    output = Div(input, power)"""


def _case(old: str = "", new: str = "", outputs: tuple[str, ...] = ("output",)) -> Build:
    assert old in _DYNAMO
    return graph(_DYNAMO.replace(old, new), _NUMBERS, shape=_MAP, outputs=outputs)


_EXAMPLES = (
    Example("as dynamo writes it", graph(_DYNAMO, _NUMBERS, shape=_MAP), applied=1),
    Example("as TorchScript writes it", graph(_TORCHSCRIPT, _NUMBERS, shape=_MAP), applied=1),
    Example(
        "lifted by Unsqueeze",
        _case("Reshape<allowzero: int = 1>(square, lifted)", "Unsqueeze(square, one)"),
        1,
    ),
    Example("padded with a stated zero", _case("(view, pads)", "(view, pads, zero)"), 1),
    Example("constants on the left", _case("Mul(squeeze, alpha)", "Mul(alpha, squeeze)"), 1),
    Example("a native node", graph("output = LRN<size: int = 5>(input)", {}, shape=_MAP), 0),
    Example("one exponent per column", _case("(plus, beta)", "(plus, each)"), 0),
    Example("not of the square", _case("Mul(input, input)", "Mul(input, alpha)"), 0),
    Example(
        "another tensor is divided",
        _case("Div(input, power)", "Div(plus, power)"),
        0,
        "it divides 'plus', but squares 'input'",
    ),
    Example(
        "the mean leaves the graph",
        _case(outputs=("output", "squeeze")),
        0,
        "'squeeze' is an output of the graph or of a block",
    ),
    Example(
        "the square is used elsewhere",
        graph(f"{_DYNAMO}\n more = Relu(square)", _NUMBERS, shape=_MAP, outputs=("output", "more")),
        0,
        "'square' is used by 'more' too",
    ),
    Example(
        "an even window",
        graph(
            _DYNAMO.replace("[5, 1, 1]", "[4, 1, 1]").replace("pads)", "even)"),
            _NUMBERS,
            shape=_MAP,
        ),
        0,
        "a window of 4 channels is even",
    ),
    Example(
        "a window over the height",
        graph(
            _DYNAMO.replace("[5, 1, 1]", "[1, 5, 1]")
            .replace("pads)", "tall)")
            .replace("Squeeze(pool, one)", "Reshape(pool, whole)"),
            {**_NUMBERS, "tall": np.array([0, 0, 0, 2, 0, 0, 0, 0, 2, 0])},
            shape=_MAP,
        ),
        0,
        "has kernel_shape [1, 5, 1]",
    ),
    Example("padded with ones", _case("(view, pads)", "(view, pads, ones)"), 0, "with zeros"),
    Example(
        "mirrored",
        _case('"constant">(view', '"reflect">(view'),
        0,
        "pads by reflect",
    ),
    Example(
        "padding inside the pool, not counted",
        graph(
            _DYNAMO.replace(
                "count_include_pad: int = 1", "pads: ints = [1, 0, 0, 1, 0, 0]"
            ).replace("pads)", "less)"),
            _NUMBERS,
            shape=_MAP,
        ),
        0,
        "has pads [1, 0, 0, 1, 0, 0]",
    ),
)

FUSIONS = (LocalResponseNorm(),)
