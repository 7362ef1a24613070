"""Random networks that behave: seeded weights whose activations stay of order one.

Useful for measuring speed and numerics without a checkpoint, and for nothing else. Freshly drawn
weights alone would not do: without matching batch-norm statistics activations grow by orders of
magnitude over the depth and overflow half precision, which no trained network of the family does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from inception_deploy.networks import InceptionNetwork, NetworkSpec
from inception_deploy.networks.base import calibrate_batch_norm

__all__ = ["octave_noise", "random_network"]

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
        calibrate_batch_norm(module, octave_noise(count, image_size))
    return module.eval()
