"""Conv → Conv without an activation between becomes one Conv, where that is less work.

Two linear maps compose. With a 1×1 convolution V (c, m) on either side of W,

    V * (W * x + b) + d = (V·W) * x + (V·b + d)          (V·W)ᵢ = Σₘ Vᵢₘ Wₘ     behind any W
    W * (V * x + b) + d = (W·V) * x + (Σ W·b + d)        (W·V)ⱼ = Σₘ Wₘ Vₘⱼ     in front of W

The first has W's padding, and the strides multiply. The second needs a V of stride 1 and a W that
sees no padding, because zeros around V * x + b are not those around x; without a bias b they are.

It pays where the middle is wide: k² · n · m + m · c multiply-adds per place become k² · n · c. Two
kernels of more than 1×1, Inception's 1×7 and 7×1, would make a larger one, and have activations
between them everywhere in the family. A depthwise and a pointwise convolution, Xception's separable
one, are cheap because they are apart: k² · n + n · c against k² · n · c.

A batch norm between the two goes into the first one, as in `conv_bn`, so that the order of folding
makes no difference. Weights are composed in float64 and rounded to float32 once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from inception_deploy.fusions._examples import Weights, graph
from inception_deploy.fusions._linear import (
    Float64Array,
    bias_of,
    constants_problem,
    is_padded,
    kernel_of,
    set_bias,
    sharing_problem,
    spatial,
)
from inception_deploy.fusions.base import Example, Fusion, Phase
from inception_deploy.fusions.conv_bn import ConvBatchNorm
from inception_deploy.graphs import fits_float32, is_op, replace_constant, used_elsewhere
from inception_deploy.proof import FP32_BOUND

__all__ = ["FUSIONS", "LinearChain"]

_CONV_BN = ConvBatchNorm()


class LinearChain(Fusion):
    """Composes a convolution with the one behind it, which keeps its name."""

    name = "linear_chain"
    phase = Phase.FOLD
    bound = FP32_BOUND

    @property
    def examples(self) -> tuple[Example, ...]:
        return _EXAMPLES

    def match(self, graph: gs.Graph) -> Iterator[gs.Node]:
        for node in graph.nodes:
            if is_op(node, "Conv") and _chain(node) is not None:
                yield node

    def check(self, graph: gs.Graph, anchor: gs.Node) -> str | None:
        chain = _chain(anchor)
        assert chain is not None, f"'{anchor.name}' is no anchor"
        norm, second = chain
        if norm is not None:
            return _CONV_BN.check(graph, norm)
        if reason := used_elsewhere(graph, anchor.outputs[0], second):
            return f"its output {reason}"
        if _separable(anchor, second) or _separable(second, anchor):
            return f"a separable convolution with '{second.name}': such cost more when composed"
        for conv in (anchor, second):
            if reason := constants_problem(conv) or sharing_problem(conv):
                return reason
        if reason := _why_inexact(anchor, second):
            return reason
        now, then = _multiply_adds(anchor, second)
        if now is None or then is None:
            return "the size of its output is only known at run time"
        if then >= now:
            return f"with '{second.name}' it would take {then} multiply-adds instead of {now}"
        if not all(map(fits_float32, _compose(anchor, second))):
            return f"the weights composed with '{second.name}' do not fit into float32"
        return None

    def rewrite(self, graph: gs.Graph, anchor: gs.Node) -> str:
        chain = _chain(anchor)
        assert chain is not None, f"'{anchor.name}' is no anchor"
        norm, second = chain
        if norm is not None:
            name = norm.name
            _CONV_BN.rewrite(graph, norm)
            return f"'{name}' taken in, between it and '{second.name}'"
        now, then = _multiply_adds(anchor, second)
        weights, bias = _compose(anchor, second)
        if _is_pointwise(second):
            strides = zip(spatial(anchor, "strides", 1), spatial(second, "strides", 1), strict=True)
            second.attrs = {**anchor.attrs, "strides": [a * b for a, b in strides], "group": 1}
        replace_constant(second, 1, weights)
        if bias.any() or len(second.inputs) > 2:
            set_bias(graph, second, bias)
        second.inputs[0] = anchor.inputs[0]
        anchor.inputs.clear()
        anchor.outputs.clear()
        return f"into '{second.name}', {then} multiply-adds instead of {now}"


def _chain(first: gs.Node) -> tuple[gs.Node | None, gs.Node] | None:
    """The batch norm right behind `first`, if any, and the convolution behind that."""
    norm, tensor = None, first.outputs[0]
    while True:
        users: list[gs.Node] = [user for user in tensor.outputs if user.inputs[0] is tensor]
        for user in users:
            if is_op(user, "Conv"):
                return norm, user
        norms = [user for user in users if is_op(user, "BatchNormalization")]
        if not norms:
            return None
        norm, tensor = norm or norms[0], norms[0].outputs[0]


def _is_pointwise(conv: gs.Node) -> bool:
    """1×1 over all channels, of every place or with a stride."""
    ones = set(kernel_of(conv) or ()) == {1}
    return ones and not is_padded(conv) and conv.attrs.get("group", 1) == 1


def _separable(depthwise: gs.Node, pointwise: gs.Node) -> bool:
    """One filter or more per channel, of more than one place, and a 1×1 convolution."""
    group, kernel = depthwise.attrs.get("group", 1), kernel_of(depthwise) or ()
    spreads = group > 1 and depthwise.inputs[1].shape[1] == 1 and set(kernel) != {1}
    return spreads and _is_pointwise(pointwise)


def _why_inexact(first: gs.Node, second: gs.Node) -> str | None:
    if _is_pointwise(second):
        named = first.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
        if named and set(spatial(second, "strides", 1)) != {1}:
            return f"its padding is named, not counted, and would change with '{second.name}'"
        return None
    if not _is_pointwise(first) or second.attrs.get("group", 1) != 1:
        return f"neither it nor '{second.name}' is a 1×1 convolution over all channels, unpadded"
    if set(spatial(first, "strides", 1)) != {1}:
        return f"it has a stride, and '{second.name}' is no 1×1 convolution"
    if is_padded(second) and bias_of(first, 1).any():
        return f"'{second.name}' pads with zeros, where its own bias would have to stand"
    return None


def _multiply_adds(first: gs.Node, second: gs.Node) -> tuple[int | None, int | None]:
    """Per image: of both one after the other, and of the two as one."""
    one, other = first.inputs[1].values, second.inputs[1].values
    sizes = [conv.outputs[0].shape[2:] for conv in (first, second)]
    if not all(isinstance(extent, int) for size in sizes for extent in size):
        return None, None
    places, last = map(math.prod, sizes)
    channels = one.shape[1] * first.attrs.get("group", 1)
    kernel = math.prod((first if _is_pointwise(second) else second).inputs[1].shape[2:])
    return one.size * places + other.size * last, len(other) * channels * kernel * last


def _compose(first: gs.Node, second: gs.Node) -> tuple[Float64Array, Float64Array]:
    """Weights and bias of the convolution that does both, in float64; may overflow to Inf."""
    inner = _dense(first)
    outer = second.inputs[1].values.astype(np.float64)
    axes = tuple(range(2, outer.ndim))
    with np.errstate(all="ignore"):
        bias = outer.sum(axis=axes) @ bias_of(first, len(inner)) + bias_of(second, len(outer))
        if _is_pointwise(second):
            return np.tensordot(outer.reshape(outer.shape[:2]), inner, axes=1), bias
        return np.einsum("om...,mj->oj...", outer, inner.reshape(inner.shape[:2])), bias


def _dense(conv: gs.Node) -> Float64Array:
    """The weights over all channels, with zeros for those of other groups."""
    weights = conv.inputs[1].values.astype(np.float64)
    groups, width = conv.attrs.get("group", 1), weights.shape[1]
    dense = np.zeros((len(weights), groups * width, *weights.shape[2:]))
    rows = len(weights) // groups
    for g in range(groups):
        part = slice(g * rows, (g + 1) * rows)
        dense[part, g * width : (g + 1) * width] = weights[part]
    return dense


_WEIGHTS: Weights = {
    "W": (8, 4, 3, 3),
    "a": (8,),
    "V": (2, 8, 1, 1),
    "c": (2,),
    "P": (8, 4, 1, 1),
    "Q": (2, 8, 3, 3),
    "D": (4, 1, 3, 3),
    "E": (8, 4, 1, 1),
}
_NORM: Weights = {"gamma": (8,), "beta": (8,), "mean": (8,), "var": (8,)}


def _pair(first: str, second: str) -> str:
    return f"first = {first}\n output = {second}"


_PADDED = "Conv<pads: ints = [1, 1, 1, 1]>(input, W, a)"

_EXAMPLES = (
    Example(
        "3×3 padded, then 1×1, both biased",
        graph(_pair(_PADDED, "Conv(first, V, c)"), _WEIGHTS),
        applied=1,
    ),
    Example(
        "strides multiply",
        graph(
            _pair(
                """Conv<strides: ints = [2, 2], pads: ints = [0, 1, 1, 0],
                       dilations: ints = [1, 2]>(input, W)""",
                "Conv<strides: ints = [1, 3]>(first, V, c)",
            ),
            _WEIGHTS,
        ),
        applied=1,
    ),
    Example(
        "two groups, then 1×1",
        graph(
            _pair("Conv<group: int = 2>(input, G, a)", "Conv(first, V)"),
            {**_WEIGHTS, "G": (8, 2, 3, 3), "V": (1, 8, 1, 1)},
        ),
        applied=1,
    ),
    Example(
        "1×1, then 3×3 unpadded",
        graph(
            _pair(
                "Conv(input, P, a)",
                "Conv<strides: ints = [2, 1], dilations: ints = [2, 2]>(first, Q, c)",
            ),
            _WEIGHTS,
        ),
        applied=1,
    ),
    Example(
        "1×1 without bias, then 3×3 padded",
        graph(_pair("Conv(input, P)", "Conv<pads: ints = [1, 1, 1, 1]>(first, Q)"), _WEIGHTS),
        applied=1,
    ),
    Example(
        "1×1 twice, a bias that is shared",
        graph(
            """first = Conv(input, P, a)
               second = Conv(first, V)
               third = Conv(second, R, a)
               output = Relu(third)""",
            {**_WEIGHTS, "V": (6, 8, 1, 1), "R": (8, 6, 1, 1)},
        ),
        applied=2,
    ),
    Example(
        "a batch norm that is still there",
        graph(
            """first = Conv(input, W, a)
               bn = BatchNormalization(first, gamma, beta, mean, var)
               output = Conv(bn, V)""",
            {**_WEIGHTS, **_NORM},
        ),
        applied=2,
    ),
    Example(
        "an activation between, as between 1×7 and 7×1",
        graph("first = Conv(input, W)\n relu = Relu(first)\n output = Conv(relu, V)", _WEIGHTS),
        applied=0,
    ),
    Example(
        "a separable convolution",
        graph(
            _pair("Conv<group: int = 4, pads: ints = [1, 1, 1, 1]>(input, D)", "Conv(first, E)"),
            _WEIGHTS,
        ),
        applied=0,
        refused="a separable convolution with 'output': such cost more when composed",
    ),
    Example(
        "a separable convolution, the other way round",
        graph(
            _pair("Conv(input, E)", "Conv<group: int = 8>(first, F)"),
            {**_WEIGHTS, "F": (8, 1, 3, 3)},
        ),
        applied=0,
        refused="a separable convolution with 'output'",
    ),
    Example(
        "a bottleneck",
        graph(
            _pair("Conv(input, N)", "Conv<pads: ints = [1, 1, 1, 1]>(first, O)"),
            {"N": (1, 4, 1, 1), "O": (4, 1, 3, 3)},
        ),
        applied=0,
        refused="with 'output' it would take 5184 multiply-adds instead of 1440",
    ),
    Example(
        "1×3, then 3×1",
        graph(
            _pair("Conv(input, B)", "Conv(first, H)"),
            {"B": (4, 4, 1, 3), "H": (4, 4, 3, 1)},
        ),
        applied=0,
        refused="neither it nor 'output' is a 1×1 convolution",
    ),
    Example(
        "1×1 with a bias, then 3×3 padded",
        graph(_pair("Conv(input, P, a)", "Conv<pads: ints = [1, 1, 1, 1]>(first, Q)"), _WEIGHTS),
        applied=0,
        refused="'output' pads with zeros, where its own bias would have to stand",
    ),
    Example(
        "1×1 with a stride, then 3×3",
        graph(_pair("Conv<strides: ints = [2, 2]>(input, P)", "Conv(first, Q)"), _WEIGHTS),
        applied=0,
        refused="it has a stride",
    ),
    Example(
        "3×3, then 1×1 padded",
        graph(_pair("Conv(input, W)", "Conv<pads: ints = [1, 1, 1, 1]>(first, V)"), _WEIGHTS),
        applied=0,
        refused="neither it nor 'output' is a 1×1 convolution",
    ),
    Example(
        "padding named, not counted, then a stride",
        graph(
            _pair(
                'Conv<auto_pad: string = "SAME_LOWER">(input, W)',
                "Conv<strides: ints = [2, 2]>(first, V)",
            ),
            _WEIGHTS,
        ),
        applied=0,
        refused="its padding is named",
    ),
    Example(
        "the first one's output leaves the graph",
        graph(_pair(_PADDED, "Conv(first, V)"), _WEIGHTS, outputs=("output", "first")),
        applied=0,
        refused="its output is an output of the graph or of a block",
    ),
    Example(
        "the first one's output is used elsewhere",
        graph(
            f"""first = {_PADDED}
                second = Conv(first, V)
                output = Concat<axis: int = 1>(first, second)""",
            _WEIGHTS,
        ),
        applied=0,
        refused="its output is used by 'output' too",
    ),
    Example(
        "a batch norm that conv_bn refuses",
        graph(
            """first = Conv(input, W, a)
               bn = BatchNormalization(first, gamma, beta, mean, var)
               output = Conv(bn, V)""",
            {**_WEIGHTS, **_NORM},
            outputs=("output", "first"),
        ),
        applied=0,
        refused="the convolution's output is an output of the graph or of a block",
    ),
    Example(
        "shared weights",
        graph(
            f"""first = {_PADDED}
                second = Conv(first, V)
                other = Conv<pads: ints = [1, 1, 1, 1]>(input, W)
                output = Concat<axis: int = 1>(second, other)""",
            _WEIGHTS,
        ),
        applied=0,
        refused="the weights of 'first' are shared with 'other'",
    ),
    Example(
        "weights computed at run time",
        graph(f"U = Abs(V)\n{_pair(_PADDED, 'Conv(first, U)')}", _WEIGHTS),
        applied=0,
        refused="'U' of 'output' is not constant",
    ),
    Example(
        "an image of any size",
        graph(_pair(_PADDED, "Conv(first, V)"), _WEIGHTS, shape="batch, 4, height, width"),
        applied=0,
        refused="only known at run time",
    ),
    Example(
        "float64",
        graph(
            _pair("Conv(input, W)", "Conv(first, V)"),
            {"W": np.ones((8, 4, 3, 3)), "V": np.ones((2, 8, 1, 1))},
            dtype="double",
        ),
        applied=0,
        refused="is float64, not float32",
    ),
    Example(
        "weights beyond float32 when composed",
        graph(
            _pair("Conv(input, W)", "Conv(first, V)"),
            {
                "W": np.full((8, 4, 3, 3), 1e30, np.float32),
                "V": np.full((2, 8, 1, 1), 1e30, np.float32),
            },
        ),
        applied=0,
        refused="do not fit into float32",
    ),
)

FUSIONS = (LinearChain(),)
