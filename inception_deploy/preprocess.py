"""The preprocessing contract: what happens to pixels between the image file and the network.

One object serves calibration, parity, predict and bench, and is recorded in the bundle's manifest
and in the ONNX metadata, so that nobody has to guess it again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inception_deploy.errors import RecipeError

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Interpolation", "Preprocessing"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Interpolation: TypeAlias = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Triple: TypeAlias = tuple[float, float, float]

_RESAMPLING: Mapping[str, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a network input.

    The order of steps is: convert to RGB; resize the shorter side to `resize` pixels keeping the
    aspect ratio (Pillow, antialiased); crop the central `size` × `size` square; scale 0–255 pixels
    to 0–`pixel_max`; reorder channels to `channel_order`; subtract `mean`, divide by `std`.

    Args:
        size: side of the square network input, pixels.
        resize: length of the shorter side after resizing, pixels; at least `size`.
        interpolation: Pillow resampling filter.
        mean: per channel, in `channel_order`, for pixels in 0–`pixel_max`.
        std: per channel, in `channel_order`, for pixels in 0–`pixel_max`.
        channel_order: "RGB" or "BGR" (Caffe).
        pixel_max: 1.0, or 255.0 for Caffe networks.

    Raises:
        RecipeError: for values that cannot describe a preprocessing.
    """

    size: int
    resize: int
    interpolation: Interpolation = "bicubic"
    mean: Triple = (0.5, 0.5, 0.5)
    std: Triple = (0.5, 0.5, 0.5)
    channel_order: Literal["RGB", "BGR"] = "RGB"
    pixel_max: float = 1.0

    def __post_init__(self) -> None:
        if self.size < 1 or self.resize < self.size:
            raise RecipeError(
                f"resize {self.resize} must be at least the input size {self.size}, and both >= 1"
            )
        if self.interpolation not in _RESAMPLING:
            raise RecipeError(
                f"unknown interpolation '{self.interpolation}'; known: {', '.join(_RESAMPLING)}"
            )
        if self.channel_order not in ("RGB", "BGR"):
            raise RecipeError(f"channel order must be RGB or BGR, not '{self.channel_order}'")
        if {len(self.mean), len(self.std)} != {3}:
            raise RecipeError("mean and std need three numbers each, one per channel")
        if not all(map(math.isfinite, self.mean)):
            raise RecipeError(f"mean must be finite, not {self.mean}")
        if not all(math.isfinite(s) and s > 0 for s in self.std):
            raise RecipeError(f"std must be finite and positive, not {self.std}")
        if not (math.isfinite(self.pixel_max) and self.pixel_max > 0):
            raise RecipeError(f"pixel_max must be finite and positive, not {self.pixel_max}")

    @classmethod
    def with_crop_pct(cls, size: int, crop_pct: float, **fields: Any) -> Self:
        """A preprocessing with `resize = floor(size / crop_pct)`, timm's rule (299/.875 → 341)."""
        if not 0 < crop_pct <= 1:
            raise RecipeError(f"crop_pct must be in (0, 1], not {crop_pct}")
        return cls(size=size, resize=math.floor(size / crop_pct), **fields)

    @classmethod
    def from_timm_config(cls, config: Mapping[str, Any]) -> Self:
        """From timm's `pretrained_cfg` (the inner dict of a hub `config.json`).

        Fields read: `input_size` (C, H, W), `crop_pct`, `crop_mode`, `interpolation`, `mean`,
        `std`.
        """
        try:
            _, height, width = config["input_size"]
            mean, std = tuple(config["mean"]), tuple(config["std"])
        except (KeyError, TypeError, ValueError) as error:
            raise RecipeError(
                f"config.json lacks a usable input_size, mean or std ({error})"
            ) from error
        if height != width:
            raise RecipeError(f"only square inputs are supported, config.json has {height}×{width}")
        if config.get("crop_mode", "center") != "center":
            raise RecipeError(f"crop_mode '{config['crop_mode']}' is not supported, only 'center'")
        return cls.with_crop_pct(
            height,
            float(config.get("crop_pct", 0.875)),
            interpolation=config.get("interpolation", "bicubic"),
            mean=mean,
            std=std,
        )

    def with_size(self, size: int) -> Self:
        """The same preprocessing for another input size, keeping the ratio of resize to size."""
        return replace(self, size=size, resize=size * self.resize // self.size)

    def crop(self, image: Image.Image) -> Image.Image:
        """Resize and centre-crop: any image → RGB image of `size` × `size`."""
        resized, box = self.resized(image)
        return resized.crop(box)

    def resized(self, image: Image.Image) -> tuple[Image.Image, tuple[int, int, int, int]]:
        """Any image → RGB image whose shorter side is `resize`, and the central square to crop.

        The square is (left, top, right, bottom) in pixels.
        """
        image = image.convert("RGB")
        width, height = image.size
        shorter = min(width, height)
        # torchvision's rule: the longer side is truncated, not rounded
        target = (self.resize * width // shorter, self.resize * height // shorter)
        if target != image.size:
            image = image.resize(target, _RESAMPLING[self.interpolation])
        left = round((target[0] - self.size) / 2)
        top = round((target[1] - self.size) / 2)
        return image, (left, top, left + self.size, top + self.size)

    def normalise(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 RGB pixels (…, H, W, 3) → float32 network input (…, 3, H, W)."""
        # division, as torchvision's ToTensor divides: a product with 1/255 differs in the last bit
        values = pixels.astype(np.float32) / np.float32(255.0 / self.pixel_max)
        if self.channel_order == "BGR":
            values = values[..., ::-1]
        values -= np.asarray(self.mean, np.float32)
        values /= np.asarray(self.std, np.float32)
        return np.ascontiguousarray(np.moveaxis(values, -1, -3))

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """An image → float32 network input (3, size, size)."""
        return self.normalise(np.asarray(self.crop(image), np.uint8))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` is the inverse."""
        fields = asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises `RecipeError` for unknown or missing fields."""
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()
        }
        try:
            return cls(**values)
        except TypeError as error:
            raise RecipeError(f"not a preprocessing: {error}") from error

    def to_json(self) -> str:
        """One line of JSON, as stored in the ONNX metadata."""
        return json.dumps(self.to_dict(), sort_keys=True)
