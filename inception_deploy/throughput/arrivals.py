"""When queries arrive: a Poisson process, seeded, so that every engine meets the same one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inception_deploy.errors import BadInput

__all__ = ["poisson_arrivals"]


def poisson_arrivals(rate: float, seconds: float, seed: int) -> NDArray[np.float64]:
    """Ascending times in [0, `seconds`) with exponential gaps of mean 1/`rate`, independent.

    As in MLPerf's server scenario (Reddi et al., ISCA 2020, section IV-A).

    Args:
        rate: queries per second.

    Raises:
        BadInput: a rate or a length that is not above 0.
    """
    if not (rate > 0 and seconds > 0 and np.isfinite(rate * seconds)):
        raise BadInput(f"queries cannot arrive at {rate:g} per second for {seconds:g} s")
    rng = np.random.default_rng(seed)
    expected = rate * seconds
    times = np.empty(0)
    last = 0.0
    while last < seconds:  # once, nearly always: five standard deviations more than expected
        gaps = rng.exponential(1 / rate, size=int(expected + 5 * expected**0.5) + 10)
        more = last + np.cumsum(gaps)
        times, last = np.concatenate([times, more]), float(more[-1])
    return times[times < seconds]
