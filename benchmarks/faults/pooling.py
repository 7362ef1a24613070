"""Pools that count the padding, round the grid up, are of the other kind, or pad on one side."""

from __future__ import annotations

import numpy as np

from benchmarks.faults.base import Fault, Planted, Site, edited, pick

__all__ = ["FAULTS"]


class _Flipped(Fault):
    level = "graph"
    kinds: tuple[str, ...]
    attribute: str
    padded = False

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.reference)
        places = [
            node
            for node in edit.of_kind(*self.kinds)
            if not self.padded or any(edit.attribute(node, "pads", [0]))
        ]
        node = pick(rng, places)
        if node is None:
            return None
        value = 1 - int(edit.attribute(node, self.attribute, 0))
        edit.set_attribute(node, self.attribute, value)
        detail = f"{self.attribute} {value} at {node.name}"
        return Planted((node.name,), detail, reference=edit.done())


class CountIncludePad(_Flipped):
    """The average counts zeros of the padding, or no longer does."""

    name = "count_include_pad"
    kinds = ("AveragePool",)
    attribute = "count_include_pad"
    padded = True


class CeilMode(_Flipped):
    """The number of windows is rounded up, or no longer is."""

    name = "ceil_mode"
    kinds = ("AveragePool", "MaxPool")
    attribute = "ceil_mode"


class OtherPool(Fault):
    """Maximum for average: the FID variant's own trap (docs: pool of Mixed_7c)."""

    name = "pool_kind"
    level = "graph"

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.reference)
        node = pick(rng, list(edit.of_kind("AveragePool", "MaxPool")))
        if node is None:
            return None
        other = "MaxPool" if node.op_type == "AveragePool" else "AveragePool"
        allowed = ("kernel_shape", "pads", "strides", "ceil_mode")
        kept = [a for a in node.attribute if a.name in allowed]
        del node.attribute[:]
        node.attribute.extend(kept)
        node.op_type = other
        return Planted((node.name,), f"{other} at {node.name}", reference=edit.done())


class OneSided(Fault):
    """TensorFlow's SAME padding for PyTorch's: all of it at the end."""

    name = "pool_padding_one_sided"
    level = "graph"

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.reference)
        places = [
            node
            for node in edit.of_kind("AveragePool", "MaxPool")
            if edit.attribute(node, "pads") == [1, 1, 1, 1]
            and max(edit.attribute(node, "kernel_shape")) > 2
        ]
        node = pick(rng, places)
        if node is None:
            return None
        edit.set_attribute(node, "pads", [0, 0, 2, 2])
        return Planted((node.name,), f"pads 0 and 2 at {node.name}", reference=edit.done())


FAULTS = (CountIncludePad(), CeilMode(), OtherPool(), OneSided())
