"""Conv → BatchNormalization becomes one Conv.

In inference mode a batch norm is affine per channel, and a convolution is linear:

    BN(W * x + b) = γ · (W * x + b − μ) / √(σ² + ε) + β
                  = (g · W) * x + (g · (b − μ) + β)        with  g = γ / √(σ² + ε)

where g scales the output channels, the first axis of W; groups and depthwise convolutions have the
same first axis, so nothing changes for them. A convolution without bias has b = 0. The folded
weights are computed in float64 and rounded to float32 once.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import onnx_graphsurgeon as gs

from inception_deploy.fusions._examples import Weights, graph
from inception_deploy.fusions._linear import Float64Array, bias_of, scaled_filters, set_bias
from inception_deploy.fusions.base import Example, Fusion, Phase
from inception_deploy.graphs import (
    absorb,
    fits_float32,
    is_constant,
    is_op,
    map_constant,
    producer,
    used_elsewhere,
)
from inception_deploy.outline import read
from inception_deploy.proof import FP32_BOUND

__all__ = ["FUSIONS", "ConvBatchNorm"]


class ConvBatchNorm(Fusion):
    """Folds a batch norm into the convolution before it; the node keeps the convolution's name."""

    name = "conv_bn"
    phase = Phase.FOLD
    bound = FP32_BOUND

    @property
    def examples(self) -> tuple[Example, ...]:
        return _EXAMPLES

    def match(self, graph: gs.Graph) -> Iterator[gs.Node]:
        for node in graph.nodes:
            if is_op(node, "BatchNormalization"):
                before = producer(node.inputs[0])
                if before is not None and is_op(before, "Conv"):
                    yield node

    def check(self, graph: gs.Graph, anchor: gs.Node) -> str | None:
        conv = anchor.inputs[0].inputs[0]
        if anchor.attrs.get("training_mode", 0) or len(anchor.outputs) > 1:
            return "batch norm is in training mode: its statistics come from the batch"
        if reason := used_elsewhere(graph, conv.outputs[0], anchor):
            return f"the convolution's output {reason}"
        for what, node in (("convolution", conv), ("batch norm", anchor)):
            for tensor in node.inputs[1:]:
                if not is_constant(tensor) and not tensor.is_empty():
                    return f"'{tensor.name}' of the {what} is not constant"
                if is_constant(tensor) and tensor.dtype != np.float32:
                    return f"'{tensor.name}' of the {what} is {tensor.dtype}, not float32"
        sharers = [node for node in conv.inputs[1].outputs if node is not conv]
        if sharers:
            return f"the weights are shared with '{sharers[0].name}'"
        factors, bias = _affine(conv, anchor)
        weights = scaled_filters(read(conv.inputs[1]), factors)
        if not fits_float32(weights) or not fits_float32(bias):
            return "the folded weights do not fit into float32"
        return None

    def rewrite(self, graph: gs.Graph, anchor: gs.Node) -> str:
        conv = anchor.inputs[0].inputs[0]
        factors, bias = _affine(conv, anchor)
        map_constant(conv, 1, partial(scaled_filters, factors=factors))
        set_bias(graph, conv, bias)
        absorb(conv, anchor)
        return f"into '{conv.name}', {len(bias)} channels"


def _affine(conv: gs.Node, norm: gs.Node) -> tuple[Float64Array, Float64Array]:
    """g, and the bias of the convolution that does both."""
    gamma, beta, mean, variance = (t.values.astype(np.float64) for t in norm.inputs[1:5])
    bias = bias_of(conv, len(gamma))
    with np.errstate(all="ignore"):  # a zero or negative variance shows in the result
        g = gamma / np.sqrt(variance + norm.attrs.get("epsilon", 1e-5))
        return g, g * (bias - mean) + beta


_NORM: Weights = {"gamma": (8,), "beta": (8,), "mean": (8,), "var": (8,)}
_PLAIN: Weights = {"W": (8, 4, 3, 3), **_NORM}
_BN = "BatchNormalization<epsilon: float = 0.001>"

