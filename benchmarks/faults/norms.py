"""Batch norm: the other epsilon, statistics or shift that never arrived."""

from __future__ import annotations

import numpy as np

from benchmarks.faults.base import Fault, Planted, Site, edited, pick

__all__ = ["FAULTS"]


class Epsilon(Fault):
    """1e-5 for 1e-3 or the other way, in every batch norm: a constructor's default."""

    name = "bn_epsilon"
    level = "graph"

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.reference)
        nodes = list(edit.of_kind("BatchNormalization"))
        if not nodes:
            return None
        for node in nodes:
            old = float(edit.attribute(node, "epsilon", 1e-5))
            edit.set_attribute(node, "epsilon", 1e-5 if old > 1e-4 else 1e-3)
        names = tuple(str(node.name) for node in nodes)
        return Planted(names, "epsilon of every batch norm", reference=edit.done())


class _Reset(Fault):
    level = "graph"
    position: int
    value: float

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.reference)
        node = pick(rng, list(edit.of_kind("BatchNormalization")))
        if node is None:
            return None
        values = edit.constant(node.input[self.position])
        assert values is not None
        edit.own_constant(node, self.position, np.full_like(values, self.value))
        detail = f"{self.name} at {node.name}"
        return Planted((str(node.name),), detail, reference=edit.done())


class Beta(_Reset):
    """No shift after the normalisation."""

    name, position, value = "bn_beta_zero", 2, 0.0


class Mean(_Reset):
    """The running mean is still the initial one."""

    name, position, value = "bn_mean_initial", 3, 0.0


class Variance(_Reset):
    """The running variance is still the initial one."""

    name, position, value = "bn_variance_initial", 4, 1.0


FAULTS = (Epsilon(), Beta(), Mean(), Variance())
