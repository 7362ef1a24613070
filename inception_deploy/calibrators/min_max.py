"""min_max: the exact range; nothing is clipped."""

from __future__ import annotations

from inception_deploy.calibrators.base import Calibrator, Grid
from inception_deploy.histograms import Histogram

__all__ = ["CALIBRATORS", "MinMax"]


class MinMax(Calibrator):
    """From the smallest value to the largest one."""

    name = "min_max"

    def interval(self, histogram: Histogram, grid: Grid) -> tuple[float, float]:
        return histogram.minimum, histogram.maximum


CALIBRATORS = (MinMax(),)
