"""Which blocks to send back to float, given what each is worth: order, smallest prefix, front.

The problem is a knapsack: remove enough noise for the least time. Taking blocks by noise removed
per millisecond added is the greedy answer to it, optimal but for the last block. How many of them
it takes is found by bisection, so that few graphs are tried on the validation images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

__all__ = ["BlockSensitivity", "Point", "least", "ordered", "pareto", "predicted_sqnr"]

NEGLIGIBLE = 0.002
"""Of the graph's time. A block that costs less, or is faster in float, counts as costing this much:
single timings are no better than that, and noise should decide between such blocks."""


@dataclass(frozen=True)
class BlockSensitivity:
    """What one block is worth.

    Args:
        block: the architecture's name of it.
        nodes: how many of its nodes run in integers.
        noise: mean squared error of the outputs with only this block in integers.
        extra_ms: milliseconds per batch that it takes longer in float than in integers.
    """

    block: str
    nodes: int
    noise: float
    extra_ms: float


@dataclass(frozen=True)
class Point:
    """One choice of blocks.

    Args:
        kept_float: the blocks in float.
        predicted_sqnr_db: from the noise of the others, which adds up; None without any, and where
            the noise of single blocks was not measured.
        predicted_ms: per batch; None where it was not measured.
        sqnr_db: measured on the validation images; None where that was not done, or is `exact`.
        top1_drop: points of top-1; None as `sqnr_db`, and without labels.
        exact: the outputs were measured, and agree to the last bit.
        measured: whether this choice was tried on the validation images.
        front: no other choice is at least as good in both SQNR and time, and better in one.
    """

    kept_float: tuple[str, ...]
    predicted_sqnr_db: float | None = None
    predicted_ms: float | None = None
    sqnr_db: float | None = None
    top1_drop: float | None = None
    exact: bool = False
    measured: bool = False
    front: bool = False

    @property
    def quality(self) -> float:
        """SQNR in dB, measured where that was done; infinite without error."""
        if self.measured:
            return math.inf if self.sqnr_db is None else self.sqnr_db
        return math.inf if self.predicted_sqnr_db is None else self.predicted_sqnr_db

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "kept_float": list(self.kept_float)}


def ordered(blocks: Sequence[BlockSensitivity], int8_ms: float) -> list[BlockSensitivity]:
    """By noise removed per millisecond added, most first; of equals the earlier block first.

    Args:
        int8_ms: of the whole graph in integers, which says what time is negligible.
    """
    floor = max(NEGLIGIBLE * int8_ms, 1e-9)
    return sorted(blocks, key=lambda b: -b.noise / max(b.extra_ms, floor))


def predicted_sqnr(
    noise: Mapping[str, float], standing: Collection[str], all_int8_db: float | None
) -> float | None:
    """SQNR in dB with some blocks in float, if the noise of the others adds up; None without any.

    Args:
        noise: block → its noise power.
        standing: the blocks in integers.
        all_int8_db: measured with all in integers; None where there was no error at all.
    """
    total = math.fsum(noise.values())
    left = math.fsum(power for block, power in noise.items() if block in standing)
    if all_int8_db is None or not left or not total:
        return None
    return all_int8_db + 10 * math.log10(total / left)


def least(count: int, works: Callable[[int], bool], guess: int | None = None) -> int | None:
    """The smallest number from 1 to `count` that works, if more never works worse.

    From `guess` on the steps double until the answer lies between two trials; then they halve. A
    good guess needs two trials, any guess about 2·log2(count). 0 is known not to work.

    Returns:
        None where not even `count` works.
    """
    if not count:
        return None
    low, high, known = 0, count, False  # `low` fails; `high` works as far as is known
    step, probe = 1, guess or (count + 1) // 2
    while high - low > 1 or not known:
        probe = min(max(probe, low + 1), high if not known else high - 1)
        if works(probe):
            high, known = probe, True
            probe = high - step
        elif probe == count:
            return None
        else:
            low = probe
            probe = low + step
        step *= 2
        if low and known:
            probe = (low + high) // 2
    return high


def pareto(points: Sequence[Point]) -> list[Point]:
    """The points by predicted time, fastest first, with `front` filled in.

    Points without a time are on the front where none has a better SQNR.
    """

    def beaten(point: Point) -> bool:
        return any(
            other.quality >= point.quality
            and _ms(other) <= _ms(point)
            and (other.quality > point.quality or _ms(other) < _ms(point))
            for other in points
        )

    return [
        replace(p, front=not beaten(p)) for p in sorted(points, key=lambda p: (_ms(p), p.quality))
    ]


def _ms(point: Point) -> float:
    return 0.0 if point.predicted_ms is None else point.predicted_ms
