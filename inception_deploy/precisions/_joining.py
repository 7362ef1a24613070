"""Which of the nodes that could run in a half precision do: those that leave the fewest casts."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import onnx

from inception_deploy.lowering.islands import Wire, fewest_casts
from inception_deploy.lowering.schema import FLOAT, Slots, captured, element_types
from inception_deploy.precisions._fp16_rules import CONTRACTIONS
from inception_deploy.precisions._weights import float_weights

__all__ = ["joined"]

WORLD = "world"
"""The vertex outside the graph: it writes the inputs and reads the outputs."""


def joined(
    model: onnx.ModelProto, possible: Mapping[int, Slots], *, fp32_io: bool
) -> dict[int, Slots]:
    """Those of the `possible` nodes that run in half precision when casts are fewest.

    Args:
        model: FP32, shapes inferred, constants as initialisers.
        possible: node index → what would change there; contractions among them always change.
        fp32_io: whether float graph inputs and outputs stay float32.
    """
    types = element_types(model.graph)
    weights = float_weights(model).keys()
    writers: dict[str, Hashable] = {i.name: WORLD for i in model.graph.input}
    readers: dict[str, list[Hashable]] = {}
    high: set[Hashable] = set()
    for index, node in enumerate(model.graph.node):
        writers |= dict.fromkeys(node.output, index)
        for position, name in enumerate((*node.input, *captured(node))):
            # an input that the schema ties to FP32 asks for it whatever its node does
            tied = index in possible and position not in possible[index].inputs
            reader = ("tied", index, position) if tied else index
            readers.setdefault(name, []).append(reader)
            if tied:
                high.add(reader)
        if index not in possible:
            high.add(index)
    for output in model.graph.output:
        readers.setdefault(output.name, []).append(WORLD)
    wires = [
        Wire(writers[name], tuple(readers.get(name, ())))
        for name, kind in types.items()
        if kind == FLOAT and name not in weights
    ]
    low: set[Hashable] = {i for i in possible if model.graph.node[i].op_type in CONTRACTIONS}
    (high if fp32_io else low).add(WORLD)
    in_fp32 = fewest_casts(wires, high, low)
    return {index: slots for index, slots in possible.items() if index not in in_fp32}
