"""entropy: the interval that loses the least information, as TensorRT's calibrator defined it.

For a threshold t, let P be the histogram within ±t, to whose outermost filled bins all that lies
beyond has been added, and Q what quantising the bins within ±t leaves of them: the counts of each
quantisation cell, spread evenly over those of its bins that are filled. The threshold is the one
with the least Kullback–Leibler divergence

    KL(P ‖ Q) = Σ P(i)·ln(P(i)/Q(i)),   P and Q normalised to 1

(Migacz, "8-bit inference with TensorRT", GTC 2017, slides 24–39). Two things differ. The cells are
those of the grid in use, signed or not, rather than 128 groups of |x|. And exact zeros are left out
of both P and Q: they survive every clipping, so that they add the same mass to both and nothing to
the divergence, but counted into the first bin, as after a ReLU, they would make up most of it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inception_deploy.calibrators.base import Calibrator, Grid
from inception_deploy.histograms import Histogram

__all__ = ["CALIBRATORS", "Entropy", "divergence"]

_CANDIDATES = 64


class Entropy(Calibrator):
    """Minimises the divergence of the quantised distribution from the original one."""

    name = "entropy"

    def interval(self, histogram: Histogram, grid: Grid) -> tuple[float, float]:
        magnitudes = np.flatnonzero(histogram.magnitudes())
        widest = int(magnitudes[-1]) + 1
        # with fewer bins than cells there is nothing left that quantising could lose
        narrowest = max(grid.levels // 2, int(magnitudes[0]) + 1)
        if narrowest >= widest:
            return histogram.minimum, histogram.maximum
        candidates = np.unique(np.linspace(narrowest, widest, _CANDIDATES).round().astype(int))
        lost = [divergence(histogram, grid, int(bins)) for bins in candidates]
        limit = float(candidates[int(np.argmin(lost))]) * histogram.width
        return max(histogram.minimum, -limit), min(histogram.maximum, limit)


def divergence(histogram: Histogram, grid: Grid, bins: int) -> float:
    """KL(P ‖ Q) in nats for a threshold of `bins` bins on either side of zero.

    There must be samples within it.
    """
    index = histogram.first + np.arange(len(histogram.counts))
    inside = np.flatnonzero((index >= -bins) & (index < bins) & (histogram.counts > 0))
    kept = histogram.counts[inside].astype(np.float64)
    reference = kept.copy()
    reference[0] += histogram.counts[: inside[0]].sum()
    reference[-1] += histogram.counts[inside[-1] + 1 :].sum()
    limit = bins * histogram.width
    step, lowest, highest = grid.quantiser(
        max(histogram.minimum, -limit), min(histogram.maximum, limit)
    )
    centres = (index[inside] + 0.5) * histogram.width
    cells = np.clip(np.round(centres / step), lowest, highest)
    starts = np.flatnonzero(np.diff(cells, prepend=np.nan))
    filled = np.diff(starts, append=len(cells))
    quantised = np.repeat(np.add.reduceat(kept, starts) / filled, filled)
    return _divergence(reference, quantised)


def _divergence(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    p, q = p / p.sum(), q / q.sum()
    return float(p @ np.log(p / q))


CALIBRATORS = (Entropy(),)
