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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from inception_deploy.gate.verdict import at_most
from inception_deploy.parity.paired import Outcome, PairedCounts

__all__ = ["ALPHA", "EARLY", "LAST", "Counts", "Interval", "log_evidence", "standing"]

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

    def scaled(self, factor: float) -> Counts:
        """What `factor` times as many images would show if nothing changes."""
        worst, best = round(self.worst * factor), round(self.best * factor)
        images = round(self.images * factor)
        if self.smallest == 0:
            return Counts.of_rate(images, min(worst, images))
        return Counts.of_drop(images, worst, min(best, images - worst))


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
    odds = claimed / (1 - claimed)
    halfway = (claimed - 0.5) / (1 - claimed)
    return _log_mean_exp(
        [
            worst * math.log1p(-c)
            + counts.middle * math.log1p(c * halfway)
            + best * math.log1p(c * odds)
            for c in STAKES
        ]
    )


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


def _log_mean_exp(values: Sequence[float]) -> float:
    top = max(values)
    return top + math.log(math.fsum(math.exp(v - top) for v in values) / len(values))


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
    low = 0.0
    if hits:
        low = _root(lambda p: _tail(images, images - hits, 1 - p) - alpha, 0.0, 1.0)
    high = 1.0
    if hits < images:
        high = _root(lambda p: alpha - _tail(images, hits, p), 0.0, 1.0)
    return low, high


def _tail(images: int, hits: int, p: float) -> float:
    """P(X <= hits) for X binomial (images, p)."""
    if p <= 0:
        return 1.0
    if p >= 1:
        return 1.0 if hits >= images else 0.0
    log_p, log_q = math.log(p), math.log1p(-p)
    first = math.lgamma(images + 1)
    terms = (
        first - math.lgamma(k + 1) - math.lgamma(images - k + 1) + k * log_p + (images - k) * log_q
        for k in range(hits + 1)
    )
    return min(1.0, math.fsum(math.exp(t) for t in terms))
