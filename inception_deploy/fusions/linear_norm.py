"""Gemm → BatchNormalization becomes one Gemm.

A batch norm of vectors (N, C) is affine per column, like one of images per channel, and a matrix
product is linear:

    BN(α · x B + β' · c) = α · x (B · g) + (g · (β' · c − μ) + β)    with  g = γ / √(σ² + ε)

where g scales the columns of B, which are the rows of the stored matrix for transB=1. Afterwards
β' is 1. Inception-ResNet-v1 ends so: the embedding's linear layer has no bias, its batch norm has.
The folded weights are computed in float64 and rounded to float32 once.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from inception_deploy.fusions._examples import Weights, graph
from inception_deploy.fusions._linear import (
    Float64Array,
    channel_affine,
    constants_problem,
    norm_problem,
    set_bias,
    sharing_problem,
)
from inception_deploy.fusions.base import Example, Fusion, Phase
from inception_deploy.graphs import (
    absorb,
    fits_float32,
    is_op,
    producer,
    replace_constant,
    used_elsewhere,
)
from inception_deploy.proof import FP32_BOUND

__all__ = ["FUSIONS", "LinearNorm"]


class LinearNorm(Fusion):
    """Folds a batch norm into the linear layer before it; the node keeps the layer's name."""

    name = "linear_norm"
    phase = Phase.FOLD
    bound = FP32_BOUND

    @property
    def examples(self) -> tuple[Example, ...]:
        return _EXAMPLES

    def match(self, graph: gs.Graph) -> Iterator[gs.Node]:
        for node in graph.nodes:
            if is_op(node, "BatchNormalization"):
                before = producer(node.inputs[0])
                if before is not None and is_op(before, "Gemm"):
                    yield node

    def check(self, graph: gs.Graph, anchor: gs.Node) -> str | None:
        linear = anchor.inputs[0].inputs[0]
        if reason := used_elsewhere(graph, linear.outputs[0], anchor):
            return f"the output of '{linear.name}' {reason}"
        if reason := (norm_problem(anchor) or constants_problem(linear) or sharing_problem(linear)):
            return reason
        if len(linear.inputs) > 2 and not linear.inputs[2].is_empty():
            shape = linear.inputs[2].values.shape
            if len(shape) == 2 and shape[0] != 1:
                return f"'{linear.inputs[2].name}' of '{linear.name}' varies over the batch"
        if not all(map(fits_float32, _fold(linear, anchor))):
            return "the folded weights do not fit into float32"
        return None

    def rewrite(self, graph: gs.Graph, anchor: gs.Node) -> str:
        linear = anchor.inputs[0].inputs[0]
        weights, bias = _fold(linear, anchor)
        replace_constant(linear, 1, weights)
        set_bias(graph, linear, bias)
        linear.attrs.pop("beta", None)
        absorb(linear, anchor)
        return f"into '{linear.name}', {len(bias)} features"


def _fold(linear: gs.Node, norm: gs.Node) -> tuple[Float64Array, Float64Array]:
    """Matrix as stored, and bias (C,), of the linear layer that does both; may overflow to Inf."""
    g, shift = channel_affine(norm)
    weights = linear.inputs[1].values.astype(np.float64)
    bias = np.zeros(len(g))
    if len(linear.inputs) > 2 and not linear.inputs[2].is_empty():
        stored = linear.inputs[2].values.astype(np.float64) * linear.attrs.get("beta", 1.0)
        bias = np.broadcast_to(stored.reshape(-1), len(g))
    with np.errstate(all="ignore"):
        scaled = weights * (g[:, None] if linear.attrs.get("transB", 0) else g)
        return scaled, g * bias + shift


_NORM: Weights = {"gamma": (5,), "beta": (5,), "mean": (5,), "var": (5,)}
_PLAIN: Weights = {"W": (5, 4), "V": (4, 5), "c": (5,), **_NORM}
_BN = "BatchNormalization<epsilon: float = 0.001>(linear, gamma, beta, mean, var)"
_VECTORS = "batch, 4"


def _layer(gemm: str) -> str:
    return f"linear = {gemm}\n output = {_BN}"


