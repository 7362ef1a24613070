"""The shape of a calibrator: where to clip one tensor for an affine quantiser, and at what cost.

The cost is exact for the histogram, density being flat inside a bin. In units of the quantiser's
step let t = x/step, n(t) = clip(round(t), lowest, highest) and r = t − n(t). Then

    ∫ r² dt = n/12 + r³/3 + const,

for each whole step adds 1/12; the second term covers the step begun and, where n is at its limit,
everything that is clipped. A bin's mean error is the difference of this between its edges.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inception_deploy.errors import BadInput
from inception_deploy.histograms import Histogram

__all__ = ["Calibrator", "Clip", "Grid", "expected_error"]

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """The values that an affine quantiser can represent: step·q for whole lowest ≤ q ≤ highest.

    Args:
        levels: how many; 256 for 8 bits, 128 for 7.
        symmetric: zero point 0 and signed (s8: −128…127). Otherwise the zero point is free (u8).
    """

    levels: int = 256
    symmetric: bool = False

    def __str__(self) -> str:
        bits = (self.levels - 1).bit_length()
        return f"{'s' if self.symmetric else 'u'}{bits}"

    def quantiser(self, low: ArrayLike, high: ArrayLike) -> tuple[Floats, Floats, Floats]:
        """Step, lowest and highest q for intervals [low, high]; arrays of one shape.

        As ONNX' QuantizeLinear has it: zero is always representable, exactly. A symmetric step is
        max(|low|, |high|) / (levels/2 − 1). An asymmetric one is (high − low) / (levels − 1) after
        both are moved to include zero, with lowest = −round(−low/step). An interval that is only
        zero gets step 1.
        """
        low = np.minimum(np.asarray(low, np.float64), 0)
        high = np.maximum(np.asarray(high, np.float64), 0)
        if self.symmetric:
            step = np.maximum(-low, high) / (self.levels // 2 - 1)
            lowest = np.full(step.shape, -(self.levels // 2), np.float64)
        else:
            step = (high - low) / (self.levels - 1)
            lowest = -np.round(-low / np.where(step > 0, step, 1))
        return np.where(step > 0, step, 1.0), lowest, lowest + self.levels - 1

    def interval(self, low: float, high: float) -> tuple[float, float]:
        """[low, high] moved to include zero, and to be symmetric where the grid is."""
        if self.symmetric:
            limit = max(-low, high, 0.0)
            return -limit, limit
        return min(low, 0.0), max(high, 0.0)


@dataclass(frozen=True)
class Clip:
    """Where a calibrator clips one tensor.

    Args:
        low, high: the interval, which holds zero; symmetric for a symmetric grid.
        error: expected squared error per element, zeros included.
        calibrator: the one that chose it.
    """

    low: float
    high: float
    error: float
    calibrator: str


class Calibrator(ABC):
    """Turns the observation of one tensor into a clipping interval."""

    name: str
    """As asked for with --calibrator; a parameter follows a colon ("percentile:99.9")."""

    def clip(self, histogram: Histogram, grid: Grid) -> Clip:
        """Where to clip this tensor for this grid, and the expected squared error of that.

        The interval lies inside the exact range. A tensor of which only zeros were sampled keeps
        its exact range, for nothing is known of the rest.
        """
        low, high = histogram.minimum, histogram.maximum
        chosen = self.name
        if len(histogram.counts):
            low, high, chosen = self.choose(histogram, grid)
        low, high = grid.interval(low, high)
        error = float(expected_error(histogram, grid, low, high))
        return Clip(low, high, error, chosen)

    def choose(self, histogram: Histogram, grid: Grid) -> tuple[float, float, str]:
        """`interval`, and the calibrator that is responsible for it."""
        return *self.interval(histogram, grid), self.name

    def with_parameter(self, text: str) -> Calibrator:
        """This calibrator with the parameter that was spelled behind a colon.

        Raises:
            BadInput: it takes none, or not this one.
        """
        raise BadInput(f"calibrator '{self.name}' takes no parameter; leave out ':{text}'")

    @abstractmethod
    def interval(self, histogram: Histogram, grid: Grid) -> tuple[float, float]:
        """Low and high within the exact range, for a histogram that holds more than zeros."""


def expected_error(
    histogram: Histogram,
    grid: Grid,
    low: ArrayLike,
    high: ArrayLike,
    *,
    clipping: float = 1.0,
) -> Floats:
    """Mean of (x − Q(x))² over all elements, zeros included; float64, of the shape of `low`.

    Args:
        low, high: intervals to clip to, any number of them.
        clipping: weight of the errors of what is clipped, rounding errors having weight 1.
    """
    step, lowest, highest = (a[..., None] for a in grid.quantiser(low, high))
    t = histogram.edges / step

    weighed = _squared(t, lowest, highest)
    if clipping != 1:
        rounded = _squared(t, lowest, highest, rounding=True)
        weighed = rounded + clipping * (weighed - rounded)
    error: Floats = (weighed @ histogram.counts) * step[..., 0] ** 2 / max(1, histogram.samples)
    return error


def _squared(t: Floats, lowest: Floats, highest: Floats, *, rounding: bool = False) -> Floats:
    """Mean squared error of each bin in steps², its edges being at `t`, (…, bins + 1) steps.

    With `rounding`, what is clipped counts as exact.
    """
    inside = np.clip(t, lowest - 0.5, highest + 0.5) if rounding else t
    nearest = np.clip(np.round(inside), lowest, highest)
    rest = inside - nearest
    integral = nearest / 12 + rest * rest * rest / 3
    widths = np.diff(t)
    mean = np.diff(integral) / np.where(widths > 0, widths, 1)
    if (widths > 0).all():
        return mean
    # a constant fills one bin without width: its error is that of the value itself
    there = rest[..., :-1] ** 2 * (inside == t)[..., :-1]
    return np.where(widths > 0, mean, there)
