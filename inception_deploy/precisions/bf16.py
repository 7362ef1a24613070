"""BF16: the exponents of float32 with eight bits of a mantissa, for weights and activations.

Nothing overflows that float32 holds, so no range is asked for. What sums squares or exponentials
stays FP32, as in FP16. ONNX knows bfloat16 convolutions from opset 22 on, and no CPU engine here
runs them: the proof is the graph that rounds every tensor as a device would store it
(`lowering/rounding.py`).
"""

from __future__ import annotations

import math

import onnx

from inception_deploy.artifact import Applied, Refused, opset_of
from inception_deploy.errors import StageError
from inception_deploy.lowering.retype import retype
from inception_deploy.lowering.schema import Slots, element_types, infer, slots
from inception_deploy.precisions._fp16_rules import KEPT
from inception_deploy.precisions._joining import joined
from inception_deploy.precisions._weights import fp32_graph
from inception_deploy.precisions.base import FP32_BOUND, Lowering, Precision
from inception_deploy.precisions.fp16 import CONFIDENCE, roundings
from inception_deploy.ranges import Ranges

__all__ = ["PRECISIONS", "Bf16"]

BFLOAT16 = onnx.TensorProto.BFLOAT16
STAGE = "lower/bf16"
UNIT = 2.0**-8
"""Unit roundoff of eight significant bits, seven of them stored."""

OPSET = 22
"""The first one whose convolutions and pools take bfloat16."""

LEAST_OPSET = 20
"""From here to `OPSET` operators gain types and keep their meaning; before, some had another."""


class Bf16(Precision):
    """Brain floating point, weights and activations; the graph's input and output stay float32."""

    name = "bf16"
    needs_ranges = False
    executable = False

    def lower(self, model: onnx.ModelProto, ranges: Ranges | None) -> Lowering:
        graph = _raised(fp32_graph(model, stage=STAGE))
        types = element_types(graph.graph)
        opsets = {o.domain if o.domain != "ai.onnx" else "": o.version for o in graph.opset_import}
        possible: dict[int, Slots] = {}
        refused: dict[int, Refused] = {}
        for index, node in enumerate(graph.graph.node):
            change = slots(node, types, opsets, BFLOAT16)
            why = KEPT.get(node.op_type) or (change if isinstance(change, str) else None)
            if isinstance(change, Slots) and why is None:
                possible[index] = change
            elif change is not None:
                refused[index] = Refused(self.name, node.name, why or "")
        changing = joined(graph, possible, fp32_io=True)
        for index in possible.keys() - changing.keys():
            why = "between FP32 nodes: staying there takes fewer casts than leaving"
            refused[index] = Refused(self.name, graph.graph.node[index].name, why)
        typed, casts = retype(graph, changing, low=BFLOAT16)
        typed = infer(typed, stage=STAGE)
        depth = roundings(typed, BFLOAT16)
        nodes = graph.graph.node
        return Lowering(
            typed,
            bound=FP32_BOUND + CONFIDENCE * UNIT * math.sqrt(depth),
            applied=tuple(Applied(self.name, nodes[i].name) for i in sorted(changing)) + casts,
            refused=tuple(refused[index] for index in sorted(refused)),
            facts={"roundings": depth, "casts": len(casts), "bf16_nodes": len(changing)},
        )


def _raised(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` in `OPSET`, whose operators mean the same there and take bfloat16."""
    if opset_of(model) < LEAST_OPSET:
        raise StageError(
            f"{STAGE}: the graph has opset {opset_of(model)}, and bfloat16 needs what opset "
            f"{LEAST_OPSET} means; export with --opset {LEAST_OPSET}"
        )
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for opset in copy.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = max(opset.version, OPSET)
    copy.ir_version = max(copy.ir_version, 10)
    return infer(copy, stage=STAGE)


PRECISIONS = (Bf16(),)
