"""Other people's implementations of our networks, with random weights in files as they save them.

One `Origin` per implementation and layout. `python -m benchmarks.sources` and the tests compare our
networks with them. All run on the CPU; none needs a download.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

__all__ = [
    "KERAS",
    "KERAS_FORMATS",
    "ORIGINS",
    "KerasOrigin",
    "Origin",
    "Sample",
    "TorchOrigin",
    "keras_network",
    "keras_outputs",
    "noise",
    "pytorch_fid_inception",
    "randomise",
    "save_keras",
    "timm_network",
    "torchvision_googlenet",
    "torchvision_inception_v3",
]

# torchvision's compiled operators may belong to another torch build than a CPU one from the
# registry; its Python import only needs their schemas to exist. Kept alive with the module.
_TORCHVISION_OPS = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
for _name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, _name):
        _TORCHVISION_OPS.define(  # type: ignore[no-untyped-call]
            f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )


@torch.no_grad()
def randomise(module: nn.Module, seed: int, gain: float = 1.0) -> None:
    """Random weights and norm statistics that keep activations of order one; no layer is trivial.

    Depthwise and other linear-to-linear layers get no gain: only a ReLU halves the variance, and
    networks where one follows every convolution want a gain of 2.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            fan_in = layer.weight[0].numel()
            layer.weight.normal_(0.0, (gain / fan_in) ** 0.5, generator=generator)
            if layer.bias is not None:
                layer.bias.normal_(0.0, 0.2, generator=generator)
        elif isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)):
            layer.weight.uniform_(0.5, 1.5, generator=generator)
            layer.bias.normal_(0.0, 0.2, generator=generator)
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer.get_buffer("running_mean").normal_(0.0, 0.2, generator=generator)
            layer.get_buffer("running_var").uniform_(0.5, 1.5, generator=generator)
    for name, parameter in module.named_parameters():
        if name.endswith("gamma"):  # layer scale; signs differ on purpose
            parameter.normal_(0.0, 0.5, generator=generator)


def noise(side: int, batch: int = 2, channels: int = 3) -> Tensor:
    """Seeded white noise (batch, channels, side, side)."""
    return torch.randn(batch, channels, side, side, generator=torch.Generator().manual_seed(4))


def torchvision_googlenet() -> Any:
    """torchvision's GoogLeNet with its auxiliary heads, without `transform_input`."""
    import torchvision

    return torchvision.models.googlenet(
        weights=None, aux_logits=True, transform_input=False, init_weights=False
    )


def torchvision_inception_v3(num_classes: int = 1000, aux_logits: bool = True) -> Any:
    """torchvision's Inception v3, without `transform_input`."""
    import torchvision

    return torchvision.models.inception_v3(
        weights=None,
        num_classes=num_classes,
        aux_logits=aux_logits,
        transform_input=False,
        init_weights=False,
    )


def timm_network(name: str) -> Any:
    """timm's network of that name."""
    import timm

    return timm.create_model(name, pretrained=False)


def cadene_network(name: str, classes: int) -> Any:
    """The network of pretrained-models.pytorch of that name."""
    import pretrainedmodels

    return getattr(pretrainedmodels, name)(num_classes=classes, pretrained=None)


def pytorch_fid_inception() -> Any:
    """pytorch-fid's Inception v3, given random weights where it would download its own."""
    from pytorch_fid import inception

    weights = torchvision_inception_v3(num_classes=1008, aux_logits=False).state_dict()
    with mock.patch.object(inception, "load_state_dict_from_url", return_value=weights):
        return inception.fid_inception_v3()


@dataclass(frozen=True)
class Sample:
    """Random weights as `path`, and the logits (N, classes) an implementation gives for `images`.

    Args:
        images: (N, 3, H, W), float32.
    """

    path: Path
    images: Tensor
    logits: Tensor


class Origin(Protocol):
    """An implementation of `network`; `package` is its distribution, `model` its name there."""

    @property
    def network(self) -> str: ...

    @property
    def package(self) -> str: ...

    @property
    def model(self) -> str: ...

    @property
    def layout(self) -> str: ...

    @property
    def size(self) -> int: ...

    def sample(self, folder: Path) -> Sample:
        """Random weights, saved in `folder` as this origin saves them."""


@dataclass(frozen=True)
class TorchOrigin:
    """A PyTorch module; its state dict goes to a file with this suffix.

    Args:
        size: side of the images, pixels; small, or the native one where the head fixes it.
        gain: see `randomise`.
    """

    network: str
    package: str
    model: str
    layout: str
    size: int
    build: Callable[[], Any]
    suffix: str = ".pth"
    gain: float = 2.0
    batch: int = 1

    def sample(self, folder: Path) -> Sample:
        module = self.build().eval()
        randomise(module, seed=3, gain=self.gain)
        path = folder / f"{self.package}-{self.model}{self.suffix}"
        tensors = module.state_dict()
        if self.suffix == ".safetensors":
            save_file(tensors, path)
        else:
            torch.save(tensors, path)
        images = noise(self.size, self.batch)
        with torch.no_grad():
            return Sample(path, images, module(images))


KERAS_FORMATS = (".h5", ".weights.h5", ".keras")
"""Legacy weights (what Keras publishes), Keras 3's weights, a whole Keras 3 model."""


@contextmanager
def _quiet_keras() -> Iterator[Any]:
    """Keras on torch, which warns of NumPy's `copy` keyword at every array it saves."""
    if "KERAS_HOME" not in os.environ:  # where it would leave a settings file behind
        os.environ["KERAS_HOME"] = tempfile.mkdtemp(prefix="keras-")
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


def _torchvision(network: str, size: int, build: Callable[[], Any]) -> TorchOrigin:
    return TorchOrigin(network, "torchvision", network, "torchvision", size, build)


def _timm(network: str, size: int, model: str = "", gain: float = 2.0) -> TorchOrigin:
    model = model or network
    return TorchOrigin(
        network,
        "timm",
        model,
        "timm",
        size,
        lambda: timm_network(model),
        suffix=".safetensors",
        gain=gain,
    )


def _cadene(
    network: str,
    size: int,
    model: str,
    layout: str = "cadene",
    classes: int = 1000,
    gain: float = 2,
) -> TorchOrigin:
    return TorchOrigin(
        network,
        "pretrainedmodels",
        model,
        layout,
        size,
        lambda: cadene_network(model, classes),
        gain=gain,
    )


ORIGINS: tuple[Origin, ...] = (
    _torchvision("googlenet", 83, torchvision_googlenet),
    _torchvision("inception_v3", 97, torchvision_inception_v3),
    _timm("inception_v3", 111),
    _timm("inception_v4", 97),
    _timm("inception_resnet_v2", 97),
    _timm("xception", 75, "legacy_xception", gain=1.0),
    *(_timm(f"xception{depth}", 43, gain=1.0) for depth in ("41", "65", "71", "41p", "65p")),
    *(_timm(f"inception_next_{size}", 64, gain=1.0) for size in ("atto", "tiny", "small", "base")),
    # their heads pool the native size's map
    _cadene("bn_inception", 224, "bninception"),
    _cadene("inception_v4", 299, "inceptionv4", layout="timm", classes=1001),
    _cadene("inception_resnet_v2", 299, "inceptionresnetv2", classes=1001),
    _cadene("xception", 75, "xception", gain=1.0),
    TorchOrigin(
        "inception_v3_fid",
        "pytorch-fid",
        "fid_inception_v3",
        "pytorch-fid",
        97,
        pytorch_fid_inception,
    ),
    *KERAS,
    *KERAS_3,
)
