"""mse: the interval with the least expected squared error.

Narrow intervals clip, wide ones have wide steps; the squared error weighs the two (Banner et al.,
"Post training 4-bit quantization of convolutional networks", NeurIPS 2019, section 3, solves it for
Gaussian and Laplace densities). Here it is searched for in the histogram: over a lattice of
candidates, then over ever finer ones around the best.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from inception_deploy.calibrators.base import Calibrator, Grid, expected_error
from inception_deploy.histograms import Histogram

__all__ = ["CALIBRATORS", "Mse", "least_error"]

LEAST = 1e-3
"""Share of the exact range below which no end of an interval is looked for."""

_COARSE = {1: 33, 2: 17}  # candidates for each end by how many are free, log-spaced from LEAST
_FINE = {1: 5, 2: 3}  # and around the best so far, half as far apart every round
_ROUNDS = 8
_ROUGH = 512  # bins that suffice for the first lattice


class Mse(Calibrator):
    """Minimises the mean squared quantisation error."""

    name = "mse"

    def interval(self, histogram: Histogram, grid: Grid) -> tuple[float, float]:
        return least_error(histogram, grid)


def least_error(histogram: Histogram, grid: Grid) -> tuple[float, float]:
    """The interval for which `expected_error` is least.

    A symmetric grid, or values on one side of zero, leave one end free; otherwise there are two,
    searched together. Each is a share of the exact range, on a logarithmic scale.
    """
    low, high = grid.interval(histogram.minimum, histogram.maximum)
    free = 2 if low < 0 < high and not grid.symmetric else 1
    coarse = _COARSE[free]
    spacing = -np.log(LEAST) / (coarse - 1)
    best = np.zeros(free)
    seen = _condensed(histogram, _ROUGH) if free == 2 else histogram
    offsets = spacing * np.arange(1 - coarse, 1)
    for _ in range(_ROUNDS):
        shares = np.minimum(best + _lattice(offsets, free), 0.0)
        lows, highs = low * np.exp(shares[:, 0]), high * np.exp(shares[:, -1])
        errors = expected_error(seen, grid, lows, highs)
        best = shares[int(np.argmin(errors))]
        spacing /= 2
        offsets = spacing * (np.arange(_FINE[free]) - _FINE[free] // 2)
        seen = histogram
    return float(low * np.exp(best[0])), float(high * np.exp(best[-1]))


def _lattice(offsets: NDArray[np.float64], dimensions: int) -> NDArray[np.float64]:
    """float64 (candidates, dimensions): every combination of the offsets."""
    axes = np.meshgrid(*[offsets] * dimensions, indexing="ij")
    return np.stack([axis.ravel() for axis in axes], axis=1)


def _condensed(histogram: Histogram, bins: int) -> Histogram:
    """The same counts in at most `bins` bins (and one more, for where the first one begins)."""
    shift = max(0, (len(histogram.counts) - 1).bit_length() - (bins - 1).bit_length())
    index = (histogram.first + np.arange(len(histogram.counts))) >> shift
    counts = np.zeros(int(index[-1] - index[0]) + 1, np.int64)
    np.add.at(counts, index - index[0], histogram.counts)
    return replace(
        histogram, counts=counts, first=int(index[0]), exponent=histogram.exponent + shift
    )


CALIBRATORS = (Mse(),)
