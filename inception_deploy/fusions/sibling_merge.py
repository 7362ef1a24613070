"""Parallel 1×1 convolutions on one input become one, whose output is split.

An Inception module begins with up to four 1×1 convolutions that all read the module's input:

    Relu(Wᵢ * x + bᵢ)  =  Split(Relu(W * x + b))ᵢ      W, b: all Wᵢ, bᵢ, one below the other

One matrix product over x instead of several narrow ones; not one multiply-add more or less. The
pieces keep the names of the branches' tensors. Siblings have equal strides, and the same behind
them: a Relu that alone uses the convolution, or whatever, where the convolution's own output is
split. The two kinds are not mixed. A pool's projection joins the second kind once
`pool_projection` has moved it to the module's input.

The pairs of 1×3 and 3×1 convolutions in the last modules of Inception v3 and v4 share an input,
too. As 3×3 kernels with zeros they could be one convolution, of three times the multiply-adds: no
engine wins by that, and this rewrite leaves them alone.

Siblings that are all that follows a convolution or average pool stay apart: as one, they would be
its only successor, after the turn of the rewrites that join or swap such pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from inception_deploy.fusions._examples import Weights, graph
from inception_deploy.fusions._linear import (
    bias_of,
    constants_problem,
    fresh_node_name,
    is_padded,
    kernel_of,
    relu_behind,
    sharing_problem,
    spatial,
)
from inception_deploy.fusions.base import Example, Fusion, Phase
from inception_deploy.fusions.concat_flat import ConcatFlat
from inception_deploy.graphs import fresh_name, is_op, is_output, producer, release
from inception_deploy.outline import read
from inception_deploy.proof import FP32_BOUND

__all__ = ["FUSIONS", "SiblingMerge"]

_FLAT = ConcatFlat()


class SiblingMerge(Fusion):
    """Merges 1×1 convolutions with equal strides and activation on one input, named `BLOCK.1x1`."""

    name = "sibling_merge"
    phase = Phase.MERGE
    bound = FP32_BOUND

    @property
    def examples(self) -> tuple[Example, ...]:
        return _EXAMPLES

    def match(self, graph: gs.Graph) -> Iterator[gs.Node]:
        """The first of each group that can be merged, and every one that is left over."""
        for node in graph.nodes:
            if len(_pointwise(node)) > 1:
                group = _group(graph, node)
                if len(group) < 2 or group[0] is node:
                    yield node

    def check(self, graph: gs.Graph, anchor: gs.Node) -> str | None:
        if reason := _problem(anchor):
            return reason
        group = _group(graph, anchor)
        if len(group) < 2:
            return "no sibling has the same strides and activation, and weights of its own"
        if graph.opset < 13:
            return f"opset {graph.opset} splits by an attribute"
        source = anchor.inputs[0]
        before = producer(source)
        if before is not None and is_op(before, "Conv", "AveragePool"):
            others = [user for user in source.outputs if all(user is not conv for conv in group)]
            if not others and not is_output(graph, source):
                return f"the siblings are all that follows '{before.name}' ({before.op})"
        return None

    def rewrite(self, graph: gs.Graph, anchor: gs.Node) -> str:
        group = _group(graph, anchor)
        activated = relu_behind(graph, anchor) is not None
        last = [relu_behind(graph, conv) or conv for conv in group]
        pieces = [node.outputs[0] for node in last]
        weights = [conv.inputs[1] for conv in group]
        filters = [weight.shape[0] for weight in weights]
        name = fresh_node_name(graph, f"{_block(group)}.1x1")
        place = graph.nodes.index(anchor)

        joined = np.concatenate([read(weight) for weight in weights])
        inputs = [anchor.inputs[0], _constant(graph, f"{name}.weight", joined)]
        if any(len(conv.inputs) > 2 for conv in group):
            biases = [bias_of(conv, n) for conv, n in zip(group, filters, strict=True)]
            bias = np.concatenate(biases).astype(np.float32)
            inputs.append(_constant(graph, f"{name}.bias", bias))
        shape = [pieces[0].shape[0], sum(filters), *pieces[0].shape[2:]]
        merged = gs.Variable(fresh_name(graph, name), pieces[0].dtype, shape)
        nodes = [gs.Node("Conv", name, dict(anchor.attrs), inputs, [merged])]
        if activated:
            positive = gs.Variable(fresh_name(graph, f"{name}_relu"), merged.dtype, shape)
            nodes.append(gs.Node("Relu", f"{name}_relu", None, [merged], [positive]))
        for node in (*group, *last):
            node.inputs.clear()
            node.outputs.clear()
        for weight in weights:
            release(weight)
        sizes = _constant(graph, f"{name}.sizes", np.array(filters, np.int64))
        split = gs.Node(
            "Split", f"{name}_split", {"axis": 1}, [nodes[-1].outputs[0], sizes], pieces
        )
        graph.nodes[place:place] = [*nodes, split]
        _tidy(graph, split)
        return f"{', '.join(conv.name for conv in group)} as '{name}'"


def _pointwise(conv: gs.Node) -> list[gs.Node]:
    """All 1×1 convolutions on the input of `conv`, where that is one itself."""
    if not is_op(conv, "Conv") or set(kernel_of(conv) or ()) != {1}:
        return []
    source = conv.inputs[0]
    users: list[gs.Node] = list(source.outputs)
    return [
        user
        for user in users
        if is_op(user, "Conv") and user.inputs[0] is source and set(kernel_of(user) or ()) == {1}
    ]


def _group(graph: gs.Graph, conv: gs.Node) -> list[gs.Node]:
    """`conv` and the siblings it can be merged with; nothing where it cannot be merged at all."""
    if _problem(conv):
        return []
    relu, strides = relu_behind(graph, conv) is not None, spatial(conv, "strides", 1)
    return [
        other
        for other in _pointwise(conv)
        if (relu_behind(graph, other) is not None) == relu
        and spatial(other, "strides", 1) == strides
        and not _problem(other)
    ]


def _problem(conv: gs.Node) -> str | None:
    """Why `conv` cannot be merged with any other."""
    if is_padded(conv):
        return f"'{conv.name}' is padded"
    if (groups := conv.attrs.get("group", 1)) != 1:
        return f"'{conv.name}' has {groups} groups"
    return constants_problem(conv) or sharing_problem(conv)


def _block(group: Sequence[gs.Node]) -> str:
    """What the dotted names have in common: their block. Where that is nothing, the first name."""
    parts = zip(*(conv.name.split(".") for conv in group), strict=False)
    common = [part[0] for part in takewhile(lambda part: len(set(part)) == 1, parts)]
    return ".".join(common) or str(group[0].name)


def _constant(graph: gs.Graph, wanted: str, values: NDArray[Any]) -> gs.Constant:
    return gs.Constant(fresh_name(graph, wanted), values)


def _tidy(graph: gs.Graph, split: gs.Node) -> None:
    """Where neighbouring pieces go straight into a Concat, they need not be split at all."""
    for piece in tuple(split.outputs):
        users: list[gs.Node] = list(piece.outputs)
        for user in users:
            while is_op(user, "Concat") and user.outputs and _FLAT.check(graph, user) is None:
                _FLAT.rewrite(graph, user)


_WEIGHTS: Weights = {"U": (3, 4, 1, 1), "V": (2, 4, 1, 1), "W": (4, 4, 1, 1), "b": (2,), "c": (4,)}
_CONCAT = "Concat<axis: int = 1>"


def _module(left: str, right: str) -> str:
    """Two branches of 3 and 2 channels, each with a Relu, and something else on the input."""
    return f"""left = {left}
               left_relu = Relu(left)
               right = {right}
               right_relu = Relu(right)
               other = Relu(input)
               output = {_CONCAT}(left_relu, other, right_relu)"""


_PLAIN = _module("Conv(input, U)", "Conv(input, V)")

_EXAMPLES = (
    Example("without bias", graph(_PLAIN, _WEIGHTS), applied=1),
    Example(
        "one with a bias",
        graph(_module("Conv(input, U)", "Conv(input, V, b)"), _WEIGHTS),
        applied=1,
    ),
    Example(
        "equal strides",
        graph(
            """left = Conv<strides: ints = [2, 2]>(input, U)
               left_relu = Relu(left)
               right = Conv<strides: ints = [2, 2]>(input, V)
               right_relu = Relu(right)
               pool = MaxPool<kernel_shape: ints = [2, 2], strides: ints = [2, 2]>(input)
               output = Concat<axis: int = 1>(left_relu, pool, right_relu)""",
            _WEIGHTS,
        ),
        applied=1,
    ),
    Example(
        "no activation behind any",
        graph(
            f"""left = Conv(input, U)
                right = Conv(input, V, b)
                gate = Sigmoid(right)
                output = {_CONCAT}(gate, left)""",
            _WEIGHTS,
        ),
        applied=1,
    ),
    Example(
        "straight into a concatenation: nothing to split",
        graph(
            f"""left = Conv(input, U)
                left_relu = Relu(left)
                right = Conv(input, V, b)
                right_relu = Relu(right)
                output = {_CONCAT}(left_relu, right_relu)""",
            _WEIGHTS,
        ),
        applied=1,
    ),
    Example(
        "two kinds, two of each",
        graph(
            f"""a = Conv(input, U)
                a_relu = Relu(a)
                d = Conv(input, V)
                e = Conv(input, W, c)
                e_relu = Relu(e)
                f = Conv(input, X)
                output = {_CONCAT}(a_relu, d, e_relu, f)""",
            {**_WEIGHTS, "X": (1, 4, 1, 1)},
        ),
        applied=2,
        refused="no sibling has the same strides and activation",
    ),
    Example(
        "the branches leave the graph",
        graph(_PLAIN, _WEIGHTS, outputs=("output", "left_relu", "right_relu")),
        applied=1,
    ),
    Example(
        "a moved pool projection, which is of another kind",
        graph(
            f"""{_PLAIN.replace("output", "module")}
                proj = Conv(input, W)
                pool = AveragePool<kernel_shape: ints = [1, 1]>(proj)
                proj_relu = Relu(pool)
                output = {_CONCAT}(module, proj_relu)""",
            _WEIGHTS,
        ),
        applied=1,
        refused="no sibling has the same strides and activation",
    ),
    Example(
        "one 1×1 convolution alone",
        graph("conv = Conv(input, U)\n output = Relu(conv)", _WEIGHTS),
        applied=0,
    ),
    Example(
        "a pair of 1×3 and 3×1",
        graph(
            f"""wide = Conv<pads: ints = [0, 1, 0, 1]>(input, B)
                high = Conv<pads: ints = [1, 0, 1, 0]>(input, H)
                output = {_CONCAT}(wide, high)""",
            {"B": (3, 4, 1, 3), "H": (3, 4, 3, 1)},
        ),
        applied=0,
    ),
    Example(
        "different inputs",
        graph(
            f"""relu = Relu(input)
                left = Conv(input, U)
                right = Conv(relu, V)
                output = {_CONCAT}(left, right)""",
            _WEIGHTS,
        ),
        applied=0,
    ),
    Example(
        "one activated, one used as it is",
        graph(
            f"""left = Conv(input, U)
                left_relu = Relu(left)
                right = Conv(input, V)
                output = {_CONCAT}(left_relu, right)""",
            _WEIGHTS,
        ),
        applied=0,
        refused="no sibling has the same strides and activation",
    ),
    Example(
        "one leaves the graph before its activation",
        graph(_PLAIN, _WEIGHTS, outputs=("output", "right")),
        applied=0,
        refused="no sibling has the same strides and activation",
    ),
    Example(
        "different strides",
        graph(
            """left = Conv<strides: ints = [2, 2]>(input, U)
               right = Conv(input, U2)
               pool = MaxPool<kernel_shape: ints = [2, 2], strides: ints = [2, 2]>(right)
               output = Add(left, pool)""",
            {"U": (3, 4, 1, 1), "U2": (3, 4, 1, 1)},
        ),
        applied=0,
        refused="no sibling has the same strides and activation",
    ),
    Example(
        "shared weights",
        graph(
            f"""left = Conv(input, U)
                right = Conv(input, U)
                output = {_CONCAT}(left, right)""",
            _WEIGHTS,
        ),
        applied=0,
        refused="are shared with",
    ),
    Example(
        "padded, both",
        graph(
            f"""left = Conv<pads: ints = [1, 1, 1, 1]>(input, U)
                right = Conv<pads: ints = [1, 1, 1, 1]>(input, V)
                output = {_CONCAT}(left, right)""",
            _WEIGHTS,
        ),
        applied=0,
        refused="is padded",
    ),
    Example(
        "two groups, both",
        graph(
            f"""left = Conv<group: int = 2>(input, G)
                right = Conv<group: int = 2>(input, H)
                output = {_CONCAT}(left, right)""",
            {"G": (4, 2, 1, 1), "H": (2, 2, 1, 1)},
        ),
        applied=0,
        refused="has 2 groups",
    ),
    Example(
        "weights computed at run time, both",
        graph(
            f"""halved = Mul(U, U)
                left = Conv(input, halved)
                turned = Neg(U)
                right = Conv(input, turned)
                output = {_CONCAT}(left, right)""",
            _WEIGHTS,
        ),
        applied=0,
        refused="is not constant",
    ),
    Example(
        "all that follows a convolution",
        graph(
            f"""before = Conv(input, W)
                left = Conv(before, U)
                right = Conv(before, V)
                output = {_CONCAT}(left, right)""",
            _WEIGHTS,
        ),
        applied=0,
        refused="the siblings are all that follows 'before' (Conv)",
    ),
    Example(
        "float64",
        graph(
            f"left = Conv(input, U)\n right = Conv(input, V)\n output = {_CONCAT}(left, right)",
            {"U": np.ones((3, 4, 1, 1)), "V": np.ones((2, 4, 1, 1))},
            dtype="double",
        ),
        applied=0,
        refused="is float64, not float32",
    ),
)

FUSIONS = (SiblingMerge(),)
