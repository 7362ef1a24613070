"""The null engine: a session that does nothing, so that what it takes is the harness itself."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np

from inception_deploy.engines.base import Array, Session, TensorSpec

__all__ = ["NullSession", "harness_seconds"]

_RUNS = 2000


class NullSession(Session):
    """Validates its input as every session does, and returns the same answer each time."""

    name = "null"

    def load(self) -> None:
        self.device = "none"
        self.inputs = (TensorSpec("input", np.dtype(np.float32), ("batch", 3, "h", "w")),)
        self.outputs = (TensorSpec("output", np.dtype(np.float32), ("batch", 1)),)
        self._answer = {"output": np.zeros((1, 1), np.float32)}

    def infer_impl(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        del feeds
        return self._answer

    def close(self) -> None:
        """Nothing to free."""


def harness_seconds(clock: Callable[[], float] = time.perf_counter) -> float:
    """Median of `_RUNS` queries to the null engine: call, validation and two readings of the clock.

    What a query costs beside the engine's own work, whichever engine it is.
    """
    inputs = np.zeros((1, 3, 8, 8), np.float32)
    seconds = []
    with NullSession() as session:
        for _ in range(_RUNS):
            started = clock()
            session.run(inputs)
            seconds.append(clock() - started)
    return statistics.median(seconds)
