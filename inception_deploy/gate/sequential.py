"""When enough images have been seen: tests that may be looked at after every batch.

Looking at a fixed-sample interval after every batch and stopping when it suits is how a gate comes
to lie: with enough looks a 95 % interval misses the truth almost surely. So early stops rest on an
e-process, evidence that is bounded in expectation at *every* time at once. Somebody bets against
"the mean is at least m", image after image, at odds that are fair if it is exactly m; by Ville's
inequality the chance that the stake ever grows 1/α-fold, while the claim is true, is at most α. No
normal approximation is involved, and no number of looks has to be planned. The bets are those of
Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting", Journal of the
Royal Statistical Society B 86 (2024), 1–27, mixed over a fixed set of stakes; with so few possible
values per image the product depends on counts alone, so nothing is kept per image.

The price is images: where they run out, the fixed-sample interval is narrower. So the allowed error
is split. `EARLY` of it pays for stopping early; the rest goes to one last look with an interval of
a fixed sample, when all images have been seen. By the union bound both together err with at most
`ALPHA` per side, as the two ends of a 95 % interval do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inception_deploy.gate.verdict import at_most
from inception_deploy.parity.paired import Outcome, PairedCounts

__all__ = [
    "ALPHA",
    "EARLY",
    "LAST",
    "Counts",
    "Interval",
    "log_capital",
    "log_evidence",
    "standing",
]

Count: TypeAlias = ArrayLike

ALPHA = 0.025
"""Chance of a wrong PASS, and likewise of a wrong FAIL, that a bound allows."""

EARLY = 0.005
"""The part of it that stopping early may use up."""

LAST = ALPHA - EARLY
"""What is left for the last look; z = 2.05 in place of 1.96."""

STAKES = tuple(0.002 * 490 ** (k / 23) for k in range(24))
"""Fractions of the capital that are put at risk per image, 0.002 to 0.98: small ones for small
margins between noisy flips, large ones for the case that nothing ever flips."""


@dataclass(frozen=True)
class Interval:
    """Fractions; the ends may be ±1."""

    low: float
    high: float


@dataclass(frozen=True)
class Counts:
    """How often each of the possible values was seen: what the sequential test remembers.

    Args:
        worst: images with the value 1 (a harmful flip, a disagreement).
        middle: with the value half-way between.
        best: with the smallest value (a beneficial flip, an agreement).
        smallest: that value, −1 for a paired drop, 0 for a rate.
    """

    worst: int
    middle: int
    best: int
    smallest: int

    @classmethod
    def of_drop(cls, images: int, harmful: int, beneficial: int) -> Counts:
        """Paired accuracy: +1 for a harmful flip, −1 for a beneficial one, else 0."""
        return cls(harmful, images - harmful - beneficial, beneficial, -1)

    @classmethod
    def of_rate(cls, images: int, hits: int) -> Counts:
        """How often something happens: 1 where it does, else 0."""
        return cls(hits, 0, images - hits, 0)

    @property
    def images(self) -> int:
        return self.worst + self.middle + self.best

    @property
    def mean(self) -> float:
        """The observed drop or rate."""
        return (self.worst + self.smallest * self.best + self._half * self.middle) / self.images

    @property
    def _half(self) -> float:
        return (1 + self.smallest) / 2

    def interval(self, alpha: float = EARLY) -> Interval:
        """Every mean that the bets have not refuted; valid at all times at once.

        Args:
            alpha: chance per side that the true mean is ever left out.
        """
        need = math.log(1 / alpha)
        low, high = float(self.smallest), 1.0
        upper = _root(lambda m: log_evidence(self, m, above=False) - need, low, high)
        lower = _root(lambda m: need - log_evidence(self, m, above=True), low, high)
        return Interval(lower, upper)

    def last_interval(self, alpha: float = LAST) -> Interval:
        """The fixed-sample interval of the last look: Tango's for a drop, Clopper & Pearson's
        (Biometrika 26, 1934, 404–413) for a rate.

        Args:
            alpha: error per side.
        """
        if self.smallest < 0:
            z = NormalDist().inv_cdf(1 - alpha)
            return Interval(*PairedCounts(self.images, self.worst, self.best).drop_interval(z))
        return Interval(*_clopper_pearson(self.images, self.worst, alpha))


def log_evidence(counts: Counts, mean: float, *, above: bool) -> float:
    """Natural logarithm of the e-process against a claim about the true mean.

    With u the values mapped to 0–1 and μ the mean likewise, a stake c wins the factor
    1 + c·(μ − u) / (1 − μ) per image against "at least μ"; the other side mirrors u and μ. The
    capital is the average over `STAKES`.

    Args:
        mean: the claim's m, from the smallest value to 1.
        above: False bets against "the mean is at least m", True against "at most m".
    """
    claimed = (mean - counts.smallest) / (1 - counts.smallest)
    worst, best = counts.worst, counts.best
    if above:
        claimed, worst, best = 1 - claimed, best, worst
    if claimed >= 1:
        # the claim is that every image has the largest value: one that has not refutes it
        return math.inf if counts.middle or best else 0.0
    return float(log_capital(worst, counts.middle, best, claimed))


def log_capital(worst: Count, middle: Count, best: Count, claimed: float) -> NDArray[np.float64]:
    """Natural logarithm of the capital after bets against "the mean of u is at least `claimed`".

    Args:
        worst, middle, best: how many images had u = 1, ½ and 0; arrays of one shape or numbers.
        claimed: μ, below 1.
    """
    stakes = np.array(STAKES)
    lost = np.log1p(-stakes)
    halfway = np.log1p(stakes * (claimed - 0.5) / (1 - claimed))
    won = np.log1p(stakes * claimed / (1 - claimed))
    seen = (np.asarray(count, np.float64)[..., None] for count in (worst, middle, best))
    logs = sum(count * log for count, log in zip(seen, (lost, halfway, won), strict=True))
    capital: NDArray[np.float64] = np.logaddexp.reduce(logs, axis=-1) - math.log(len(STAKES))
    return capital


def standing(counts: Counts, bound: float, *, last: bool) -> tuple[Outcome, Interval]:
    """Where the true mean lies with respect to `bound`: PASS, FAIL or INCONCLUSIVE so far.

    Args:
        bound: the largest allowed mean, a fraction.
        last: all images have been seen, so that the last look may be taken.

    Returns:
        The outcome, and the interval it rests on: the bets' or, at the last look, the fixed-sample
        one with it, whose intersection leaves the truth out with at most `ALPHA` per side.
    """
    early = counts.interval()
    interval = early
    if last:
        final = counts.last_interval()
        interval = Interval(max(early.low, final.low), min(early.high, final.high))
    return at_most(interval.low, interval.high, bound), interval


def _root(rising: Callable[[float], float], low: float, high: float) -> float:
    """Where a rising function passes zero; the nearer end where it does not. 1e-12 is enough."""
    if rising(low) > 0:
        return low
    if rising(high) < 0:
        return high
    while high - low > 1e-12:
        middle = (low + high) / 2
        if not low < middle < high:
            break
        if rising(middle) > 0:
            high = middle
        else:
            low = middle
    return high


def _clopper_pearson(images: int, hits: int, alpha: float) -> tuple[float, float]:
    """The rates under which so many hits, or so few, are not rarer than `alpha`."""
    low, high = 0.0, 1.0
    if hits:
        fewer = _binomial(images, hits - 1)
        low = _root(lambda p: 1 - fewer(p) - alpha, 0.0, 1.0)
    if hits < images:
        as_few = _binomial(images, hits)
        high = _root(lambda p: alpha - as_few(p), 0.0, 1.0)
    return low, high


def _binomial(images: int, hits: int) -> Callable[[float], float]:
    """p → P(X <= hits) for X binomial (images, p), hits < images."""
    k = np.arange(hits + 1)
    # log of k! for k up to `images`, so that 10⁵ images take milliseconds
    factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, images + 1)))])
    ways = factorial[images] - factorial[k] - factorial[images - k]

    def probability(p: float) -> float:
        if p <= 0 or p >= 1:
            return 1.0 if p <= 0 else 0.0
        logs = ways + k * math.log(p) + (images - k) * math.log1p(-p)
        return min(1.0, float(np.exp(logs).sum()))

    return probability