_EXAMPLES = (
    Example(
        "an embedding without bias, stored transposed",
        graph(_layer("Gemm<transB: int = 1>(input, W)"), _PLAIN, shape=_VECTORS),
        applied=1,
    ),
    Example(
        "with a bias, not transposed",
        graph(_layer("Gemm(input, V, c)"), _PLAIN, shape=_VECTORS),
        applied=1,
    ),
    Example(
        "factors on both",
        graph(
            _layer("Gemm<alpha: float = 0.5, beta: float = 3.0, transB: int = 1>(input, W, c)"),
            {**_PLAIN, "c": (1, 5)},
            shape=_VECTORS,
        ),
        applied=1,
    ),
    Example(
        "one bias for all features, used elsewhere too",
        graph(
            _layer("Gemm(input, V, c)").replace("output", "normed") + "\n output = Add(normed, c)",
            {**_PLAIN, "c": np.array(0.75, np.float32)},
            shape=_VECTORS,
        ),
        applied=1,
    ),
    Example(
        "two batch norms in a row",
        graph(
            _layer("Gemm(input, V)").replace("output", "normed")
            + f"\n output = {_BN.replace('linear', 'normed')}",
            _PLAIN,
            shape=_VECTORS,
        ),
        applied=2,
    ),
    Example(
        "an activation between",
        graph(
            f"before = Gemm(input, V)\n linear = Relu(before)\n output = {_BN}",
            _PLAIN,
            shape=_VECTORS,
        ),
        applied=0,
    ),
    Example(
        "the layer's output leaves the graph",
        graph(_layer("Gemm(input, V)"), _PLAIN, shape=_VECTORS, outputs=("output", "linear")),
        applied=0,
        refused="the output of 'linear' is an output of the graph or of a block",
    ),
    Example(
        "the layer's output is used before the batch norm",
        graph(
            _layer("Gemm(input, V)").replace("output", "normed")
            + "\n output = Add(normed, linear)",
            _PLAIN,
            shape=_VECTORS,
        ),
        applied=0,
        refused="the output of 'linear' is used by 'output' too",
    ),
    Example(
        "shared weights",
        graph(
            _layer("Gemm(input, V)").replace("output", "normed")
            + "\n other = Gemm(input, V)\n output = Add(normed, other)",
            _PLAIN,
            shape=_VECTORS,
        ),
        applied=0,
        refused="the weights of 'linear' are shared with 'other'",
    ),
    Example(
        "weights computed at run time",
        graph(
            _layer("Gemm(input, U)").replace("linear =", "U = Abs(V)\n linear =", 1),
            _PLAIN,
            shape=_VECTORS,
        ),
        applied=0,
        refused="'U' of 'linear' is not constant",
    ),
    Example(
        "a bias for each image",
        graph(_layer("Gemm(input, V, c)"), {**_PLAIN, "c": (3, 5)}, shape="3, 4"),
        applied=0,
        refused="'c' of 'linear' varies over the batch",
    ),
    Example(
        "training mode",
        graph(
            """linear = Gemm(input, V)
               output, new_mean, new_var = BatchNormalization<training_mode: int = 1>(
                   linear, gamma, beta, mean, var)""",
            _PLAIN,
            shape=_VECTORS,
        ),
        applied=0,
        refused="'output' is in training mode",
    ),
    Example(
        "float64",
        graph(
            _layer("Gemm(input, V)"),
            {"V": np.ones((4, 5)), **{name: np.linspace(0.5, 1.5, 5) for name in _NORM}},
            shape=_VECTORS,
            dtype="double",
        ),
        applied=0,
        refused="is float64, not float32",
    ),
    Example(
        "weights beyond float32 after folding",
        graph(
            _layer("Gemm(input, V)"),
            {
                **_PLAIN,
                "gamma": np.full(5, 1e38, np.float32),
                "V": np.full((4, 5), 1e3, np.float32),
            },
            shape=_VECTORS,
        ),
        applied=0,
        refused="do not fit into float32",
    ),
)

FUSIONS = (LinearNorm(),)
