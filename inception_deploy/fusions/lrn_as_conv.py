"""LRN becomes a 1×1 convolution of squares and two square roots.

Local response normalisation (Krizhevsky et al., 2012, section 3.3; ONNX's LRN) divides each value
by a power of what its neighbours among the channels amount to:

    y = x / s^β        s_c = bias + α / size · Σ x_c'²    over size channels around c

The sum over neighbouring channels is a convolution with a band matrix B of shape (C, C, 1, 1),
α / size inside the band and 0 outside; and for β = 3/4, which GoogLeNet, AlexNet and Caffe's
default have in common, the power is made of roots:

    s = B * x² + bias        y = x / (√s · √√s)        and y = x / √s for β = 1/2

That is more work, C multiply-adds per value where a sliding window would take two; but it is work
that engines are made for. ONNX Runtime's LRN raises each value to a power on one thread: in the
paper's GoogLeNet its two LRNs take half of the time.

Squares of float32 values overflow above 1.8e19, as they do in LRN. Windows of an even size, which
not every engine has, are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from inception_deploy.fusions._examples import graph
from inception_deploy.fusions._linear import fresh_node_name
from inception_deploy.fusions.base import Example, Fusion, Phase
from inception_deploy.graphs import absorb, fresh_name, is_op
from inception_deploy.proof import FP32_BOUND

__all__ = ["FUSIONS", "LrnAsConv"]

_ROOTS = (0.5, 0.75)


class LrnAsConv(Fusion):
    """Replaces LRN; the division keeps its name, the other nodes are named below it."""

    name = "lrn_as_conv"
    phase = Phase.EXCHANGE
    bound = FP32_BOUND
    grows = "a sum over neighbouring channels as a band matrix, which engines multiply fast"

    @property
    def examples(self) -> tuple[Example, ...]:
        return _EXAMPLES

    def match(self, graph: gs.Graph) -> Iterator[gs.Node]:
        for node in graph.nodes:
            if is_op(node, "LRN"):
                yield node

    def check(self, graph: gs.Graph, anchor: gs.Node) -> str | None:
        result = anchor.outputs[0]
        if result.dtype != np.float32:
            return f"'{result.name}' is {np.dtype(result.dtype)}, not float32"
        if len(result.shape) != 4 or not isinstance(result.shape[1], int):
            return "it is not on maps of a known number of channels"
        if (beta := _beta(anchor)) not in _ROOTS:
            return f"its exponent {beta:g} is not 1/2 or 3/4: a power is not made of square roots"
        if anchor.attrs["size"] % 2 == 0:
            return f"its window of {anchor.attrs['size']} channels has no middle"
        bias, alpha = anchor.attrs.get("bias", 1.0), anchor.attrs.get("alpha", 1e-4)
        if not (bias > 0 and alpha >= 0):
            return f"its bias {bias:g} and alpha {alpha:g} may add up to a root of nothing positive"
        return None

    def rewrite(self, graph: gs.Graph, anchor: gs.Node) -> str:
        source, shape = anchor.inputs[0], anchor.outputs[0].shape
        place, beta = graph.nodes.index(anchor), _beta(anchor)
        channels, band = shape[1], _band(anchor)
        shift = np.full(channels, anchor.attrs.get("bias", 1.0), np.float32)

        def add(op: str, what: str, inputs: list[gs.Tensor], **attrs: object) -> gs.Variable:
            nonlocal place
            name = fresh_node_name(graph, f"{anchor.name}.{what}")
            result = gs.Variable(fresh_name(graph, name), np.float32, shape)
            graph.nodes.insert(place, gs.Node(op, name, attrs, inputs, [result]))
            place += 1
            return result

        squares = add("Mul", "squares", [source, source])
        weights = gs.Constant(fresh_name(graph, f"{anchor.name}.band"), band)
        bias = gs.Constant(fresh_name(graph, f"{anchor.name}.bias"), shift)
        sums = add("Conv", "sums", [squares, weights, bias], kernel_shape=[1, 1])
        norm = add("Sqrt", "root", [sums])
        if beta == 0.75:
            norm = add("Mul", "power", [norm, add("Sqrt", "root_of_root", [norm])])
        quotient = gs.Node("Div", anchor.name, None, [source, norm])
        graph.nodes.insert(graph.nodes.index(anchor), quotient)
        absorb(quotient, anchor)
        return f"{channels} channels, {anchor.attrs['size']} at a time, to the power of {beta:g}"


def _beta(lrn: gs.Node) -> float:
    """The exponent, as the decimal it was written as."""
    return float(np.format_float_positional(np.float32(lrn.attrs.get("beta", 0.75))))


def _band(lrn: gs.Node) -> NDArray[np.float32]:
    """α / size for each channel and its neighbours: float32 (C, C, 1, 1)."""
    channels, size = lrn.outputs[0].shape[1], lrn.attrs["size"]
    offset = np.arange(channels)[None, :] - np.arange(channels)[:, None]
    band: NDArray[np.float32] = (abs(offset) <= size // 2) * np.float32(
        lrn.attrs.get("alpha", 1e-4) / size
    )
    return band[:, :, None, None]


_LRN = "LRN<alpha: float = 0.3, beta: float = 0.75, bias: float = 2.0, size: int = 3>(input)"

_EXAMPLES = (
    Example("alone", graph(f"output = {_LRN}", {}), applied=1),
    Example("defaults", graph("output = LRN<size: int = 5>(input)", {}), applied=1),
    Example("one channel at a time", graph(f"output = {_LRN}".replace("= 3>", "= 1>"), {}), 1),
    Example("an exponent of 1/2", graph(f"output = {_LRN}".replace("0.75", "0.5"), {}), applied=1),
    Example(
        "two, and others that read between",
        graph(
            f"""once = {_LRN}
                relu = Relu(once)
                twice = {_LRN.replace("input", "relu")}
                output = Add(once, twice)""",
            {},
        ),
        applied=2,
    ),
    Example(
        "it leaves the graph in the middle",
        graph(f"norm = {_LRN}\n output = Relu(norm)", {}, outputs=("output", "norm")),
        applied=1,
    ),
    Example("another norm", graph("output = LpNormalization<axis: int = 1>(input)", {}), applied=0),
    Example(
        "another exponent",
        graph(f"output = {_LRN}".replace("0.75", "0.6"), {}),
        applied=0,
        refused="its exponent 0.6 is not",
    ),
    Example(
        "an even size",
        graph(f"output = {_LRN}".replace("= 3>", "= 4>"), {}),
        applied=0,
        refused="has no middle",
    ),
    Example(
        "no bias",
        graph(f"output = {_LRN}".replace("2.0", "0.0"), {}),
        applied=0,
        refused="may add up to a root of nothing positive",
    ),
    Example(
        "a negative alpha",
        graph(f"output = {_LRN}".replace("= 0.3", "= -0.3"), {}),
        applied=0,
        refused="may add up to a root of nothing positive",
    ),
    Example(
        "channels known at run time",
        graph(f"output = {_LRN}", {}, shape="batch, channels, 6, 6"),
        applied=0,
        refused="a known number of channels",
    ),
    Example(
        "float64",
        graph(f"output = {_LRN}", {}, dtype="double"),
        applied=0,
        refused="is float64, not float32",
    ),
)

FUSIONS = (LrnAsConv(),)
