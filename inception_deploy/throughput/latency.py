"""What a list of latencies says: percentiles, spread, shape, ratios of interleaved lists."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Distribution",
    "Latency",
    "RatioEstimate",
    "distribution",
    "estimate_ratio",
    "outliers",
    "percentile",
    "summarise",
]

RESAMPLES = 2000
BINS = 40


@dataclass(frozen=True)
class Latency:
    """Milliseconds per query; a query is one batch.

    `median` is the mean of the middle two for an even count; the p-values follow `percentile`,
    which always names a latency that occurred.
    """

    min: float
    mean: float
    median: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float

    def to_dict(self) -> dict[str, float]:
        """JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Distribution:
    """A histogram of latencies: `counts` in equal bins from `low_ms` to `high_ms`.

    Args:
        beyond: how many were slower than `high_ms`; a rare stall must not squeeze all others into
            one bin.
    """

    low_ms: float
    high_ms: float
    counts: tuple[int, ...]
    beyond: int


@dataclass(frozen=True)
class RatioEstimate:
    """Baseline time over candidate time, above 1 where the candidate is faster; 95 % interval."""

    ratio: float
    low: float
    high: float


def percentile(ordered: Sequence[float] | NDArray[np.float64], percent: int) -> float:
    """The value at `max(n − 1 − ⌊(100 − percent)·n/100⌋, 0)` of ascending values.

    This is trtexec's rule (TensorRT `samples/common/sampleReporting.cpp`), so that figures can be
    laid side by side: the slowest ⌊(100 − percent) %⌋ are left out and the next one is taken.
    """
    count = len(ordered)
    excluded = (100 - percent) * count // 100
    return float(ordered[max(count - 1 - excluded, 0)])


def summarise(seconds: Sequence[float] | NDArray[np.float64]) -> tuple[Latency, float]:
    """Latencies in seconds → figures in milliseconds, and the coefficient of variation (std/mean).

    The standard deviation is that of the values themselves (divided by n). Needs at least one.
    """
    ordered = 1e3 * np.sort(np.asarray(seconds, dtype=np.float64))
    mean = float(ordered.mean())
    latency = Latency(
        min=float(ordered[0]),
        mean=mean,
        median=float(np.median(ordered)),
        p50=percentile(ordered, 50),
        p90=percentile(ordered, 90),
        p95=percentile(ordered, 95),
        p99=percentile(ordered, 99),
        max=float(ordered[-1]),
    )
    return latency, float(ordered.std()) / mean if mean else math.nan


def distribution(seconds: Sequence[float] | NDArray[np.float64]) -> Distribution:
    """Histogram of latencies in seconds, from the fastest to the 99th percentile. Needs one."""
    ordered = 1e3 * np.sort(np.asarray(seconds, dtype=np.float64))
    low, high = float(ordered[0]), percentile(ordered, 99)
    if high - low <= 1e-9 * high:  # too little for bins of their own
        return Distribution(low, high, (int((ordered <= high).sum()),), int((ordered > high).sum()))
    counts, _ = np.histogram(ordered, bins=BINS, range=(low, high))
    inside = tuple(int(count) for count in counts)
    return Distribution(low, high, inside, len(ordered) - sum(inside))


def outliers(seconds: Sequence[float] | NDArray[np.float64]) -> int:
    """How many are "far out": beyond the upper quartile by three interquartile ranges.

    The fence is Tukey's (Exploratory Data Analysis, 1977, 2D). The range counts as at least 1 % of
    the median, so that a clock's last digit makes no outlier of a steady engine.
    """
    values = np.asarray(seconds, dtype=np.float64)
    lower, middle, upper = np.percentile(values, [25, 50, 75])
    return int((values > upper + 3 * max(upper - lower, 0.01 * middle)).sum())


def estimate_ratio(
    baseline: Sequence[Sequence[float]], candidate: Sequence[Sequence[float]], *, seed: int = 0
) -> RatioEstimate:
    """How many times faster the candidate is, from medians of rounds in which both ran.

    Of each layout the median over rounds of baseline / candidate: whatever slows the machine for a
    while slows both sides of one round. The estimate is the geometric mean of these medians, so
    that two layouts in which the candidates changed places cancel out. The interval is a percentile
    bootstrap (2,000 resamples, seeded) over layouts and over the rounds of each, after Kalibera and
    Jones ("Rigorous Benchmarking in Reasonable Time", ISMM 2013), who resample every level at which
    a measurement was repeated; with few of them it is about their range.

    Args:
        baseline, candidate: median seconds per query, one per round, in the same order; one
            sequence per layout, none of them empty.
    """
    logarithms = [
        np.log(np.asarray(base, np.float64) / np.asarray(own, np.float64))
        for base, own in zip(baseline, candidate, strict=True)
    ]
    rng = np.random.default_rng(seed)
    # of each layout RESAMPLES medians; then means of as many layouts as there are, drawn from them
    medians = np.stack([_resampled_medians(found, rng) for found in logarithms])
    layout, column = (rng.integers(n, size=medians.shape) for n in medians.shape)
    means = medians[layout, column].mean(axis=0)
    low, high = np.exp(np.percentile(means, [2.5, 97.5]))
    estimate = np.exp(np.mean([np.median(found) for found in logarithms]))
    return RatioEstimate(float(estimate), float(low), float(high))


def _resampled_medians(values: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """`RESAMPLES` medians of as many values, drawn with replacement."""
    count = len(values)
    medians: list[NDArray[np.float64]] = []
    left = RESAMPLES
    while left:  # in pieces: a long run has thousands of rounds
        piece = min(left, max(1, 1_000_000 // count))
        medians.append(np.median(values[rng.integers(count, size=(piece, count))], axis=1))
        left -= piece
    return np.concatenate(medians)
