"""Drawing with signed distances: shapes, textures and a canvas for the built-in task.

A field maps local coordinates to a value per pixel. A shape's is its signed distance, negative
inside, for a circumradius of about 1; a texture's is positive where the first of two colours goes.
Everything is single precision and vectorised over the pixel grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["SHAPES", "TEXTURES", "Canvas", "Field", "Plane"]

Plane: TypeAlias = NDArray[np.float32]

_FIVE_FOLD = 2 * math.pi / 5
# 5-pointed star with circumradius 1 and inner radius 0.45: the edge from tip to notch
_STAR_TIP = (1.0, 0.0)
_STAR_NOTCH = (0.45 * math.cos(_FIVE_FOLD / 2), 0.45 * math.sin(_FIVE_FOLD / 2))


def _plane(values: NDArray[Any]) -> Plane:
    """Single precision throughout: half the memory traffic, and no surprise by promotion."""
    return np.asarray(values, np.float32)


def _disc(x: Plane, y: Plane) -> Plane:
    return np.sqrt(x * x + y * y) - np.float32(0.85)


def _ring(x: Plane, y: Plane) -> Plane:
    return np.abs(np.sqrt(x * x + y * y) - np.float32(0.68)) - np.float32(0.26)


def _square(x: Plane, y: Plane) -> Plane:
    return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.75)


def _triangle(x: Plane, y: Plane) -> Plane:
    sloped = np.float32(0.75**0.5) * np.abs(x) + np.float32(0.5) * y
    return np.maximum(sloped, -y) - np.float32(0.5)


def _star(x: Plane, y: Plane) -> Plane:
    angle = np.arctan2(y, x)
    angle = np.abs(angle - np.float32(_FIVE_FOLD) * np.rint(angle * np.float32(1 / _FIVE_FOLD)))
    radius = np.sqrt(x * x + y * y)
    along, across = radius * np.cos(angle), radius * np.sin(angle)
    edge_x, edge_y = _STAR_NOTCH[0] - _STAR_TIP[0], _STAR_NOTCH[1] - _STAR_TIP[1]
    length = math.hypot(edge_x, edge_y)
    normal_x, normal_y = np.float32(edge_y / length), np.float32(edge_x / length)
    return _plane((along - np.float32(_STAR_TIP[0])) * normal_x - across * normal_y)


def _cross(x: Plane, y: Plane) -> Plane:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - np.float32(0.9), np.minimum(x, y) - np.float32(0.32))


def _crescent(x: Plane, y: Plane) -> Plane:
    bite = np.sqrt((x - np.float32(0.5)) ** 2 + y * y) - np.float32(0.68)
    return np.maximum(np.sqrt(x * x + y * y) - np.float32(0.9), -bite)


def _heart(x: Plane, y: Plane) -> Plane:
    # a square standing on its corner, with a disc on each of its two upper sides
    x, y = np.abs(x), y + np.float32(0.12)
    u, v = np.float32(0.5**0.5) * (x + y), np.float32(0.5**0.5) * (x - y)
    square = np.maximum(np.abs(u), np.abs(v)) - np.float32(0.55)
    lobe = np.sqrt((u - np.float32(0.55)) ** 2 + v * v) - np.float32(0.55)
    return _plane(np.minimum(square, lobe))


def _striped(u: Plane, v: Plane) -> Plane:
    return _plane(np.sin(np.float32(2 * math.pi) * u))


def _dotted(u: Plane, v: Plane) -> Plane:
    u, v = u - np.rint(u), v - np.rint(v)
    return (np.float32(0.3) - np.sqrt(u * u + v * v)) * np.float32(5)


def _checkered(u: Plane, v: Plane) -> Plane:
    waves = np.sin(np.float32(math.pi) * u) * np.sin(np.float32(math.pi) * v)
    return _plane(waves * np.float32(1.5))


Field: TypeAlias = Callable[[Plane, Plane], Plane]

# signed distance (negative inside) of a shape of circumradius ≈ 1
SHAPES: dict[str, Field] = {
    "disc": _disc,
    "ring": _ring,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "crescent": _crescent,
    "heart": _heart,
}
# positive where the first colour goes, negative where the second does; period 1 (checks: 2)
TEXTURES: dict[str, Field] = {"striped": _striped, "dotted": _dotted, "checkered": _checkered}


class Canvas:
    """RGB planes (3, n, n) in 0–1, painted through signed distances in units of the image side."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.grid: Plane = ((np.arange(size, dtype=np.float32) + np.float32(0.5)) / size).astype(
            np.float32
        )
        self.pixels: Plane = np.empty((3, size, size), np.float32)

    def window(self, x: float, y: float, reach: float) -> tuple[slice, slice] | None:
        """Rows and columns within `reach` of (x, y); None where that is off the canvas."""
        spans = []
        for centre in (y, x):
            low = max(int((centre - reach) * self.size), 0)
            high = min(math.ceil((centre + reach) * self.size), self.size)
            if low >= high:
                return None
            spans.append(slice(low, high))
        return spans[0], spans[1]

    def local(
        self, where: tuple[slice, slice], x: float, y: float, angle: float, scale: float
    ) -> tuple[Plane, Plane]:
        """Coordinates of a window's pixels in a frame at (x, y), turned and scaled."""
        cos, sin = np.float32(math.cos(angle) / scale), np.float32(math.sin(angle) / scale)
        across = (self.grid[where[1]] - np.float32(x))[None, :]
        down = (self.grid[where[0]] - np.float32(y))[:, None]
        return cos * across + sin * down, cos * down - sin * across

    def cover(self, distance: Plane, softness: float = 0.0) -> Plane:
        """Signed distance (image sides) → coverage 0–1, one pixel (plus `softness`) wide."""
        width = 1.0 / self.size + softness
        return _plane(np.clip(np.float32(0.5) - distance * np.float32(1 / width), 0, 1))

    def paint(self, where: tuple[slice, slice], cover: Plane, fill: Plane) -> None:
        """Lay `fill` (3,) or (3, h, w) over a window, weighted by `cover` (h, w)."""
        region = self.pixels[:, where[0], where[1]]
        if fill.ndim == 1:
            fill = fill[:, None, None]
        region += cover * (fill - region)
