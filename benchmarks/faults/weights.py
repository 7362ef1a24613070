"""Weights of another epoch, of another layer, damaged, or cut short."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.faults.base import Edit, Fault, Planted, Site, edited, pick

__all__ = ["FAULTS"]

EPOCH = 0.03
"""Root mean square change of a tensor, relative to its own: what a late epoch still moves."""


def _weighted(edit: Edit, kinds: tuple[str, ...] = ("Conv", "Gemm")) -> list[Any]:
    found = []
    for node in edit.of_kind(*kinds):
        weight = edit.constant(node.input[1])
        if weight is not None:
            found.append((node, weight))
    return found


class OtherEpoch(Fault):
    """Every weight a little different: a checkpoint of another epoch of the same training."""

    name = "other_epoch"
    level = "graph"

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.reference)
        places = _weighted(edit)
        for node, weight in places:
            scale = EPOCH * float(np.sqrt(np.mean(np.square(weight))))
            edit.own_constant(node, 1, weight + scale * rng.standard_normal(weight.shape))
        names = tuple(str(node.name) for node, _ in places)
        return Planted(names, f"{EPOCH:.0%} of every weight", reference=edit.done())


class Exchanged(Fault):
    """Two layers of one shape with each other's weights."""

    name = "weights_exchanged"
    level = "graph"

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.reference)
        places = _weighted(edit, ("Conv",))
        shapes: dict[tuple[int, ...], list[Any]] = {}
        for node, weight in places:
            shapes.setdefault(weight.shape, []).append(node)
        group = pick(rng, [nodes for nodes in shapes.values() if len(nodes) > 1])
        if group is None:
            return None
        first, second = (group[i] for i in sorted(rng.choice(len(group), 2, replace=False)))
        first.input[1], second.input[1] = second.input[1], first.input[1]
        names = (str(first.name), str(second.name))
        return Planted(names, " and ".join(names), reference=edit.done())


class BitFlip(Fault):
    """One bit of the exponent of one of the larger weights: ×256."""

    name = "bit_flip"
    level = "graph"

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.reference)
        node, weight = pick(rng, _weighted(edit))
        flat = weight.reshape(-1)
        larger = np.flatnonzero(np.abs(flat) >= np.median(np.abs(flat)))
        flat[int(rng.choice(larger))] *= 256.0
        edit.own_constant(node, 1, flat.reshape(weight.shape))
        return Planted((str(node.name),), f"one weight of {node.name}", reference=edit.done())


class CutShort(Fault):
    """The second half of a weight is zero: a file that was not copied to the end."""

    name = "half_zero"
    level = "graph"

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.reference)
        node, weight = pick(rng, _weighted(edit))
        flat = weight.reshape(-1)
        flat[len(flat) // 2 :] = 0.0
        edit.own_constant(node, 1, flat.reshape(weight.shape))
        return Planted((str(node.name),), f"half of {node.name}", reference=edit.done())


class NotANumber(Fault):
    """A NaN among the weights of the deployed graph."""

    name = "nan_weight"
    level = "lowered"
    precisions = ("fp32", "fp16")

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.lowered)
        node, weight = pick(rng, _weighted(edit))
        values: NDArray[Any] = weight.reshape(-1)
        values[int(rng.integers(len(values)))] = np.nan
        edit.own_constant(node, 1, values.reshape(weight.shape))
        return Planted((str(node.name),), f"NaN in {node.name}", lowered=edit.done())


FAULTS = (OtherEpoch(), Exchanged(), BitFlip(), CutShort(), NotANumber())
