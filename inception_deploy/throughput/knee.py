"""Where more stops paying: the knee of a throughput curve over batch sizes, threads or streams.

The rule is Kneedle's for a discrete curve without noise (Satopää, Albrecht, Irwin, Raghavan,
"Finding a 'Kneedle' in a Haystack", ICDCS workshops 2011, section III): both axes are scaled to the
unit square, and the knee is the point highest above the diagonal. Three cases stand before it. What
lies behind the best point is not looked at. A curve that never gains a tenth over its first point
is flat, and its knee is that point. A curve that stays within a twentieth of the diagonal has no
knee: it was still rising in proportion when the sweep ended.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["MIN_POINTS", "Knee", "Over", "find_knee"]

MIN_POINTS = 3
"""With two points there is nothing between the ends."""

FLAT = 1.1
STRAIGHT = 0.05

Over: TypeAlias = Literal["batch", "threads", "streams"]


@dataclass(frozen=True)
class Knee:
    """The knee of one candidate's curve.

    Args:
        candidate: its key.
        over: what was varied.
        at: where the knee is; None where the curve was still rising.
        gain: throughput there, or at the end, over that of the first point.
        of_best: the same over the best of the curve.
        reason: why there, in words.
    """

    candidate: str
    over: Over
    at: int | None
    gain: float
    of_best: float
    reason: str


def find_knee(candidate: str, over: Over, sizes: Sequence[int], rates: Sequence[float]) -> Knee:
    """The knee of `rates` over `sizes`, by the rule above.

    Args:
        sizes: ascending, at least `MIN_POINTS`.
        rates: throughput at each, above 0.

    Raises:
        ValueError: too few points, or sizes that do not ascend.
    """
    if len(sizes) < MIN_POINTS or len(sizes) != len(rates):
        raise ValueError(f"a knee needs {MIN_POINTS} points with a rate each, not {len(sizes)}")
    if any(b <= a for a, b in itertools.pairwise(sizes)) or min(rates) <= 0:
        raise ValueError(f"sizes must ascend and rates be above 0: {list(sizes)}, {list(rates)}")
    best = max(range(len(rates)), key=lambda n: rates[n])
    first, top = rates[0], rates[best]

    def knee(n: int, at: int | None, reason: str) -> Knee:
        return Knee(candidate, over, at, rates[n] / first, rates[n] / top, reason)

    if top < FLAT * first:
        return knee(0, sizes[0], f"flat: no {over} gains a tenth over the first")
    width, height = sizes[best] - sizes[0], top - first
    above = [(rates[n] - first) / height - (sizes[n] - sizes[0]) / width for n in range(best + 1)]
    highest = max(range(best + 1), key=lambda n: above[n])
    if above[highest] <= STRAIGHT:
        if best == len(sizes) - 1:
            return knee(best, None, "still rising in proportion at the end of the sweep")
        return knee(best, sizes[best], "rises in proportion up to here, then falls")
    return knee(highest, sizes[highest], "highest above the line from the first to the best")
