"""First choices of small networks on images that leave no doubt, for tests of FP16."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from small_networks import images, small_network

from benchmarks.family import Choices, choices_of
from inception_deploy.artifact import FloatArray
from inception_deploy.parity import Predictor
from inception_deploy.trials import torch_predictor

__all__ = ["NETWORKS", "Batch", "first_choices"]

IMAGES = 64
NETWORKS = ("googlenet", "inception_v3", "inception_resnet_v2", "xception")


@dataclass(frozen=True)
class Batch:
    """Images whose right answers nobody knows."""

    inputs: FloatArray
    labels: None = None


def first_choices(network: str, run: Predictor) -> Choices:
    """`run` against PyTorch on images that the golden has not seen.

    A near tie's lead is at most twice the largest error on the golden's images (decision 006). Each
    class is measured from its mean, as if the classifier had another bias: otherwise one class wins
    on every image of a random network.
    """
    predict = torch_predictor(small_network(network))
    shown, seen = images(network, IMAGES), len(images(network))
    means = predict(shown).mean(axis=0)
    margin = 2 * float(np.abs(run(shown[:seen]) - predict(shown[:seen])).max())
    return choices_of(
        lambda inputs: predict(inputs) - means,
        lambda inputs: run(inputs) - means,
        [Batch(shown[seen:])],
        margin,
    )
