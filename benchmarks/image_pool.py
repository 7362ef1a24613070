"""Training images made once, in parallel, into one memory-mapped file. Does not import torch."""

from __future__ import annotations

import itertools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inception_deploy.shapes import Shapes

__all__ = ["Pixels", "render"]

Pixels = NDArray[np.uint8]


def _render_range(source: Shapes, file: Path, total: int, start: int, stop: int) -> None:
    pool = np.memmap(file, np.uint8, "r+", shape=(total, source.size, source.size, 3))
    for index in range(start, stop):
        pool[index] = source.image(index)
    pool.flush()


def render(source: Shapes, count: int, file: Path, workers: int = 2) -> Pixels:
    """The first `count` images, uint8 (count, size, size, 3), memory-mapped from a new file.

    Args:
        workers: processes; 1 draws in this one.
    """
    shape = (count, source.size, source.size, 3)
    np.memmap(file, np.uint8, "w+", shape=shape).flush()
    if workers == 1:
        _render_range(source, file, count, 0, count)
        return np.memmap(file, np.uint8, "r", shape=shape)
    bounds = np.linspace(0, count, 8 * workers + 1).astype(int)
    # spawned, not forked: a fork would copy the parent's PyTorch threads in an unknown state
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as executor:
        jobs = [
            executor.submit(_render_range, source, file, count, int(a), int(b))
            for a, b in itertools.pairwise(bounds)
        ]
        for job in jobs:
            job.result()
    return np.memmap(file, np.uint8, "r", shape=shape)
