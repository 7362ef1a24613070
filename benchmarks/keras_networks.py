"""keras.applications' networks with random weights, and the files Keras makes of them.

Keras runs on torch here. It is imported only when it is needed.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.peer_networks import Sample, noise

__all__ = [
    "KERAS",
    "KERAS_3",
    "KERAS_FORMATS",
    "KerasOrigin",
    "keras_network",
    "keras_outputs",
    "save_keras",
]

KERAS_FORMATS = (".h5", ".weights.h5", ".keras")
"""Legacy weights (what Keras publishes), Keras 3's weights, a whole Keras 3 model."""


@cache
def _settings() -> tempfile.TemporaryDirectory[str]:
    """Where Keras leaves its settings file; removed when Python ends."""
    return tempfile.TemporaryDirectory(prefix="keras-")


@contextmanager
def _quiet_keras() -> Iterator[Any]:
    """Keras on torch, which warns of NumPy's `copy` keyword at every array it saves."""
    os.environ.setdefault("KERAS_HOME", _settings().name)
    os.environ.setdefault("KERAS_BACKEND", "torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import keras

        yield keras


def keras_network(model: str, size: int, classes: int = 1000, **options: Any) -> Any:
    """`keras.applications.MODEL` for images of `size` pixels, logits, random weights."""
    with _quiet_keras() as keras:
        module = getattr(keras.applications, model)(
            weights=None,
            input_shape=(size, size, 3),
            classes=classes,
            classifier_activation=None,
            **options,
        )
        generator = np.random.default_rng(5)
        for layer in module.layers:
            layer.set_weights(
                [_drawn(generator, type(layer).__name__, w.name, w.shape) for w in layer.weights]
            )
        return module


def _drawn(generator: np.random.Generator, layer: str, name: str, shape: tuple[int, ...]) -> Any:
    if name in ("gamma", "moving_variance"):
        return generator.uniform(0.5, 1.5, shape)
    if len(shape) == 1:
        return generator.normal(0.0, 0.2, shape)
    fan_in = np.prod(shape[:2]) if name == "depthwise_kernel" else np.prod(shape[:-1])
    gain = 2.0 if layer == "Conv2D" else 1.0  # a ReLU follows those, but no separable one
    return generator.normal(0.0, np.sqrt(gain / fan_in), shape)


def keras_outputs(module: Any, layers: Sequence[Any], images: Tensor) -> list[Tensor]:
    """For (N, C, H, W) images: the outputs of these layers, channels last, and the model's own."""
    with _quiet_keras() as keras, torch.no_grad():
        ends = keras.Model(module.input, [*(layer.output for layer in layers), module.output])
        outputs = ends(images.permute(0, 2, 3, 1).contiguous(), training=False)
    several = outputs if layers else [outputs]  # Keras unwraps a list of one
    return [output.detach() for output in several]


def save_keras(module: Any, path: Path) -> None:
    """In the format of the path's ending, one of `KERAS_FORMATS`."""
    import h5py

    with _quiet_keras():
        if path.name.endswith(".weights.h5"):
            module.save_weights(path)
        elif path.suffix == ".keras":
            module.save(path)
        else:
            from keras.src.legacy.saving import legacy_h5_format

            with h5py.File(path, "w") as file:
                legacy_h5_format.save_weights_to_hdf5_group(file, module)


@dataclass(frozen=True)
class KerasOrigin:
    """A network of keras.applications, saved in one of `KERAS_FORMATS`."""

    network: str
    model: str
    size: int
    format: str = ".h5"
    package: str = "keras"
    layout: str = "keras"

    def sample(self, folder: Path) -> Sample:
        module = keras_network(self.model, self.size)
        path = folder / f"keras-{self.model}{self.format}"
        save_keras(module, path)
        images = noise(self.size, batch=1)
        (logits,) = keras_outputs(module, [], images)
        return Sample(path, images, logits)


KERAS = (
    # sides that give maps of even and of odd size before the pools
    KerasOrigin("xception", "Xception", 96),
    KerasOrigin("inception_v3", "InceptionV3", 96),
    KerasOrigin("inception_resnet_v2", "InceptionResNetV2", 96),
)
KERAS_3 = tuple(replace(origin, format=".weights.h5") for origin in KERAS)
