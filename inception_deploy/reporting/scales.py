"""Tick positions for linear and logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from inception_deploy.reporting.numerals import MINUS

__all__ = ["linear_ticks", "log_ticks", "tick_labels"]


def linear_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 × 10ⁿ, the first at or below `low`, the last at or above `high`."""
    if not high - low > 1e-300:  # nothing, or too little for a logarithm
        high = low + 1
    step = 10.0 ** math.floor(math.log10((high - low) / about))
    step = next(step * m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= about)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    decimals = max(-math.floor(math.log10(step)), 0)
    return [round(n * step, decimals) for n in range(first, last + 1)]


def log_ticks(low: float, high: float, *, fine: bool = False) -> list[float]:
    """Powers of ten (`fine`: times 1, 2 and 5) enclosing `low` … `high`, both positive."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    last = max(last, first + 1)
    if not fine:
        return [10.0**n for n in range(first, last + 1)]
    steps = [float(f"{m}e{n}") for n in range(first, last + 1) for m in (1, 2, 5)]
    above = next(step for step in steps if step >= high * (1 - 1e-9))
    below = max(step for step in steps if step <= low * (1 + 1e-9))
    return [step for step in steps if below <= step <= above]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """The ticks with as many decimals as the one that needs most."""
    decimals = max(len(f"{tick:.10f}".rstrip("0").partition(".")[2]) for tick in ticks)
    return [f"{tick:,.{decimals}f}".replace("-", MINUS) for tick in ticks]
