"""BatchNormalization → Conv becomes one Conv.

A batch norm computes g·x + t per channel, with g = γ / √(σ² + ε) and t = β − g·μ. A convolution
that sees nothing but such values, because it does not pad, takes both in:

    W * (g·x + t) + b = (W · g) * x + (b + Σ W · t)

where g and t lie along the input channels, the second axis of W (within its group), and the sum
runs over input channels and kernel. InceptionNeXt norms its token mixer, which ends in a
concatenation, in front of a 1×1 convolution, and its stages in front of a 2×2 one; neither pads.

A convolution that pads puts zeros around g·x + t. Around x these would have to be −t/g, another
number for each channel, so that the border would be wrong. And where an activation stands between,
as in pre-activation Xceptions, nothing commutes: Relu(g·x + t) ≠ g·Relu(x) + t.

A batch norm that `conv_bn` can fold backwards is left to it. New weights are computed in float64
and rounded to float32 once.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import onnx_graphsurgeon as gs

from inception_deploy.fusions._examples import Weights, graph
from inception_deploy.fusions._linear import (
    Float64Array,
    bias_of,
    channel_affine,
    constants_problem,
    is_padded,
    norm_problem,
    scaled_filters,
    set_bias,
    sharing_problem,
)
from inception_deploy.fusions.base import Example, Fusion, Phase
from inception_deploy.fusions.conv_bn import ConvBatchNorm
from inception_deploy.graphs import fits_float32, is_op, is_output, map_constant, producer
from inception_deploy.outline import read
from inception_deploy.proof import FP32_BOUND

__all__ = ["FUSIONS", "NormForward"]

_BACKWARDS = ConvBatchNorm()


class NormForward(Fusion):
    """Folds a batch norm of images into all convolutions behind it; they keep their names."""

    name = "norm_forward"
    phase = Phase.FOLD
    bound = FP32_BOUND

    @property
    def examples(self) -> tuple[Example, ...]:
        return _EXAMPLES

    def match(self, graph: gs.Graph) -> Iterator[gs.Node]:
        for node in graph.nodes:
            if is_op(node, "BatchNormalization") and len(node.inputs[0].shape) > 2:
                before = producer(node.inputs[0])
                convolved = before is not None and is_op(before, "Conv")
                if not convolved or _BACKWARDS.check(graph, node) is not None:
                    yield node

    def check(self, graph: gs.Graph, anchor: gs.Node) -> str | None:
        if reason := norm_problem(anchor):
            return reason
        normed = anchor.outputs[0]
        if is_output(graph, normed):
            return "its output is an output of the graph or of a block"
        affine = channel_affine(anchor)
        for user in normed.outputs:
            if not is_op(user, "Conv") or user.inputs[0] is not normed:
                return f"its output goes into '{user.name}', a {user.op}: it does not commute"
            if is_padded(user):
                return (
                    f"'{user.name}' pads with zeros, which stand for other values in front of "
                    "the batch norm than behind it"
                )
            if reason := constants_problem(user) or sharing_problem(user):
                return reason
            factors, bias = _affine(user, *affine)
            weights = scaled_filters(read(user.inputs[1]), factors)
            if not fits_float32(weights) or not fits_float32(bias):
                return f"the folded weights of '{user.name}' do not fit into float32"
        return None

    def rewrite(self, graph: gs.Graph, anchor: gs.Node) -> str:
        affine = channel_affine(anchor)
        convs = list(anchor.outputs[0].outputs)
        for conv in convs:
            factors, bias = _affine(conv, *affine)
            map_constant(conv, 1, partial(scaled_filters, factors=factors))
            set_bias(graph, conv, bias)
            conv.inputs[0] = anchor.inputs[0]
        anchor.inputs.clear()
        anchor.outputs.clear()
        names = ", ".join(f"'{conv.name}'" for conv in convs)
        return f"into {names}, {len(affine[0])} channels"


def _affine(conv: gs.Node, g: Float64Array, t: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Factors of the weights (filters, width), and the bias of the convolution that does both."""
    weights = read(conv.inputs[1])
    filters, width = weights.shape[:2]
    groups = conv.attrs.get("group", 1)

    def spread(values: Float64Array) -> Float64Array:
        """One value per input channel → one per filter and the channels it sees."""
        return values.reshape(groups, width).repeat(filters // groups, axis=0)

    with np.errstate(all="ignore"):
        windows = weights.sum(axis=tuple(range(2, weights.ndim)), dtype=np.float64)
        shift = (windows * spread(t)).sum(axis=1)
        return spread(g), bias_of(conv, filters) + shift


_NORM: Weights = {"gamma": (4,), "beta": (4,), "mean": (4,), "var": (4,)}
_PLAIN: Weights = {"W": (8, 4, 1, 1), "V": (6, 4, 2, 2), "D": (8, 1, 3, 3), "b": (8,), **_NORM}
_BN = "BatchNormalization<epsilon: float = 0.001>(input, gamma, beta, mean, var)"

_EXAMPLES = (
    Example(
        "InceptionNeXt's mixer norm",
        graph(
            """a, c = Split<axis: int = 1>(input, sizes)
               mixed = Relu(c)
               joined = Concat<axis: int = 1>(a, mixed)
               bn = BatchNormalization(joined, gamma, beta, mean, var)
               output = Conv(bn, W, b)""",
            {**_PLAIN, "sizes": np.array([1, 3])},
        ),
        applied=1,
    ),
    Example(
        "InceptionNeXt's downsampling, without bias",
        graph(f"bn = {_BN}\n output = Conv<strides: ints = [2, 2]>(bn, V)", _PLAIN),
        applied=1,
    ),
    Example(
        "into a depthwise convolution that does not pad",
        graph(f"bn = {_BN}\n output = Conv<group: int = 4>(bn, D, b)", _PLAIN),
        applied=1,
    ),
    Example(
        "into two groups",
        graph(
            f"bn = {_BN}\n output = Conv<group: int = 2, dilations: ints = [2, 2]>(bn, W)",
            {**_PLAIN, "W": (8, 2, 3, 3)},
        ),
        applied=1,
    ),
    Example(
        "into two convolutions that share their bias",
        graph(
            f"""bn = {_BN}
                left = Conv(bn, W, b)
                right = Conv<auto_pad: string = "VALID">(bn, U, b)
                output = Add(left, right)""",
            {**_PLAIN, "U": (8, 4, 1, 1)},
        ),
        applied=1,
    ),
    Example(
        "two batch norms in a row",
        graph(
            f"""first = {_BN}
                second = {_BN.replace("input", "first")}
                output = Conv(second, W, b)""",
            _PLAIN,
        ),
        applied=2,
    ),
    Example(
        "after a convolution that others use too",
        graph(
            f"""conv = Conv(input, U)
                bn = {_BN.replace("input", "conv")}
                next = Conv(bn, W)
                output = Concat<axis: int = 1>(next, conv)""",
            {**_PLAIN, "U": (4, 4, 1, 1)},
        ),
        applied=1,
    ),
    Example(
        "conv_bn folds it backwards",
        graph(
            f"""conv = Conv(input, U)
                bn = {_BN.replace("input", "conv")}
                output = Conv(bn, W)""",
            {**_PLAIN, "U": (4, 4, 1, 1)},
        ),
        applied=0,
    ),
    Example(
        "an embedding's norm, of vectors",
        graph(
            f"output = {_BN}",
            _PLAIN,
            shape="batch, 4",
        ),
        applied=0,
    ),
    Example(
        "pre-activation: an activation between",
        graph(f"bn = {_BN}\n relu = Relu(bn)\n output = Conv(relu, W)", _PLAIN),
        applied=0,
        refused="its output goes into 'relu', a Relu",
    ),
    Example(
        "a convolution that pads",
        graph(
            f"bn = {_BN}\n output = Conv<group: int = 4, pads: ints = [1, 1, 1, 1]>(bn, D)", _PLAIN
        ),
        applied=0,
        refused="'output' pads with zeros",
    ),
    Example(
        "padding named, not counted",
        graph(f'bn = {_BN}\n output = Conv<auto_pad: string = "SAME_UPPER">(bn, V)', _PLAIN),
        applied=0,
        refused="'output' pads with zeros",
    ),
    Example(
        "one of two consumers is no convolution",
        graph(
            f"bn = {_BN}\n conv = Conv(bn, U)\n output = Add(conv, bn)",
            {**_PLAIN, "U": (4, 4, 1, 1)},
        ),
        applied=0,
        refused="its output goes into 'output', a Add",
    ),
    Example(
        "its output leaves the graph",
        graph(f"bn = {_BN}\n output = Conv(bn, W)", _PLAIN, outputs=("output", "bn")),
        applied=0,
        refused="is an output of the graph or of a block",
    ),
    Example(
        "it is the filter",
        graph(
            "bn = BatchNormalization(filter, gamma, beta, mean, var)\n output = Conv(input, bn)",
            {**_PLAIN, "filter": (3, 4, 1, 1)},
        ),
        applied=0,
        refused="its output goes into 'output', a Conv",
    ),
    Example(
        "shared weights",
        graph(
            f"bn = {_BN}\n conv = Conv(bn, W)\n other = Conv(input, W)\n output = Add(conv, other)",
            _PLAIN,
        ),
        applied=0,
        refused="the weights of 'conv' are shared with 'other'",
    ),
    Example(
        "weights computed at run time",
        graph(f"bn = {_BN}\n U = Abs(W)\n output = Conv(bn, U)", _PLAIN),
        applied=0,
        refused="'U' of 'output' is not constant",
    ),
    Example(
        "statistics computed at run time",
        graph(
            f"""positive = Abs(gamma)
                bn = {_BN.replace("gamma", "positive")}
                output = Conv(bn, W)""",
            _PLAIN,
        ),
        applied=0,
        refused="'positive' of 'bn' is not constant",
    ),
    Example(
        "training mode",
        graph(
            """bn, new_mean, new_var = BatchNormalization<training_mode: int = 1>(
                   input, gamma, beta, mean, var)
               output = Conv(bn, W)""",
            _PLAIN,
        ),
        applied=0,
        refused="'bn' is in training mode",
    ),
    Example(
        "float64",
        graph(
            f"bn = {_BN}\n output = Conv(bn, W)",
            {"W": np.ones((8, 4, 1, 1)), **{name: np.linspace(0.5, 1.5, 4) for name in _NORM}},
            dtype="double",
        ),
        applied=0,
        refused="is float64, not float32",
    ),
    Example(
        "weights beyond float32 after folding",
        graph(
            f"bn = {_BN}\n output = Conv(bn, W)",
            {
                **_PLAIN,
                "gamma": np.full(4, 1e38, np.float32),
                "W": np.full((8, 4, 1, 1), 1e3, np.float32),
            },
        ),
        applied=0,
        refused="do not fit into float32",
    ),
)

FUSIONS = (NormForward(),)
