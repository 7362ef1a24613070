"""percentile: the interval that holds a given share of the magnitudes.

Zeros do not count, for they are exact wherever the clipping is: otherwise one percentile would mean
something else for a sparse tensor than for a dense one, and nothing would be left of a tensor with
more zeros than the percentile.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from inception_deploy.calibrators.base import Calibrator, Grid
from inception_deploy.errors import BadInput
from inception_deploy.histograms import Histogram

__all__ = ["CALIBRATORS", "Percentile"]

DEFAULT = 99.99


@dataclass(frozen=True)
class Percentile(Calibrator):
    """Clips at ±t, t being the `percent`-th percentile of |x| over the values that are not zero.

    Raises:
        BadInput: `percent` is not above 0 and at most 100.
    """

    percent: float = DEFAULT

    def __post_init__(self) -> None:
        if not 0 < self.percent <= 100:
            raise BadInput(f"a percentile lies in (0, 100], not {self.percent:g}; try {DEFAULT:g}")

    @property
    def name(self) -> str:  # type: ignore[override]
        """With the percentile where it is not the default."""
        suffix = "" if self.percent == DEFAULT else f":{self.percent:g}"
        return f"percentile{suffix}"

    def with_parameter(self, text: str) -> Percentile:
        try:
            return Percentile(float(text))
        except ValueError:
            raise BadInput(f"a percentile is a number, not '{text}'; try {DEFAULT:g}") from None

    def interval(self, histogram: Histogram, grid: Grid) -> tuple[float, float]:
        below = np.concatenate([[0], np.cumsum(histogram.magnitudes())])
        wanted = below[-1] * (self.percent / 100)
        position = int(np.searchsorted(below, wanted))  # the first edge with enough below it
        inside = (wanted - below[position - 1]) / (below[position] - below[position - 1])
        limit = float(position - 1 + inside) * histogram.width
        return max(histogram.minimum, -limit), min(histogram.maximum, limit)


CALIBRATORS = (Percentile(),)
