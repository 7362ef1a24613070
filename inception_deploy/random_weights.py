"""Random networks that behave: seeded weights whose activations stay of order one.

Useful for measuring speed and numerics without a checkpoint, and for nothing else. Freshly drawn
weights alone would not do, in two ways that trained networks of the family do not know. Without
matching batch-norm statistics activations grow by orders of magnitude over the depth and overflow
half precision. And with centred statistics the network is chaotic: a ReLU φ of z ~ N(β, 1), batch
norm after it, magnifies small differences by √(E[φ′(z)²] / Var[φ(z)]) per layer (arXiv 1902.08129),
which is 1.21 for β = 0 and amounts to 10⁵ over 60 layers; rounding errors then say nothing about
the rounding. For β = 1, where most of z is positive, it is 1.06.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inception_deploy.networks import InceptionNetwork, NetworkSpec
from inception_deploy.networks.base import calibrate_batch_norm
from inception_deploy.preprocess import Preprocessing

__all__ = ["octave_noise", "pixel_spread", "random_network"]

SHIFT = 1.0
"""β above: mean of what goes into a ReLU, in standard deviations."""

# Deep maps of small images hold a handful of positions; more images make up for it.
IMAGES, IMAGES_IF_SMALL, SMALL_SIDE = 8, 32, 160


def octave_noise(count: int, side: int) -> Tensor:
    """Noise with structure at every scale, as images have: (count, 3, side, side), float32.

    Gaussian grids of 2, 4, 8, … cells, each enlarged bilinearly, summed with equal weight; every
    image is scaled to a standard deviation between 0.25 and 1.25. White noise will not do here: a
    network calibrated on it overshoots fiftyfold on smooth images, as its deep layers have only
    seen averages that hardly vary. Draws from torch's global generator.
    """
    images = torch.zeros(count, 3, side, side)
    cells = 2
    while cells <= side:
        grid = torch.randn(count, 3, cells, cells)
        images += F.interpolate(grid, size=(side, side), mode="bilinear", align_corners=False)
        cells *= 2
    contrast = 0.25 + torch.rand(count, 1, 1, 1)
    return images / images.std((1, 2, 3), keepdim=True) * contrast


def pixel_spread(preprocessing: Preprocessing) -> Tensor:
    """Half the range of preprocessed pixels per channel, (1, 3, 1, 1): 1 for mean and std of 0.5.

    What noise is to be multiplied with to look like the network's images; 127.5 where pixels are
    0–255 and not scaled.
    """
    half = preprocessing.pixel_max / 2
    return torch.tensor([half / std for std in preprocessing.std]).reshape(1, 3, 1, 1)


def random_network(
    spec: NetworkSpec, seed: int, *, num_classes: int, width: float, image_size: int
) -> InceptionNetwork:
    """A network whose every tensor follows from the arguments; torch's generator is left alone.

    Args:
        seed: of the initialisation and of the images on which batch norm measures its statistics.
        image_size: side of those images, pixels.
    """
    construct = cast(Callable[..., InceptionNetwork], spec.build)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = construct(num_classes=num_classes, width=width)
        count = IMAGES_IF_SMALL if image_size < SMALL_SIDE else IMAGES
        images = octave_noise(count, image_size) * pixel_spread(spec.preprocessing)
        norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
        for norm in norms:
            nn.init.constant_(norm.bias, SHIFT)
        if norms:
            calibrate_batch_norm(module, images)
        else:
            _calibrate_convolutions(module, images)
    return module.eval()


@torch.no_grad()
def _calibrate_convolutions(module: nn.Module, images: Tensor) -> None:
    """The same for a network without batch norm: as if one had been there and was folded away.

    Each convolution's output channels get the standard deviation of `images`, so that what depends
    on magnitudes, local response normalisation, has work to do, and `SHIFT` of these as their mean.
    """
    unit = float(images.std())

    def rescale(layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        assert isinstance(layer, nn.Conv2d)
        assert layer.bias is not None
        mean, std = output.mean((0, 2, 3)), output.std((0, 2, 3))
        factor = unit / std
        layer.weight.mul_(factor[:, None, None, None])
        layer.bias.sub_(mean).mul_(factor).add_(SHIFT * unit)
        return (output - mean[:, None, None]) * factor[:, None, None] + SHIFT * unit

    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    hooks = [layer.register_forward_hook(rescale) for layer in layers]
    module.eval()(images)
    for hook in hooks:
        hook.remove()
