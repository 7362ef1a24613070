"""A 1×1 convolution on a pooled map, then flattened, is Flatten → Gemm.

TF-slim writes its logits as a convolution on the (N, C, 1, 1) map behind the global pool. On a
single pixel

    Flatten(W * x + b)[n, k] = Σ_c W[k, c, 0, 0] · x[n, c, 0, 0] + b[k]
                             = Gemm(Flatten(x), W, b; transB = 1)[n, k]

The same numbers in the same order: (K, C, 1, 1) and (K, C) differ in shape only.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from inception_deploy.fusions._examples import Weights, graph
from inception_deploy.fusions._shapes import extents, flattens
from inception_deploy.fusions.base import Example, Fusion, Phase
from inception_deploy.graphs import (
    fresh_name,
    is_constant,
    is_op,
    producer,
    replace_constant,
    used_elsewhere,
)
from inception_deploy.proof import FP32_BOUND

__all__ = ["FUSIONS", "ConvGemm"]


class ConvGemm(Fusion):
    """Swaps a convolution on one pixel with the flattening behind it, as a `Gemm`."""

    name = "conv_gemm"
    phase = Phase.CANONICAL
    bound = FP32_BOUND

    @property
    def examples(self) -> tuple[Example, ...]:
        return _EXAMPLES

    def match(self, graph: gs.Graph) -> Iterator[gs.Node]:
        for node in graph.nodes:
            conv = producer(node.inputs[0]) if flattens(node) else None
            if conv is None or not is_op(conv, "Conv"):
                continue
            if (extents(conv.inputs[0]) or [])[2:] == [1, 1]:
                yield node

    def check(self, graph: gs.Graph, anchor: gs.Node) -> str | None:
        conv = anchor.inputs[0].inputs[0]
        if reason := used_elsewhere(graph, conv.outputs[0], anchor):
            return f"the output of '{conv.name}' {reason}"
        weights = conv.inputs[1]
        if not is_constant(weights):
            return f"'{conv.inputs[1].name}' of '{conv.name}' is not constant"
        if conv.attrs.get("group", 1) != 1:
            return f"'{conv.name}' has {conv.attrs['group']} groups"
        if tuple(weights.shape[2:]) != (1, 1):
            return f"the window of '{conv.name}' is {weights.shape[2]}×{weights.shape[3]}, not 1×1"
        if any(conv.attrs.get("pads", [0])):
            return f"'{conv.name}' pads the map"
        sharers = [user for user in conv.inputs[1].outputs if user is not conv]
        if sharers:
            return f"'{conv.inputs[1].name}' is shared with '{sharers[0].name}'"
        return None

    def rewrite(self, graph: gs.Graph, anchor: gs.Node) -> str:
        conv = anchor.inputs[0].inputs[0]
        source, result = conv.inputs[0], anchor.outputs[0]
        name = fresh_name(graph, f"{source.name}:flat")
        flat = gs.Variable(name, source.dtype, (extents(source) or [])[:2])
        anchor.op, anchor.attrs = "Flatten", {"axis": 1}
        anchor.inputs, anchor.outputs = [source], [flat]
        weights = conv.inputs[1].values
        replace_constant(conv, 1, weights.reshape(weights.shape[:2]))
        conv.op, conv.attrs, conv.outputs = "Gemm", {"transB": 1}, [result]
        conv.inputs[0] = flat
        return f"'{conv.name}' from Conv"


_WEIGHTS: Weights = {
    "W": (5, 4, 1, 1),
    "b": (5,),
    "V": (5, 5, 1, 1),
    "spatial": np.array([2, 3]),
    "two": np.array([0, -1]),
}


def _head(conv: str = "Conv(pool, W, b)", flat: str = "Squeeze(conv, spatial)") -> str:
    return f"pool = GlobalAveragePool(input)\n conv = {conv}\n output = {flat}"


_EXAMPLES = (
    Example("squeezed", graph(_head(), _WEIGHTS), applied=1),
    Example(
        "reshaped, without bias", graph(_head("Conv(pool, W)", "Reshape(conv, two)"), _WEIGHTS), 1
    ),
    Example("flattened", graph(_head(flat="Flatten(conv)"), _WEIGHTS), applied=1),
    Example(
        "probabilities behind",
        graph(
            f"{_head()}\n answer = Softmax(output)",
            _WEIGHTS,
            outputs=("output", "answer"),
        ),
        applied=1,
    ),
    Example(
        "on a map of more than a pixel",
        graph("conv = Conv(input, W, b)\n output = Flatten(conv)", _WEIGHTS),
        applied=0,
    ),
    Example(
        "an activation between",
        graph(
            _head(flat="Flatten(relu)").replace("output =", "relu = Relu(conv)\n output ="),
            _WEIGHTS,
        ),
        applied=0,
    ),
    Example(
        "the map leaves the graph too",
        graph(_head(), _WEIGHTS, outputs=("output", "conv")),
        applied=0,
        refused="the output of 'conv' is an output of the graph or of a block",
    ),
    Example(
        "flattened twice",
        graph(
            _head(flat="Add(left, right)").replace(
                "output =", "left = Flatten(conv)\n right = Squeeze(conv, spatial)\n output ="
            ),
            _WEIGHTS,
        ),
        applied=0,
        refused="the output of 'conv' is used by",
    ),
    Example(
        "a window that reaches beyond",
        graph(
            _head("Conv<pads: ints = [1, 1, 1, 1]>(pool, wide, b)"),
            {**_WEIGHTS, "wide": (5, 4, 3, 3)},
        ),
        applied=0,
        refused="the window of 'conv' is 3×3, not 1×1",
    ),
    Example(
        "a stride over the padding",
        graph(
            _head("Conv<pads: ints = [1, 1, 0, 0], strides: ints = [2, 2]>(pool, W, b)"), _WEIGHTS
        ),
        applied=0,
        refused="'conv' pads the map",
    ),
    Example(
        "groups",
        graph(_head("Conv<group: int = 2>(pool, pairs)"), {**_WEIGHTS, "pairs": (6, 2, 1, 1)}),
        applied=0,
        refused="'conv' has 2 groups",
    ),
    Example(
        "shared weights",
        graph(
            _head().replace("conv =", "other = Conv(input, W)\n conv =") + "\n rest = Relu(other)",
            _WEIGHTS,
            outputs=("output", "rest"),
        ),
        applied=0,
        refused="'W' is shared with 'other'",
    ),
    Example(
        "weights computed at run time",
        graph(_head("Conv(pool, U)").replace("conv =", "U = Abs(W)\n conv ="), _WEIGHTS),
        applied=0,
        refused="'U' of 'conv' is not constant",
    ),
)

FUSIONS = (ConvGemm(),)
