"""Correct bundles to plant faults in: every network of the family, small, and answering with sense.

A random network is of no use here as it is: its classifier prefers one class for all images. So the
last linear layer is fitted to images of a few clearly different kinds, by ridge regression on the
features of the random network before it. The result is a classifier with labels that it gets right,
classes that are all used, and activations of order one at every depth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from inception_deploy.bundle import Bundle, file_digest, write_json
from inception_deploy.model_card import ModelCard
from inception_deploy.networks import NETWORKS, InceptionNetwork
from inception_deploy.networks.base import NetworkBuilder
from inception_deploy.pipeline import deploy
from inception_deploy.preprocess import Preprocessing
from inception_deploy.random_weights import random_network
from inception_deploy.recipe import PrecisionName, Recipe
from inception_deploy.reference import embedded_networks

__all__ = ["CLASSES", "EMBEDDED", "Subject", "subjects"]

CLASSES = 7
PER_CLASS = 12
WIDTH = 0.125
LEAST_SIDE = 64
"""Pixels, where the network takes less."""

SHORT: Mapping[str, Mapping[str, Any]] = {
    "inception_resnet_v1": {"repeats": (2, 3, 2)},
    "inception_resnet_v2": {"repeats": (2, 3, 2)},
}
"""Fewer of the equal blocks of the deepest: every kind of block is there all the same."""

CALIBRATION = 32
EMBEDDED = "embedded:"
"""In front of the names of the trained networks that the package brings."""

EMBEDDED_IMAGES = 200

PENALTY = 2.0
"""Of the ridge regression, per image: features of a random network are alike, and with less of it
the solution consists of large weights that cancel, which half precision does not bear."""


@dataclass(frozen=True)
class Subject:
    """A network whose bundles are made in `folder`, each once.

    Args:
        name: of the network; with `EMBEDDED` in front, the trained one of the package.
        folder: where weights, images and bundles lie.
    """

    name: str
    folder: Path

    @property
    def network(self) -> str:
        """The registered name."""
        return self.name.removeprefix(EMBEDDED)

    @property
    def trained(self) -> bool:
        """Whether it is one of the package's own."""
        return self.name.startswith(EMBEDDED)

    def bundle(self, precision: PrecisionName) -> Bundle:
        """The correct bundle, made if it is not there yet."""
        path = self.folder / f"{self.name.replace(':', '-')}-{precision}"
        if (path / "manifest.json").is_file():
            return Bundle.open(path)
        return deploy(self.recipe(precision), path)

    def recipe(self, precision: PrecisionName) -> Recipe:
        """What the bundle is made from."""
        if self.trained:
            return Recipe(
                network=self.network,
                weights="embedded",
                precision=precision,
                data_size=EMBEDDED_IMAGES,
                calibration_size=CALIBRATION,
                seconds=0.0,
            )
        weights, data = self._material()
        return Recipe(
            network=self.network,
            weights=str(weights),
            precision=precision,
            data=str(data),
            data_size=CLASSES * PER_CLASS,
            calibration_size=CALIBRATION,
            seconds=0.0,
        )

    @property
    def side(self) -> int:
        """Of the square input, pixels."""
        spec = NETWORKS.get(self.network)
        least = max(spec.min_size, LEAST_SIDE)
        return -(-least // spec.size_step) * spec.size_step

    def _material(self) -> tuple[Path, Path]:
        """Files of the fitted weights and of the images, made if they are not there yet."""
        self.folder.mkdir(parents=True, exist_ok=True)
        weights = self.folder / f"{self.name}.safetensors"
        data = self.folder / f"{self.name}.npz"
        if weights.is_file() and data.is_file():
            return weights, data
        spec = NETWORKS.get(self.network)
        short = SHORT.get(self.network, {})
        spec = replace(spec, build=cast(NetworkBuilder, partial(spec.build, **short)))
        images, labels = pictures(self.side, seed=_seed(self.network))
        module = random_network(spec, 0, num_classes=CLASSES, width=WIDTH, image_size=self.side)
        preprocessing = spec.preprocessing.with_size(self.side)
        fit_classifier(module, spec.classifier, _inputs(images, preprocessing), labels)
        np.savez_compressed(data, images=images, labels=labels)
        save_file({k: v.contiguous() for k, v in module.state_dict().items()}, weights)
        card = ModelCard(
            network=self.network,
            width=WIDTH,
            num_classes=CLASSES,
            class_names=tuple(f"kind {index}" for index in range(CLASSES)),
            image_size=self.side,
            preprocessing=preprocessing,
            build={k: list(v) if isinstance(v, tuple) else v for k, v in short.items()},
            sha256=file_digest(weights),
        )
        write_json(weights.with_suffix(".json"), card.to_dict())
        return weights, data


def subjects(folder: Path) -> tuple[Subject, ...]:
    """Every network of the family, and the trained ones."""
    names = [*NETWORKS.names(), *(EMBEDDED + name for name in embedded_networks())]
    return tuple(Subject(name, folder) for name in names)


def _seed(name: str) -> int:
    return sum(map(ord, name))


def pictures(side: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Coloured blobs of `CLASSES` kinds, larger than the network's input so that they are resized.

    Returns:
        uint8 (N, H, W, 3) and int64 (N,); classes in turn.
    """
    generator = torch.Generator().manual_seed(seed)
    large = side * 5 // 4

    def noise(count: int) -> Tensor:
        total = torch.zeros(count, 3, large, large)
        for cells in (2, 4, 8, 16, 32):
            grid = torch.randn(count, 3, cells, cells, generator=generator)
            total += F.interpolate(grid, size=(large, large), mode="bilinear")
        return total / total.std((1, 2, 3), keepdim=True)

    kinds, own = noise(CLASSES), noise(CLASSES * PER_CLASS)
    # a tint of its own for every class: swapped channels are then another class
    tint = torch.randn(CLASSES, 3, 1, 1, generator=generator)
    labels = torch.arange(CLASSES * PER_CLASS) % CLASSES
    mixed = 0.8 * kinds[labels] + 0.35 * own + 0.5 * tint[labels]
    pixels = (127.5 + 55 * mixed).clamp(0, 255).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().numpy(), labels.numpy()


def _inputs(images: NDArray[np.uint8], preprocessing: Preprocessing) -> Tensor:
    rows = [np.asarray(preprocessing.crop(Image.fromarray(image)), np.uint8) for image in images]
    return torch.from_numpy(preprocessing.normalise(np.stack(rows)))


@torch.no_grad()
def fit_classifier(
    module: InceptionNetwork, classifier: str, inputs: Tensor, labels: NDArray[np.int64]
) -> None:
    """Fit the linear layer `classifier` to `labels`, in place: logits of about ±5.

    Ridge regression; features are centred and scaled first, so that one penalty suits all networks.
    """
    layer = module.get_submodule(classifier)
    assert isinstance(layer, nn.Linear)
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _m, given: seen.append(given[0].clone()))
    for start in range(0, len(inputs), 16):
        module(inputs[start : start + 16])
    handle.remove()
    features = torch.cat(seen).double()
    mean, std = features.mean(0), features.std(0).clamp_min(1e-6)
    unit = (features - mean) / std
    target = 10.0 * F.one_hot(torch.from_numpy(labels), CLASSES).double() - 5.0
    gram = unit.T @ unit + PENALTY * len(unit) * torch.eye(unit.shape[1], dtype=torch.double)
    solved = torch.linalg.solve(gram, unit.T @ (target - target.mean(0)))
    weight = (solved / std[:, None]).T
    layer.weight.copy_(weight.float())
    if layer.bias is not None:
        layer.bias.copy_((target.mean(0) - weight @ mean).float())
