"""FP16: half precision for every node that it does not harm, written into the graph's own types.

TensorRT 11 has no precision flags: what a layer computes in is what the graph says. So weights and
activations become float16 tensors, nodes that must not stay FP32 with a cast on either side, and
the graph's input and output stay float32. `_fp16_rules` decides, `lowering` writes.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx

from inception_deploy.artifact import Applied, Refused
from inception_deploy.errors import StageError
from inception_deploy.lowering.retype import retype
from inception_deploy.lowering.rounding import MOVES
from inception_deploy.lowering.schema import Slots, element_types, infer, slots
from inception_deploy.precisions._fp16_rules import CONTRACTIONS, UNIT, NodeFacts, reason
from inception_deploy.precisions._joining import joined
from inception_deploy.precisions._weights import float_weights, fp32_graph
from inception_deploy.precisions.base import FP32_BOUND, Lowering, Precision
from inception_deploy.ranges import Ranges

__all__ = ["CONFIDENCE", "PRECISIONS", "Fp16", "decide", "roundings"]

FLOAT16 = onnx.TensorProto.FLOAT16
STAGE = "lower/fp16"

CONFIDENCE = 4.0
"""λ of the bound λ·u·√n: n roundings of independent sign add up to less with a probability of at
least 1 − 2·exp(−λ²/2), here 99.93 % (Higham & Mary, SIAM J. Sci. Comput. 41(5), 2019, theorem 2.4).
"""


@dataclass(frozen=True)
class Fp16(Precision):
    """IEEE half precision, weights and activations.

    Args:
        fp32_io: float graph inputs and outputs stay float32.
    """

    fp32_io: bool = True
    name = "fp16"
    needs_ranges = True

    def lower(self, model: onnx.ModelProto, ranges: Ranges | None) -> Lowering:
        if ranges is None:
            raise StageError(f"{STAGE}: needs the ranges of every tensor; calibrate first")
        graph = fp32_graph(model, stage=STAGE)
        possible, refused = decide(graph, ranges)
        changing = joined(graph, possible, fp32_io=self.fp32_io)
        for index in possible.keys() - changing.keys():
            node = graph.graph.node[index]
            why = "between FP32 nodes: staying there takes fewer casts than leaving"
            refused[index] = Refused(self.name, _label(node), why)
        typed, casts = retype(graph, changing, low=FLOAT16, fp32_io=self.fp32_io)
        typed = infer(typed, stage=STAGE)
        applied = tuple(
            Applied(self.name, _label(graph.graph.node[index])) for index in sorted(changing)
        )
        depth = roundings(typed)
        return Lowering(
            typed,
            bound=FP32_BOUND + CONFIDENCE * UNIT * math.sqrt(depth),
            applied=applied + casts,
            refused=tuple(refused[index] for index in sorted(refused)),
            facts={"roundings": depth, "casts": len(casts), "fp16_nodes": len(applied)},
        )


def decide(
    model: onnx.ModelProto, ranges: Ranges, *, integral: Collection[str] = ()
) -> tuple[dict[int, Slots], dict[int, Refused]]:
    """By node index: what can change to float16 without harm, and what cannot and why.

    Args:
        integral: names of nodes whose products will be those of eight-bit values.
    """
    graph = model.graph
    types = element_types(graph)
    opsets = {o.domain if o.domain != "ai.onnx" else "": o.version for o in model.opset_import}
    weights, elements = float_weights(model), _elements(graph)
    possible: dict[int, Slots] = {}
    refused: dict[int, Refused] = {}
    for index, node in enumerate(graph.node):
        change = slots(node, types, opsets, FLOAT16)
        if change is None:
            continue
        why = change if isinstance(change, str) else None
        if isinstance(change, Slots):
            possible[index] = change
            why = reason(
                NodeFacts(
                    node,
                    {position: node.input[position] for position in change.inputs},
                    tuple(node.output[position] for position in change.outputs),
                    weights,
                    ranges.tensors,
                    elements,
                ),
                integral=node.name in integral,
            )
        if why:
            possible.pop(index, None)
            refused[index] = Refused("fp16", _label(node), why)
    return possible, refused


def _elements(graph: onnx.GraphProto) -> dict[str, int]:
    """Tensor name → elements per image (the first dimension left out), where they are known."""
    found = {}
    for info in (*graph.input, *graph.value_info, *graph.output):
        dims = info.type.tensor_type.shape.dim[1:]
        if info.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            found[info.name] = int(np.prod([d.dim_value for d in dims]))
    return found


def roundings(model: onnx.ModelProto, low: int = FLOAT16) -> int:
    """Roundings to the element type `low` on the longest way through a strongly typed graph.

    A node that puts out float16 rounds once, a contraction twice (its weights before), and nodes
    that only move values not at all.
    """
    types = element_types(model.graph)
    depth: dict[str, int] = {}
    for node in model.graph.node:
        before = max((depth.get(name, 0) for name in node.input), default=0)
        for name in node.output:
            own = 0
            if types.get(name) == low and node.op_type not in MOVES:
                own = 2 if node.op_type in CONTRACTIONS else 1
            depth[name] = before + own
    return max(depth.values(), default=0)


def _label(node: onnx.NodeProto) -> str:
    return str(node.name or f"{node.op_type} of '{node.output[0]}'")


PRECISIONS = (Fp16(),)
