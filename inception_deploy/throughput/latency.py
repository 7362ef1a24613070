"""What a list of latencies says: percentiles, spread, and the ratio of two interleaved lists."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Latency", "RatioEstimate", "estimate_ratio", "percentile", "summarise"]

RESAMPLES = 2000


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


def estimate_ratio(
    baseline: Sequence[float], candidate: Sequence[float], *, seed: int = 0
) -> RatioEstimate:
    """How many times faster the candidate is, from medians of rounds in which both ran.

    The estimate is the median over rounds of baseline / candidate: whatever slows the machine for a
    while slows both sides of one round. The interval is the percentile bootstrap over rounds (2,000
    resamples, seeded), which takes rounds as independent; with few rounds it is their range.

    Args:
        baseline, candidate: median seconds per query, one per round, in the same order.
    """
    ratios = np.asarray(baseline, np.float64) / np.asarray(candidate, np.float64)
    rng = np.random.default_rng(seed)
    count = len(ratios)
    medians: list[NDArray[np.float64]] = []
    left = RESAMPLES
    while left:  # in pieces: a long run has thousands of rounds
        piece = min(left, max(1, 1_000_000 // count))
        medians.append(np.median(ratios[rng.integers(count, size=(piece, count))], axis=1))
        left -= piece
    low, high = np.percentile(np.concatenate(medians), [2.5, 97.5])
    return RatioEstimate(float(np.median(ratios)), float(low), float(high))
