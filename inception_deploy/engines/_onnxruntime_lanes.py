"""A batch cut into lanes: equal parts that run side by side, each on a thread of its own.

Where one run gives every operator all threads, they wait for each other at the end of each
operator, and what an operator does on one thread keeps the others idle. Lanes never wait before the
end of the batch: docs/decisions/010.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np

from inception_deploy.engines.base import Array, TensorSpec
from inception_deploy.machine import physical_cores

__all__ = ["Lanes", "own_threads", "separable"]

_ASKED = "ORT_INTRA_OP_NUM_THREADS"
"""Where ONNX Runtime looks for a number of threads that no option names (pull request 29688)."""

_UNNAMED = "?"


class Lanes:
    """Threads that run the parts of a batch on one session, at the same time.

    It may be used from several threads at once: their parts take turns.

    Args:
        session: an `onnxruntime.InferenceSession` that runs in the thread that calls it.
        count: of lanes, 2 at least.
    """

    def __init__(self, session: Any, count: int) -> None:
        self._session = session
        self._count = count
        self._threads = ThreadPoolExecutor(count - 1, "lane")  # the caller's own is one, too

    def run(self, feeds: Mapping[str, Array], names: Sequence[str]) -> list[Array]:
        """The outputs `names` of the whole batch.

        Args:
            feeds: inputs (N, …), all of one N, which is a multiple of the number of lanes.

        Raises:
            Exception: what ONNX Runtime raises of the first lane that fails, when all are done.
        """
        size = len(next(iter(feeds.values()))) // self._count
        parts = [
            {name: value[lane * size : (lane + 1) * size] for name, value in feeds.items()}
            for lane in range(self._count)
        ]
        others = [self._threads.submit(self._session.run, names, part) for part in parts[1:]]
        try:
            first = self._session.run(names, parts[0])
        finally:
            wait(others)
        found = [first, *(other.result() for other in others)]
        return [np.concatenate(values) for values in zip(*found, strict=True)]

    def close(self) -> None:
        """End the threads and free the session."""
        self._threads.shutdown()
        self._session = None


def separable(inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec]) -> bool:
    """Whether the shapes let a batch be cut: everything has one row per image.

    So all first dimensions are free and the same by name, and no other one can depend on the number
    of images. That images do not look at each other shapes cannot tell; every graph of a bundle is
    proven on batches of several sizes (`proof.py`).
    """
    inputs, outputs = tuple(inputs), tuple(outputs)
    if not all(spec.shape for spec in (*inputs, *outputs)):
        return False
    first, *others = {spec.shape[0] for spec in (*inputs, *outputs)}
    if others or isinstance(first, int) or first == _UNNAMED:
        return False
    free = {d for spec in outputs for d in spec.shape[1:] if isinstance(d, str)}
    return not free and all(first not in spec.shape[1:] for spec in inputs)


def own_threads() -> int:
    """How many threads ONNX Runtime takes where nobody asks for a number; 1 where that is unknown.

    Its default are the machine's physical cores, unless the environment names a number; here only
    those count that this process may use.
    """
    asked = os.environ.get(_ASKED, "")
    return (int(asked) if asked.isdecimal() else 0) or physical_cores() or 1
