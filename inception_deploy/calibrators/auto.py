"""auto: for every tensor the calibrator with the least error as the network's output sees it.

That is not the least squared error. Rounding errors of neighbouring elements are independent and
have no bias, so the sums of the layers that follow average them out. What is clipped is always
moved towards zero, and all of it in the same few images and channels: such errors add up, and where
many values are large at once a single image can lose more than all others gain. So a clipped
element's squared error counts `CLIPPING` times.
"""

from __future__ import annotations

from inception_deploy.calibrators.base import Calibrator, Grid, expected_error
from inception_deploy.calibrators.entropy import Entropy
from inception_deploy.calibrators.min_max import MinMax
from inception_deploy.calibrators.mse import Mse
from inception_deploy.calibrators.percentile import Percentile
from inception_deploy.histograms import Histogram

__all__ = ["CALIBRATORS", "CANDIDATES", "CLIPPING", "Auto"]

CLIPPING = 16.0
"""Weight of clipping against rounding errors. Measured, as the mean SQNR of the logits of the two
embedded networks over u8 and s8 activations and several calibration sets; it changes little between
4 and 64, and falls beyond either (`benchmarks/calibration.py`, results/calibration.json)."""

CANDIDATES: tuple[Calibrator, ...] = (
    MinMax(),
    Percentile(99.999),
    Percentile(),
    Entropy(),
    Mse(),
)
"""Of equals the first is taken, and the first clips nothing."""


class Auto(Calibrator):
    """The best of `CANDIDATES` for each tensor, clipping errors weighed `CLIPPING` times."""

    name = "auto"

    def interval(self, histogram: Histogram, grid: Grid) -> tuple[float, float]:
        low, high, _ = self.choose(histogram, grid)
        return low, high

    def choose(self, histogram: Histogram, grid: Grid) -> tuple[float, float, str]:
        best = (float("inf"), 0.0, 0.0, "")
        for candidate in CANDIDATES:
            low, high = candidate.interval(histogram, grid)
            error = float(expected_error(histogram, grid, low, high, clipping=CLIPPING))
            if error < best[0]:
                best = (error, low, high, candidate.name)
        return best[1:]


CALIBRATORS = (Auto(),)
