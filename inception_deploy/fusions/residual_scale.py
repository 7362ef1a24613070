"""The scale of a residual branch goes into the branch's last convolution.

Inception-ResNet scales a residual before adding it (arXiv 1602.07261, section 3.3):

    x + s · (W * y + b) = x + ((s · W) * y + s · b)

with a scalar s, or one s per output channel, the first axis of W: InceptionNeXt's layer scale γ
behind its second 1×1 convolution, and Keras' CustomScaleLayer, are of this form too. A batch norm
that is still there takes the scale in the same way, γ and β in place of W and b, so that folding
batch norms before or after makes no difference. Division is multiplication by 1/s; a scale of
exactly 1 just goes. The scaled weights are computed in float64 and rounded to float32 once.

Who else uses the scaled branch does not matter: it keeps its name and its values.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import onnx_graphsurgeon as gs

from inception_deploy.fusions._examples import Weights, graph
from inception_deploy.fusions._linear import Float64Array, scaled_filters
from inception_deploy.fusions.base import Example, Fusion, Phase
from inception_deploy.graphs import (
    absorb,
    constant_values,
    fits_float32,
    is_constant,
    is_op,
    map_constant,
    producer,
    used_elsewhere,
)
from inception_deploy.outline import read
from inception_deploy.proof import FP32_BOUND

__all__ = ["FUSIONS", "ResidualScale"]


class ResidualScale(Fusion):
    """Folds `Mul` or `Div` between a convolution or batch norm and an `Add` into the former."""

    name = "residual_scale"
    phase = Phase.FOLD
    bound = FP32_BOUND

    @property
    def examples(self) -> tuple[Example, ...]:
        return _EXAMPLES

    def match(self, graph: gs.Graph) -> Iterator[gs.Node]:
        for node in graph.nodes:
            if (
                is_op(node, "Mul", "Div")
                and _branch(node) is not None
                and any(is_op(user, "Add") for user in node.outputs[0].outputs)
            ):
                yield node

    def check(self, graph: gs.Graph, anchor: gs.Node) -> str | None:
        linear, tensor = _linear(anchor)
        if reason := used_elsewhere(graph, linear.outputs[0], anchor):
            return f"the output of '{linear.name}' {reason}"
        if len(linear.outputs) > 1:
            return f"'{linear.name}' is a batch norm in training mode"
        values = constant_values(tensor)
        if values is None:
            return f"the scale '{tensor.name}' is not constant"
        if values.dtype != np.float32:
            return f"the scale '{tensor.name}' is {values.dtype}, not float32"
        if reason := _spread(values.shape, linear.outputs[0].shape):
            return f"the scale '{tensor.name}' {reason}"
        scale = _scale(anchor)
        if (scale == 1.0).all():
            return None
        for weight in _weights(linear):
            if not is_constant(weight):
                return f"'{weight.name}' of '{linear.name}' is not constant"
            sharers = [node for node in weight.outputs if node is not linear]
            if sharers:
                return f"'{weight.name}' is shared with '{sharers[0].name}'"
            if not fits_float32(scaled_filters(read(weight), scale)):
                return f"'{weight.name}' does not fit into float32 after scaling"
        return None

    def rewrite(self, graph: gs.Graph, anchor: gs.Node) -> str:
        linear, _ = _linear(anchor)
        scale = _scale(anchor)
        absorb_only = bool((scale == 1.0).all())
        if not absorb_only:
            for index, weight in enumerate(linear.inputs[1:3], start=1):
                if not weight.is_empty():
                    map_constant(linear, index, partial(scaled_filters, factors=scale))
        absorb(linear, anchor)
        if absorb_only:
            return f"a scale of 1 after '{linear.name}' removed"
        kind = f"{scale[0]:.6g}" if (scale == scale[0]).all() else f"{len(scale)} channels"
        return f"{kind} into '{linear.name}'"


def _branch(node: gs.Node) -> int | None:
    """Which input of a `Mul` or `Div` is the affine branch; None where neither is."""
    for index in (0, 1) if node.op == "Mul" else (0,):
        before = producer(node.inputs[index])
        if before is not None and is_op(before, "Conv", "BatchNormalization"):
            return index
    return None


def _linear(anchor: gs.Node) -> tuple[gs.Node, gs.Tensor]:
    """The affine node before `anchor`, and the tensor that scales it."""
    index = _branch(anchor)
    assert index is not None, f"'{anchor.name}' is no anchor"
    return anchor.inputs[index].inputs[0], anchor.inputs[1 - index]


def _weights(linear: gs.Node) -> list[gs.Tensor]:
    """W and b of a convolution, γ and β of a batch norm: what its output is linear in."""
    return [tensor for tensor in linear.inputs[1:3] if not tensor.is_empty()]


def _spread(scale: tuple[int, ...], branch: list[int | str]) -> str | None:
    """Why a scale of this shape is not one factor per channel of the branch (N, C, …)."""
    if len(scale) > len(branch):
        return "adds an axis to the branch"
    shape = (1,) * (len(branch) - len(scale)) + scale
    if any(extent != 1 for extent in shape[2:]):
        return "varies over height or width"
    if shape[0] != 1:
        return "varies over the batch"
    if shape[1] not in (1, branch[1]):
        return f"spreads {branch[1]} channel over {shape[1]}"
    return None


def _scale(anchor: gs.Node) -> Float64Array:
    """The factors, one for all channels or one for each, in float64."""
    _, tensor = _linear(anchor)
    values = tensor.values.astype(np.float64).reshape(-1)
    with np.errstate(divide="ignore"):  # the weights then do not fit, and are refused
        return np.asarray(1.0 / values if anchor.op == "Div" else values)


_CONV: Weights = {"W": (4, 4, 1, 1), "b": (4,), "s": np.array(0.17, np.float32)}


def _residual(scaled: str) -> str:
    return f"up = Conv(input, W, b)\n scaled = {scaled}\n output = Add(input, scaled)"


_EXAMPLES = (
    Example("scalar on the right", graph(_residual("Mul(up, s)"), _CONV), applied=1),
    Example("scalar on the left", graph(_residual("Mul(s, up)"), _CONV), applied=1),
    Example("divided", graph(_residual("Div(up, s)"), _CONV), applied=1),
    Example(
        "without bias, the residual on the left of the sum",
        graph(
            """up = Conv<pads: ints = [1, 1, 1, 1], group: int = 2>(input, W)
               scaled = Mul(up, s)
               output = Add(scaled, input)""",
            {"W": (4, 2, 3, 3), "s": np.array([0.1], np.float32)},
        ),
        applied=1,
    ),
    Example(
        "one scale per channel",
        graph(_residual("Mul(up, s)"), {**_CONV, "s": (4, 1, 1)}),
        applied=1,
    ),
    Example(
        "InceptionNeXt's layer scale",
        graph(
            """hidden = Conv(input, U, c)
               act = Gelu(hidden)
               up = Conv(act, V, b)
               scaled = Mul(up, s)
               output = Add(input, scaled)""",
            {"U": (8, 4, 1, 1), "c": (8,), "V": (4, 8, 1, 1), "b": (4,), "s": (4, 1, 1)},
        ),
        applied=1,
    ),
    Example(
        "one scale per channel, with a batch axis of one",
        graph(_residual("Div(up, s)"), {**_CONV, "s": np.full((1, 4, 1, 1), 3, np.float32)}),
        applied=1,
    ),
    Example(
        "a scale of 1, whoever shares the weights",
        graph(
            "other = Conv(input, W)\n"
            + _residual("Mul(up, s)").replace("input, scaled", "other, scaled"),
            {**_CONV, "s": np.ones((), np.float32)},
        ),
        applied=1,
    ),
    Example(
        "a scaled branch that leaves the graph and is added twice",
        graph(
            _residual("Mul(up, s)").replace("input, scaled", "scaled, scaled"),
            _CONV,
            outputs=("output", "scaled"),
        ),
        applied=1,
    ),
    Example(
        "a batch norm that is still there",
        graph(
            """up = Conv(input, W, b)
               bn = BatchNormalization(up, gamma, beta, mean, var)
               scaled = Mul(bn, s)
               output = Add(input, scaled)""",
            {**_CONV, "gamma": (4,), "beta": (4,), "mean": (4,), "var": (4,)},
        ),
        applied=1,
    ),
    Example(
        "two blocks",
        graph(
            """up = Conv(input, W, b)
               scaled = Mul(up, s)
               sum = Add(input, scaled)
               up2 = Conv(sum, V)
               scaled2 = Mul(up2, s)
               output = Add(sum, scaled2)""",
            {**_CONV, "V": (4, 4, 1, 1)},
        ),
        applied=2,
    ),
    Example(
        "no sum after",
        graph("up = Conv(input, W, b)\n output = Mul(up, s)", _CONV),
        applied=0,
    ),
    Example("divided by the branch", graph(_residual("Div(s, up)"), _CONV), applied=0),
    Example(
        "an activation between",
        graph(_residual("Mul(relu, s)").replace("scaled =", "relu = Relu(up)\n scaled ="), _CONV),
        applied=0,
    ),
    Example(
        "the branch is used unscaled",
        graph(_residual("Mul(up, s)").replace("input, scaled", "up, scaled"), _CONV),
        applied=0,
        refused="'up' is used by 'output' too",
    ),
    Example(
        "the unscaled branch leaves the graph",
        graph(_residual("Mul(up, s)"), _CONV, outputs=("output", "up")),
        applied=0,
        refused="'up' is an output of the graph or of a block",
    ),
    Example(
        "the branch gates itself",
        graph(_residual("Mul(up, up)"), _CONV),
        applied=0,
        refused="'up' is used twice",
    ),
    Example(
        "a gate computed at run time",
        graph(
            _residual("Mul(up, gate)").replace("scaled =", "gate = Sigmoid(input)\n scaled ="),
            _CONV,
        ),
        applied=0,
        refused="'gate' is not constant",
    ),
    Example(
        "a scale that varies over the image",
        graph(_residual("Mul(up, s)"), {**_CONV, "s": (1, 4, 6, 6)}),
        applied=0,
        refused="varies over height or width",
    ),
    Example(
        "a scale along the width, not the channels",
        graph(_residual("Mul(up, s)"), {**_CONV, "s": (6,)}),
        applied=0,
        refused="varies over height or width",
    ),
    Example(
        "a scale that varies over the batch",
        graph(
            _residual("Mul(up, s)"),
            {**_CONV, "s": (3, 1, 1, 1)},
            shape="3, 4, 6, 6",
        ),
        applied=0,
        refused="varies over the batch",
    ),
    Example(
        "a scale with more axes than the branch",
        graph(_residual("Mul(up, s)"), {**_CONV, "s": (1, 1, 1, 1, 1)}),
        applied=0,
        refused="adds an axis",
    ),
    Example(
        "a scale that spreads one channel over four",
        graph(_residual("Mul(up, s)"), {"W": (1, 4, 1, 1), "b": (1,), "s": (4, 1, 1)}),
        applied=0,
        refused="spreads 1 channel over 4",
    ),
    Example(
        "shared weights",
        graph(
            "other = Conv(input, W)\n"
            + _residual("Mul(up, s)").replace("input, scaled", "other, scaled"),
            _CONV,
        ),
        applied=0,
        refused="'W' is shared with 'other'",
    ),
    Example(
        "weights computed at run time",
        graph(
            _residual("Mul(up, s)").replace(
                "up = Conv(input, W", "V = Abs(W)\n up = Conv(input, V"
            ),
            _CONV,
        ),
        applied=0,
        refused="'V' of 'up' is not constant",
    ),
    Example(
        "a batch norm in training mode",
        graph(
            """up, new_mean, new_var = BatchNormalization<training_mode: int = 1>(
                   input, gamma, beta, mean, var)
               scaled = Mul(up, s)
               output = Add(input, scaled)""",
            {"s": _CONV["s"], "gamma": (4,), "beta": (4,), "mean": (4,), "var": (4,)},
        ),
        applied=0,
        refused="in training mode",
    ),
    Example(
        "division by zero",
        graph(_residual("Div(up, s)"), {**_CONV, "s": np.zeros((), np.float32)}),
        applied=0,
        refused="does not fit into float32",
    ),
    Example(
        "float64",
        graph(
            _residual("Mul(up, s)"),
            {"W": np.ones((4, 4, 1, 1)), "b": np.ones(4), "s": np.array(0.5)},
            dtype="double",
        ),
        applied=0,
        refused="is float64, not float32",
    ),
)

FUSIONS = (ResidualScale(),)
