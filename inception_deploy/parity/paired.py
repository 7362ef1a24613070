"""Statistics of one network against another on the same labelled images.

Each image is a pair: right or wrong before, right or wrong after. Only the flips carry
information about the drop in accuracy, which is (harmful − beneficial) / images:

- harmful: the reference is right and the deployed network wrong,
- beneficial: the other way round.

The interval of the drop is Tango's score interval (Statistics in Medicine 17, 1998, 891–908). The
usual alternative, Bonett & Price's adjusted Wald interval (2012), was weighed against it by
enumerating every outcome for 100 to 2,000 images and flip rates from 0.1 to 8 %. With a dozen flips
in both directions the two are alike. With a handful, nearly all harmful — what a careful lowering
leaves for a gate to judge — adjusted Wald puts the true drop above its upper end in 5 % of the
samples where 2.5 % are allowed, so it passes too easily; Tango's stays below the 2.5 %.
`tests/unit/test_paired.py` repeats the comparison.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from inception_deploy.errors import BadInput

__all__ = ["Z95", "Outcome", "PairedCounts", "Verdict"]

Outcome: TypeAlias = Literal["PASS", "FAIL", "INCONCLUSIVE", "NOT_ASKED"]

Z95 = 1.959963984540054
"""The 97.5 % quantile of the standard normal: two-sided 95 %, so 2.5 % at each end."""


@dataclass(frozen=True)
class Verdict:
    """Whether the deployed network is good enough, and one sentence saying why."""

    outcome: Outcome
    reason: str


@dataclass(frozen=True)
class PairedCounts:
    """How many images were compared, and how many flipped in each direction.

    Raises:
        ValueError: no images, a negative count, or more flips than images.
    """

    images: int
    harmful: int
    beneficial: int

    def __post_init__(self) -> None:
        flips = self.harmful + self.beneficial
        if self.images < 1 or min(self.harmful, self.beneficial) < 0 or flips > self.images:
            raise ValueError(f"these are no counts of paired images: {self}")

    @property
    def drop(self) -> float:
        """Accuracy lost, as a fraction; positive is worse."""
        return (self.harmful - self.beneficial) / self.images

    def drop_interval(self, z: float = Z95) -> tuple[float, float]:
        """Tango's score interval of the drop, fractions in [−1, 1]: every drop δ with |T(δ)| ≤ z.

        T falls monotonically and is zero at the observed drop, so each end is found by bisection
        down to the last bit.
        """
        return self._crossing(-1.0, self.drop, z), self._crossing(self.drop, 1.0, -z)

    def mcnemar_p(self) -> float:
        """Two-sided exact McNemar test of "no drop": a binomial test of the flips with p = ½.

        Integer arithmetic throughout, so the value is correctly rounded. 1.0 without flips.
        """
        flips = self.harmful + self.beneficial
        term = total = 1
        for k in range(1, min(self.harmful, self.beneficial) + 1):
            term = term * (flips - k + 1) // k
            total += term
        return min(1.0, 2 * total / (1 << flips))

    def images_to_settle(self, bound: float, z: float = Z95) -> int | None:
        """How many images would put `bound` (a fraction) at the interval's edge, at these rates.

        T grows with √n when all counts grow alike, hence n · (z / T(bound))². None beyond 10⁹: the
        drop is the bound, and no number of images tells the two apart.
        """
        score = abs(self._score(bound))
        if score < z * math.sqrt(self.images / 1e9):
            return None
        return math.ceil(self.images * (z / score) ** 2)

    def verdict(self, max_drop: float) -> Verdict:
        """Non-inferiority: the interval, not the point, is held against the bound.

        PASS: the whole interval lies at or below `max_drop`. FAIL: all of it lies above.
        INCONCLUSIVE: it holds the bound, so the sample is too small to tell.

        Args:
            max_drop: the largest allowed loss, in points of accuracy.

        Raises:
            BadInput: `max_drop` is not a number from 0 to 100.
        """
        if not 0 <= max_drop <= 100:
            raise BadInput(f"the allowed drop must be 0 to 100 points, not {max_drop}")
        low, high = (100 * end for end in self.drop_interval())
        found = (
            f"top-1 drop {100 * self.drop:.2f} points on {self.images:,} images "
            f"(95 % interval {low:.2f} to {high:.2f})"
        )
        if high <= max_drop:
            return Verdict("PASS", f"{found}, all within the allowed {max_drop:g}")
        if low > max_drop:
            return Verdict("FAIL", f"{found}, all above the allowed {max_drop:g}")
        needed = self.images_to_settle(max_drop / 100)
        remedy = (
            f"about {_two_digits(needed):,} images would settle it if flips stay as frequent"
            if needed
            else "the drop is the bound itself, which no number of images would settle"
        )
        reason = f"{found}, on both sides of the allowed {max_drop:g}; {remedy}"
        return Verdict("INCONCLUSIVE", reason)

    def _score(self, delta: float) -> float:
        """Tango's T(δ): the distance of the observed drop from δ in standard errors under δ.

        The rate of beneficial flips under δ is its maximum-likelihood estimate, the positive root
        of 2n·q² + B·q + C = 0 (B is `linear`, C is `constant`).
        """
        n, b, c = self.images, self.harmful, self.beneficial
        linear = -b - c + (2 * n - b + c) * delta
        constant = -c * delta * (1 - delta)
        root = math.sqrt(max(linear * linear - 8 * n * constant, 0.0))
        # of the root's two forms, the one that does not subtract near-equal numbers
        rate = -2 * constant / (root + linear) if linear > 0 else (root - linear) / (4 * n)
        variance = n * (2 * rate + delta * (1 - delta))
        excess = b - c - n * delta
        if variance <= 0:  # at δ = ±1, or at δ = 0 without flips
            return math.copysign(math.inf, excess) if excess else 0.0
        return excess / math.sqrt(variance)

    def _crossing(self, low: float, high: float, target: float) -> float:
        """Where T falls through `target` between `low` and `high`."""
        while True:
            middle = (low + high) / 2
            if not low < middle < high:
                return high if target < 0 else low  # the outer end: never narrower than exact
            if self._score(middle) > target:
                low = middle
            else:
                high = middle


def _two_digits(count: int) -> int:
    """`count` rounded up to two significant digits: it is an estimate and should look like one."""
    unit = int(10 ** max(len(str(count)) - 2, 0))
    return -(-count // unit) * unit
