"""auto: for every tensor the calibrator with the least error as the network's output sees it.

That is not the least squared error. Rounding errors of neighbouring elements are independent and
have no bias, so the sums of the layers that follow average them out. What is clipped is always
moved towards zero, and all of it in the same few images and channels: such errors add up, and where
many values are large at once a single image can lose more than all others gain. So a clipped
element's squared error counts `CLIPPING` times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from inception_deploy.calibrators.base import Calibrator, Grid, expected_error
from inception_deploy.calibrators.entropy import Entropy
from inception_deploy.calibrators.min_max import MinMax
from inception_deploy.calibrators.mse import Mse
from inception_deploy.calibrators.percentile import Percentile
from inception_deploy.errors import BadInput
from inception_deploy.histograms import Histogram

__all__ = ["CALIBRATORS", "CANDIDATES", "CLIPPING", "Auto"]

CLIPPING = 16.0
"""Weight of clipping against rounding errors, measured by the SQNR of the logits of the embedded
networks: with less of it outliers are lost, with more auto turns into min_max
(benchmarks/results/calibration.json, rows "auto:WEIGHT")."""

CANDIDATES: tuple[Calibrator, ...] = (
    MinMax(),
    Percentile(99.999),
    Percentile(),
    Entropy(),
    Mse(),
)
"""Of equals the first is taken, and the first clips nothing."""


@dataclass(frozen=True)
class Auto(Calibrator):
    """The best of `CANDIDATES` for each tensor, clipping errors weighed `clipping` times.

    Raises:
        BadInput: `clipping` is below 1, or not finite.
    """

    clipping: float = CLIPPING

    def __post_init__(self) -> None:
        if not 1 <= self.clipping < math.inf:
            raise BadInput(
                f"clipping errors weigh 1 or more, not {self.clipping:g}; try {CLIPPING:g}"
            )

    @property
    def name(self) -> str:  # type: ignore[override]
        """With the weight where it is not the default: "auto:64"."""
        return "auto" if self.clipping == CLIPPING else f"auto:{self.clipping:g}"

    def with_parameter(self, text: str) -> Auto:
        try:
            return Auto(float(text))
        except ValueError:
            raise BadInput(f"a weight is a number, not '{text}'; try {CLIPPING:g}") from None

    def interval(self, histogram: Histogram, grid: Grid) -> tuple[float, float]:
        low, high, _ = self.choose(histogram, grid)
        return low, high

    def choose(self, histogram: Histogram, grid: Grid) -> tuple[float, float, str]:
        best = (math.inf, 0.0, 0.0, "")
        for candidate in CANDIDATES:
            low, high = candidate.interval(histogram, grid)
            error = float(expected_error(histogram, grid, low, high, clipping=self.clipping))
            if error < best[0]:
                best = (error, low, high, candidate.name)
        return best[1:]


CALIBRATORS = (Auto(),)
