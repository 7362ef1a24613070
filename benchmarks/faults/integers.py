"""What goes wrong in eight bits only: ranges, scales and zero points."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, TypeAlias

import numpy as np
import onnx

from benchmarks.faults.base import Edit, Fault, Planted, Site, edited, pick

__all__ = ["FAULTS"]

Place: TypeAlias = tuple[str, tuple[onnx.NodeProto, onnx.NodeProto]]
"""A quantised activation, the node that quantises it and the one that reads it back."""


def _activations(edit: Edit, site: Site) -> list[Place]:
    """Quantised activations of the reference graph."""
    known = {name for node in site.reference.graph.node for name in node.output}
    found: list[Place] = []
    for node in edit.of_kind("DequantizeLinear"):
        tensor = str(node.output[0])
        if tensor not in known or node.input[0] not in edit.writers:
            continue
        writer = edit.writers[node.input[0]]
        if writer.op_type == "QuantizeLinear":
            found.append((tensor, (writer, node)))
    return found


def _producer(site: Site, tensor: str) -> str:
    return next(str(n.name) for n in site.reference.graph.node if tensor in n.output)


class _Regridded(Fault):
    """The integers of one activation, changed: what they are written with, or read with."""

    level = "lowered"
    precisions = ("int8",)

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.lowered)
        place = pick(rng, self.places(edit, site))
        if place is None:
            return None
        tensor, (there, back) = place
        detail = self.change(edit, tensor, there, back)
        return Planted((_producer(site, tensor),), detail, lowered=edit.done())

    def places(self, edit: Edit, site: Site) -> list[Place]:
        """Where it can be."""
        return _activations(edit, site)

    @abstractmethod
    def change(self, edit: Edit, tensor: str, there: onnx.NodeProto, back: onnx.NodeProto) -> str:
        """Change how `tensor` is quantised (`there`) or read (`back`); says what was done."""


class ClippedRange(_Regridded):
    """The range of one tensor ends at a third of its values."""

    name = "range_clipped"
    factor = 1 / 3

    def change(self, edit: Edit, tensor: str, there: onnx.NodeProto, back: onnx.NodeProto) -> str:
        scale = edit.constant(there.input[1])
        assert scale is not None
        for node in (there, back):
            edit.own_constant(node, 1, scale * self.factor)
        return f"scale ×{self.factor:.2g} of {tensor}"


class ScaleMismatch(_Regridded):
    """An input of a concatenation quantised with one scale and read with another."""

    name = "scale_mismatch"

    def places(self, edit: Edit, site: Site) -> list[Place]:
        joined = {name for node in edit.of_kind("Concat") for name in node.input}
        every = _activations(edit, site)
        return [place for place in every if place[0] in joined] or every

    def change(self, edit: Edit, tensor: str, there: onnx.NodeProto, back: onnx.NodeProto) -> str:
        scale = edit.constant(back.input[1])
        assert scale is not None
        edit.own_constant(back, 1, scale * 1.3)
        return f"{tensor} is read ×1.3"


class ZeroPoint(_Regridded):
    """A zero point off by ten."""

    name = "zero_point"

    def change(self, edit: Edit, tensor: str, there: onnx.NodeProto, back: onnx.NodeProto) -> str:
        zero = edit.constant(back.input[2])
        assert zero is not None
        limits = np.iinfo(zero.dtype)
        moved = int(zero) + 10 if int(zero) + 10 <= limits.max else int(zero) - 10
        edit.own_constant(back, 2, np.array(moved, zero.dtype))
        return f"zero point of {tensor}"


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
