"""Networks at native size on random weights, and the files that benchmarks of speed keep of them.

Preparing a graph takes longer than timing it and needs no quiet machine, so that the benchmarks do
the two apart: what has been prepared stays in a folder, one below it per network, and is taken as
it is. To have it made anew, remove it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from inception_deploy.artifact import FloatArray
from inception_deploy.errors import InceptionDeployError
from inception_deploy.machine import LIBRARIES, describe, library_versions
from inception_deploy.preprocess import Preprocessing
from inception_deploy.random_weights import octave_noise, pixel_spread
from inception_deploy.throughput.report import Ratio

__all__ = [
    "CACHE",
    "SEED",
    "cycled",
    "geometric_mean",
    "kept_rows",
    "noise_images",
    "plain_errors",
    "provenance",
    "ratio_facts",
]

CACHE = Path("build/benchmarks")
"""Where prepared graphs are kept unless another folder is named."""

SEED = 1
"""Of the images; the weights have another one."""


def noise_images(preprocessing: Preprocessing, count: int, seed: int = SEED) -> FloatArray:
    """Octave noise as the network's inputs, float32 (count, 3, H, W)."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        noise = octave_noise(count, preprocessing.size) * pixel_spread(preprocessing)
    return np.asarray(noise.numpy(), np.float32)


def ratio_facts(ratio: Ratio) -> dict[str, Any]:
    """As result files hold a ratio of two candidates, its batch aside."""
    return {
        "of": ratio.candidate,
        "to": ratio.baseline,
        "ratio": round(ratio.ratio, 4),
        "ci95": [round(end, 4) for end in ratio.ci95],
    }


def cycled(images: FloatArray) -> Callable[[int], FloatArray]:
    """Batch size → that many of the images, from the first one again where they do not suffice."""

    def batch(size: int) -> FloatArray:
        return np.ascontiguousarray(images[np.arange(size) % len(images)])

    return batch


def geometric_mean(ratios: Iterable[float]) -> float:
    """exp of the mean logarithm. Needs at least one ratio, all above 0."""
    logarithms = [math.log(ratio) for ratio in ratios]
    return math.exp(math.fsum(logarithms) / len(logarithms))


def provenance() -> dict[str, Any]:
    """The machine, and the versions of everything that can change a figure."""
    machine = describe().to_dict()
    del machine["threads"]  # PyTorch's, which is not measured here
    return {"machine": machine, "versions": library_versions((*LIBRARIES, "nncf"))}


def kept_rows(results: Mapping[str, Any], now: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of earlier runs, unless they are of another machine or of other versions.

    Args:
        results: what the file holds; empty where there is none.
        now: `provenance()`.
    """
    same = all(results.get(key) == value for key, value in now.items())
    return list(results["rows"]) if same else []


@contextmanager
def plain_errors() -> Iterator[None]:
    """Around a benchmark's command: the toolkit's errors as one line, with its exit codes."""
    try:
        yield
    except InceptionDeployError as error:
        click.ClickException(str(error)).show()
        sys.exit(error.exit_code)
