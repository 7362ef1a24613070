"""What goes wrong in eight bits only: ranges, scales and zero points."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from benchmarks.faults.base import Edit, Fault, Planted, Site, edited, pick

__all__ = ["FAULTS"]


def _activations(edit: Edit, site: Site) -> list[tuple[str, list[onnx.NodeProto]]]:
    """Quantised activations of the reference graph, with the nodes that use their grid."""
    known = {name for node in site.reference.graph.node for name in node.output}
    found = []
    for node in edit.of_kind("DequantizeLinear"):
        tensor = str(node.output[0])
        if tensor not in known or node.input[0] not in edit.writers:
            continue
        writer = edit.writers[node.input[0]]
        if writer.op_type == "QuantizeLinear":
            found.append((tensor, [writer, node]))
    return found


def _producer(site: Site, tensor: str) -> str:
    return next(str(n.name) for n in site.reference.graph.node if tensor in n.output)


class ClippedRange(Fault):
    """The range of one tensor ends at a third of its values."""

    name = "range_clipped"
    level = "lowered"
    precisions = ("int8",)
    factor = 1 / 3

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.lowered)
        place = pick(rng, _activations(edit, site))
        if place is None:
            return None
        tensor, nodes = place
        scale = edit.constant(nodes[0].input[1])
        assert scale is not None
        for node in nodes:
            edit.own_constant(node, 1, scale * self.factor)
        where = _producer(site, tensor)
        return Planted((where,), f"scale ×{self.factor:.2g} of {tensor}", lowered=edit.done())


class ScaleMismatch(Fault):
    """An input of a concatenation quantised with one scale and read with another."""

    name = "scale_mismatch"
    level = "lowered"
    precisions = ("int8",)

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.lowered)
        joined = {name for node in edit.of_kind("Concat") for name in node.input}
        places = _activations(edit, site)
        place = pick(rng, [p for p in places if p[0] in joined] or places)
        if place is None:
            return None
        tensor, (_, back) = place
        scale = edit.constant(back.input[1])
        assert scale is not None
        edit.own_constant(back, 1, scale * 1.3)
        where = _producer(site, tensor)
        return Planted((where,), f"{tensor} is read ×1.3", lowered=edit.done())


class ZeroPoint(Fault):
    """A zero point off by ten."""

    name = "zero_point"
    level = "lowered"
    precisions = ("int8",)

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.lowered)
        place = pick(rng, _activations(edit, site))
        if place is None:
            return None
        tensor, (_, back) = place
        zero = edit.constant(back.input[2])
        assert zero is not None
        limits = np.iinfo(zero.dtype)
        moved = int(zero) + 10 if int(zero) + 10 <= limits.max else int(zero) - 10
        edit.own_constant(back, 2, np.array(moved, zero.dtype))
        where = _producer(site, tensor)
        return Planted((where,), f"zero point of {tensor}", lowered=edit.done())


class WeightScale(Fault):
    """One channel's weight scale off by two."""

    name = "weight_scale"
    level = "lowered"
    precisions = ("int8",)

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.lowered)
        places = []
        for node in edit.of_kind("Conv", "MatMul", "Gemm"):
            writer = edit.writers.get(node.input[1])
            if writer is not None and writer.op_type == "DequantizeLinear":
                scale = edit.constant(writer.input[1])
                if scale is not None and scale.size > 1:
                    places.append((node, writer, scale))
        place = pick(rng, places)
        if place is None:
            return None
        node, writer, scale = place
        scale[int(rng.integers(len(scale)))] *= 2.0
        edit.own_constant(writer, 1, scale)
        return Planted((str(node.name),), f"a channel of {node.name}", lowered=edit.done())


class StaleTable(Fault):
    """A calibration table of another state of the weights: every range another."""

    name = "stale_table"
    level = "lowered"
    precisions = ("int8",)

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        if site.table is None:
            return None
        tensors: dict[str, Any] = {}
        for name, seen in site.table["tensors"].items():
            factor = float(np.exp(rng.normal(-0.5, 0.8)))
            tensors[name] = {
                "minimum": seen["minimum"] * factor,
                "maximum": seen["maximum"] * factor,
            }
        known = {t: str(n.name) for n in site.reference.graph.node for t in n.output}
        nodes = tuple(dict.fromkeys(known.get(name, "input") for name in tensors))
        return Planted(nodes, "every range", table={**site.table, "tensors": tensors})


FAULTS = (ClippedRange(), ScaleMismatch(), ZeroPoint(), WeightScale(), StaleTable())
