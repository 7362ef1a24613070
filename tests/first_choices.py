"""First choices of a small network on images that leave no doubt, for tests of FP16."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from small_networks import images, small_network

from inception_deploy.trials import torch_predictor

__all__ = ["Choices", "first_choices"]

IMAGES = 64


@dataclass(frozen=True)
class Choices:
    """How the images are chosen.

    Args:
        clear: images that are no near ties.
        changed: those of them with another first choice than PyTorch's.
        classes: that PyTorch chooses among all.
    """

    clear: int
    changed: int
    classes: int


def first_choices(network: str, run: Callable[[NDArray[Any]], NDArray[Any]]) -> Choices:
    """`run` against PyTorch on images that the golden has not seen.

    A near tie's lead is at most twice the largest error on the golden's images (decision 006). Each
    class is measured from its mean, as if the classifier had another bias: otherwise one class wins
    on every image of a random network.
    """
    shown, seen = images(network, IMAGES), len(images(network))
    expected, found = torch_predictor(small_network(network))(shown), run(shown)
    means = expected.mean(axis=0)
    margin = 2 * np.abs(found - expected)[:seen].max()
    expected, found = (expected - means)[seen:], (found - means)[seen:]
    second, first = np.sort(expected, axis=1)[:, -2:].T
    clear = first - second > margin
    changed = clear & (expected.argmax(axis=1) != found.argmax(axis=1))
    return Choices(int(clear.sum()), int(changed.sum()), len(set(expected.argmax(axis=1))))
