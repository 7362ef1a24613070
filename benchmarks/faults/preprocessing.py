"""A manifest that says another preprocessing than the network was made for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.faults.base import Fault, Planted, Site

__all__ = ["FAULTS"]

_IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


class _Changed(Fault):
    level = "manifest"

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        del rng
        now = dict(site.preprocessing)
        changed = self.changed(now)
        if changed is None or {**now, **changed} == now:
            return None
        said = ", ".join(f"{k} {v}" for k, v in changed.items())
        return Planted(("input",), said, preprocessing={**now, **changed})

    @abstractmethod
    def changed(self, now: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The entries that are others; None where the fault has no meaning."""


class MeanStd(_Changed):
    """Mean and std in each other's place."""

    name = "mean_std_swapped"

    def changed(self, now: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if min(now["mean"]) <= 0:
            return None
        return {"mean": now["std"], "std": now["mean"]}


class Order(_Changed):
    """RGB for BGR or the other way."""

    name = "rgb_bgr"

    def changed(self, now: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return {"channel_order": "BGR" if now["channel_order"] == "RGB" else "RGB"}


class Normalisation(_Changed):
    """ImageNet's mean and std for 0.5, or the other way: the family is split over it."""

    name = "other_normalisation"

    def changed(self, now: Mapping[str, Any]) -> Mapping[str, Any] | None:
        scale = now["pixel_max"]
        if list(now["mean"]) == [0.5 * scale] * 3:
            mean, std = _IMAGENET
        else:
            mean, std = [0.5] * 3, [0.5] * 3
        return {"mean": [m * scale for m in mean], "std": [s * scale for s in std]}


class Interpolation(_Changed):
    """Another filter."""

    name = "interpolation"

    def changed(self, now: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return {"interpolation": "bilinear" if now["interpolation"] == "bicubic" else "bicubic"}


class CropOff(_Changed):
    """The margin around the crop is gone, or one has come."""

    name = "crop_off"

    def changed(self, now: Mapping[str, Any]) -> Mapping[str, Any] | None:
        size = int(now["size"])
        return {"resize": size if now["resize"] != size else round(size / 0.875)}


class PixelRange(_Changed):
    """Pixels in 0–255 for 0–1, or the other way."""

    name = "pixel_range"

    def changed(self, now: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return {"pixel_max": 255.0 if now["pixel_max"] == 1.0 else 1.0}


FAULTS = (MeanStd(), Order(), Normalisation(), Interpolation(), CropOff(), PixelRange())
