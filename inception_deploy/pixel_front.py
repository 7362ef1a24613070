"""Raw pixels in front of a PyTorch network: what `pixels.py` puts in front of its graph."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from inception_deploy.preprocess import Preprocessing
from inception_deploy.recipe import Layout

__all__ = ["PixelFront"]


class PixelFront(nn.Module):
    """Pixels of cropped images, uint8 RGB in 0–255, to normalised float32 (N, 3, H, W).

    Args:
        preprocessing: its mean, std, scale and channel order; see `pixels.py` for the formula.
        layout: of what it takes: (N, 3, H, W), or (N, H, W, 3) for "NHWC".
    """

    def __init__(self, preprocessing: Preprocessing, layout: Layout) -> None:
        super().__init__()
        std = np.asarray(preprocessing.std, np.float64)
        scale = preprocessing.pixel_max / 255.0 / std
        shift = -np.asarray(preprocessing.mean, np.float64) / std
        self.channels_first, self.swapped = layout == "NCHW", preprocessing.channel_order == "BGR"
        for name, values in (("scale", scale), ("shift", shift)):
            rounded = torch.from_numpy(values.astype(np.float32))
            self.register_buffer(name, rounded.reshape(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        images = pixels.to(torch.float32)
        if not self.channels_first:
            images = images.permute(0, 3, 1, 2)
        if self.swapped:
            images = images.flip(1)
        return images * self.get_buffer("scale") + self.get_buffer("shift")