_EXAMPLES = (
    Example(
        "without bias",
        graph(
            f"""conv = Conv<pads: ints = [1, 1, 1, 1]>(input, W)
                bn = {_BN}(conv, gamma, beta, mean, var)
                output = Relu(bn)""",
            _PLAIN,
        ),
        applied=1,
    ),
    Example(
        "with bias, its output leaving the graph",
        graph(
            f"""conv = Conv<strides: ints = [2, 2]>(input, W, b)
                output = {_BN}(conv, gamma, beta, mean, var)""",
            {**_PLAIN, "b": (8,)},
        ),
        applied=1,
    ),
    Example(
        "depthwise, two channels out of each one",
        graph(
            f"""conv = Conv<group: int = 4>(input, W)
                output = {_BN}(conv, gamma, beta, mean, var)""",
            {**_PLAIN, "W": (8, 1, 3, 3)},
        ),
        applied=1,
    ),
    Example(
        "two groups",
        graph(
            f"""conv = Conv<group: int = 2>(input, W, b)
                output = {_BN}(conv, gamma, beta, mean, var)""",
            {**_PLAIN, "W": (8, 2, 1, 1), "b": (8,)},
        ),
        applied=1,
    ),
    Example(
        "two batch norms in a row",
        graph(
            f"""conv = Conv(input, W)
                first = {_BN}(conv, gamma, beta, mean, var)
                output = {_BN}(first, gamma, beta, mean, var)""",
            _PLAIN,
        ),
        applied=2,
    ),
    Example(
        "a bias that another convolution uses too",
        graph(
            f"""conv = Conv(input, W, b)
                bn = {_BN}(conv, gamma, beta, mean, var)
                other = Conv(input, V, b)
                output = Add(bn, other)""",
            {**_PLAIN, "V": (8, 4, 3, 3), "b": (8,)},
        ),
        applied=1,
    ),
    Example(
        "a parallel branch over one input",
        graph(
            f"""left = Conv(input, W)
                left_bn = {_BN}(left, gamma, beta, mean, var)
                right = Conv(input, V)
                right_bn = {_BN}(right, gamma, beta, mean, var)
                output = Concat<axis: int = 1>(left_bn, right_bn)""",
            {**_PLAIN, "V": (8, 4, 3, 3)},
        ),
        applied=2,
    ),
    Example(
        "no convolution before",
        graph(
            f"""conv = Conv(input, W)
                relu = Relu(conv)
                output = {_BN}(relu, gamma, beta, mean, var)""",
            _PLAIN,
        ),
        applied=0,
    ),
    Example(
        "the convolution's output leaves the graph",
        graph(
            f"""conv = Conv(input, W)
                output = {_BN}(conv, gamma, beta, mean, var)""",
            _PLAIN,
            outputs=("output", "conv"),
        ),
        applied=0,
        refused="is an output of the graph or of a block",
    ),
    Example(
        "the convolution's output is used before the batch norm",
        graph(
            f"""conv = Conv(input, W)
                bn = {_BN}(conv, gamma, beta, mean, var)
                output = Add(bn, conv)""",
            _PLAIN,
        ),
        applied=0,
        refused="is used by 'output' too",
    ),
    Example(
        "shared weights",
        graph(
            f"""conv = Conv(input, W)
                bn = {_BN}(conv, gamma, beta, mean, var)
                other = Conv(input, W)
                output = Add(bn, other)""",
            _PLAIN,
        ),
        applied=0,
        refused="the weights are shared with 'other'",
    ),
    Example(
        "weights computed at run time",
        graph(
            f"""halved = Mul(W, half)
                conv = Conv(input, halved)
                output = {_BN}(conv, gamma, beta, mean, var)""",
            {**_PLAIN, "half": np.array(0.5, np.float32)},
        ),
        applied=0,
        refused="'halved' of the convolution is not constant",
    ),
    Example(
        "statistics computed at run time",
        graph(
            f"""conv = Conv(input, W)
                positive = Abs(gamma)
                output = {_BN}(conv, positive, beta, mean, var)""",
            _PLAIN,
        ),
        applied=0,
        refused="'positive' of the batch norm is not constant",
    ),
    Example(
        "training mode",
        graph(
            """conv = Conv(input, W)
               output, new_mean, new_var = BatchNormalization<training_mode: int = 1>(
                   conv, gamma, beta, mean, var)""",
            _PLAIN,
        ),
        applied=0,
        refused="training mode",
    ),
    Example(
        "float64",
        graph(
            f"""conv = Conv(input, W)
                output = {_BN}(conv, gamma, beta, mean, var)""",
            {
                "W": np.full((8, 4, 1, 1), 0.1),
                **{name: np.linspace(0.5, 1.5, 8) for name in _NORM},
            },
            dtype="double",
        ),
        applied=0,
        refused="is float64, not float32",
    ),
    Example(
        "weights beyond float32 after folding",
        graph(
            """conv = Conv(input, W)
               output = BatchNormalization<epsilon: float = 1e-12>(conv, gamma, beta, mean, var)""",
            {
                **_PLAIN,
                "gamma": np.full(8, 1e38, np.float32),
                "var": np.full(8, 1e-10, np.float32),
                "W": np.full((8, 4, 3, 3), 1e-4, np.float32),
            },
        ),
        applied=0,
        refused="do not fit into float32",
    ),
)

FUSIONS = (ConvBatchNorm(),)
