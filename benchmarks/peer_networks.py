"""Other people's implementations of our networks, with random weights in files as they save them.

`python -m benchmarks.sources` and the tests compare our networks with them. All run on the CPU;
none needs a download. Keras's are in `benchmarks.keras_networks`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.torchvision_operators import provide_operators

__all__ = [
    "Origin",
    "Sample",
    "TorchOrigin",
    "cadene_network",
    "noise",
    "pytorch_fid_inception",
    "randomise",
    "timm_network",
    "torchvision_googlenet",
    "torchvision_inception_v3",
]

provide_operators()


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
