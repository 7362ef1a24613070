"""Narrow networks with weights that hide nothing, their goldens and their exports, for tests."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import nn

from inception_deploy.artifact import Artifact, FloatArray, Golden
from inception_deploy.export import export
from inception_deploy.golden import record_golden
from inception_deploy.networks import NETWORKS, InceptionNetwork
from inception_deploy.networks.base import Head

__all__ = ["CLASSES", "exported", "golden_of", "images", "small_network"]

CLASSES = tuple(f"class {index}" for index in range(7))
WIDTH = 0.125


def small_network(name: str, head: Head = "logits", seed: int = 0) -> InceptionNetwork:
    """An eighth of the width, 7 classes; no batch norm is the identity, no bias is zero."""
    torch.manual_seed(seed)
    module = NETWORKS.get(name).build(num_classes=len(CLASSES), width=WIDTH)
    module.head = head
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.2)
            nn.init.normal_(part.get_buffer("running_mean"), std=0.2)
            nn.init.uniform_(part.get_buffer("running_var"), 0.5, 1.5)
        elif isinstance(part, (nn.Conv2d, nn.Linear)) and part.bias is not None:
            nn.init.normal_(part.bias, std=0.2)
    for name, parameter in module.named_parameters():
        if name.endswith(".gamma"):  # a layer scale of 1 says nothing
            nn.init.uniform_(parameter, 0.5, 1.5)
    return module.eval()


def images(name: str, count: int = 5) -> FloatArray:
    """Seeded noise of the smallest size the network takes, but no less than 64 pixels."""
    size = max(NETWORKS.get(name).min_size, 64)
    noise = np.random.default_rng(0).standard_normal((count, 3, size, size))
    return noise.astype(np.float32)


@cache
def golden_of(name: str, head: Head = "logits") -> Golden:
    """The golden of `small_network(name, head)` on `images(name)`."""
    return record_golden(small_network(name, head), images(name))


@cache
def exported(name: str, head: Head = "logits") -> Artifact:
    """The export of `small_network(name, head)`."""
    return export(
        small_network(name, head),
        golden_of(name, head),
        network=name,
        preprocessing=NETWORKS.get(name).preprocessing.with_size(images(name).shape[-1]),
        class_names=CLASSES,
    )
