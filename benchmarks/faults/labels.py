"""Labels that are not the network's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.faults.base import Fault, Planted, Site

__all__ = ["FAULTS"]


class OffByOne(Fault):
    """Labels of a list with a background class in front, or of one that starts at 1."""

    name = "labels_off_by_one"
    level = "data"

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        step = int(rng.choice([-1, 1]))
        classes = site.classes

        def shifted(labels: NDArray[np.int64]) -> NDArray[np.int64]:
            return (labels + step) % classes

        return Planted(("labels",), f"{step:+d}", labels=shifted)


class OtherOrder(Fault):
    """Classes numbered in another order: folders sorted as text, where they are numbers."""

    name = "labels_sorted_otherwise"
    level = "data"

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        order = rng.permutation(site.classes)
        while (order == np.arange(site.classes)).all():
            order = rng.permutation(site.classes)

        def renumbered(labels: NDArray[np.int64]) -> NDArray[np.int64]:
            return order[labels].astype(np.int64)

        return Planted(("labels",), "a permutation", labels=renumbered)


FAULTS = (OffByOne(), OtherOrder())
