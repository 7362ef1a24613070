"""The built-in image task `shapes`: 24 classes of textured shapes on cluttered backgrounds.

An endless supply of labelled images that needs no download: eight shapes × three textures. Each
image depends on (seed, split, index) alone, so any one can be made without its neighbours, and the
train and val splits never share a stream.

The scene is described in units of the image side, so the same index shows the same scene at every
size; only the sensor noise is per pixel. The class is that of the one whole shape in the picture.
Fragments of other shapes, strokes and blobs lie below it, and a few strokes or blobs above.
No class is chiral: a mirrored image keeps its label.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from inception_deploy.drawing import SHAPES, TEXTURES, Canvas, Field, Plane
from inception_deploy.errors import DataError

__all__ = [
    "CLASS_NAMES",
    "GENERATOR_VERSION",
    "NATIVE_SIZE",
    "Shapes",
    "Split",
    "main",
    "write_folder",
]

Split: TypeAlias = Literal["train", "val"]

GENERATOR_VERSION = 1  # part of the digest: raised whenever a given index would look different
NATIVE_SIZE = 96  # pixels; what the embedded networks are trained on

CLASS_NAMES: tuple[str, ...] = tuple(f"{t} {s}" for s in SHAPES for t in TEXTURES)


class _Draws:
    """Uniform draws from one PCG64 stream; nothing but `random` is used, the most stable of all."""

    def __init__(self, *key: int) -> None:
        self._rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))

    def __call__(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * self._rng.random()

    def below(self, n: float) -> int:
        """An integer from 0 up to, but never, `n`."""
        return int(self._rng.random() * n)

    def colour(self) -> Plane:
        return self._rng.random(3, dtype=np.float32)

    def noise(self, shape: tuple[int, ...]) -> Plane:
        """Triangular noise in (-1, 1), standard deviation 1/√6."""
        return self._rng.random(shape, dtype=np.float32) - self._rng.random(shape, np.float32)


def _background(canvas: Canvas, draw: _Draws, hardness: float) -> None:
    """A gradient between two colours, a faint wave and a few soft blobs."""
    everywhere = (slice(None), slice(None))
    ramp, _ = canvas.local(everywhere, 0.5, 0.5, draw(0, 2 * math.pi), 1.4)
    first, second = draw.colour(), draw.colour()
    canvas.pixels[:] = first[:, None, None] + (second - first)[:, None, None] * (
        ramp + np.float32(0.5)
    )
    wave, _ = canvas.local(everywhere, draw(), draw(), draw(0, math.pi), draw(0.06, 0.3))
    canvas.pixels += np.float32(hardness * draw(0.0, 0.15)) * np.sin(np.float32(2 * math.pi) * wave)
    for _ in range(2 + draw.below(3)):
        _blob(canvas, draw, draw(0.1, 0.35), draw(0.3, 0.8))


def _blob(canvas: Canvas, draw: _Draws, radius: float, opacity: float) -> None:
    """A soft-edged ellipse."""
    x, y = draw(), draw()
    where = canvas.window(x, y, 1.3 * radius)
    angle, squash, colour = draw(0, math.pi), draw(1.0, 2.5), draw.colour()
    if where is None:
        return
    u, v = canvas.local(where, x, y, angle, radius)
    falloff = np.clip(np.float32(1.3) - u * u - np.float32(squash) * v * v, 0, 1)
    canvas.paint(where, falloff * np.float32(opacity), colour)


def _stroke(canvas: Canvas, draw: _Draws, x: float, y: float) -> None:
    """A straight bar through (x, y)."""
    half, thickness = draw(0.08, 0.4), draw(0.008, 0.03)
    angle, colour = draw(0, math.pi), draw.colour()
    where = canvas.window(x, y, half + thickness)
    if where is None:
        return
    u, v = canvas.local(where, x, y, angle, 1.0)
    u = np.maximum(np.abs(u) - np.float32(half), 0)
    canvas.paint(where, canvas.cover(np.sqrt(u * u + v * v) - np.float32(thickness)), colour)


def _texture(
    canvas: Canvas, draw: _Draws, where: tuple[slice, slice], texture: Field, contrast: float
) -> Plane:
    """Two colours, `contrast` apart, laid out by a texture: (3, h, w)."""
    period = draw(0.1, 0.16)
    u, v = canvas.local(where, draw(), draw(), draw(0, 2 * math.pi), period)
    mix = np.clip(texture(u, v) * np.float32(2.5 * period * canvas.size / 12), -1, 1)
    base, direction = draw.colour(), draw.colour() - np.float32(0.5)
    direction *= np.float32(contrast / max(float(np.linalg.norm(direction)), 0.05))
    fill: Plane = base[:, None, None] + direction[:, None, None] * mix
    return fill


def _fragment(canvas: Canvas, draw: _Draws, hardness: float) -> None:
    """What is left of some shape behind a straight cut: a distractor, never a whole shape."""
    x, y, radius = draw(), draw(), draw(0.08, 0.14 + 0.12 * hardness)
    shape = list(SHAPES.values())[draw.below(len(SHAPES))]
    texture = list(TEXTURES.values())[draw.below(len(TEXTURES))]
    angle, cut_angle, cut = draw(0, 2 * math.pi), draw(0, 2 * math.pi), draw(-0.25, 0.15)
    textured, contrast, colour = draw() < 0.5 * hardness, draw(0.15, 0.5), draw.colour()
    where = canvas.window(x, y, 1.05 * radius)
    if where is None:
        return
    u, v = canvas.local(where, x, y, angle, radius)
    edge = np.float32(math.cos(cut_angle)) * u + np.float32(math.sin(cut_angle)) * v
    distance = np.maximum(shape(u, v), edge - np.float32(cut)) * np.float32(radius)
    fill = _texture(canvas, draw, where, texture, contrast) if textured else colour
    canvas.paint(where, canvas.cover(distance), fill)


def _subject(
    canvas: Canvas, draw: _Draws, shape: Field, texture: Field, hardness: float
) -> tuple[float, float, float]:
    """The one whole shape; returns its centre and radius."""
    radius = draw(0.3 - 0.11 * hardness, 0.4)
    x, y = draw(radius * 0.85, 1 - radius * 0.85), draw(radius * 0.85, 1 - radius * 0.85)
    angle, stretch = draw(0, 2 * math.pi), draw(0.85, 1.18)
    contrast, opacity = draw(0.4 - 0.22 * hardness, 0.65), draw(1 - 0.3 * hardness, 1)
    reach = 1.2 * radius
    where = canvas.window(x, y, reach)
    assert where is not None  # the centre is on the canvas
    u, v = canvas.local(where, x, y, angle, radius)
    distance = shape(u * np.float32(stretch), v / np.float32(stretch)) * np.float32(radius)
    fill = _texture(canvas, draw, where, texture, contrast)
    canvas.paint(where, canvas.cover(distance) * np.float32(opacity), fill)
    return x, y, radius


def _render(label: int, draw: _Draws, size: int) -> NDArray[np.uint8]:
    shape = list(SHAPES.values())[label // len(TEXTURES)]
    texture = list(TEXTURES.values())[label % len(TEXTURES)]
    canvas = Canvas(size)
    hardness = draw() ** 2  # 0–1: most pictures are easy, a few nearly hopeless
    _background(canvas, draw, hardness)
    for _ in range(1 + draw.below(1 + 5 * hardness)):
        _fragment(canvas, draw, hardness)
    for _ in range(draw.below(2 + 3 * hardness)):
        _stroke(canvas, draw, draw(), draw())
    x, y, radius = _subject(canvas, draw, shape, texture, hardness)
    for _ in range(draw.below(1 + 3 * hardness)):
        _stroke(canvas, draw, x + draw(-radius, radius), y + draw(-radius, radius))
    if draw() < 0.5 * hardness:
        _blob(canvas, draw, draw(0.06, 0.14), 1.0)

    exposure, brightness = draw(1.05 - 0.5 * hardness, 1.05), draw(-0.1, 0.1)
    pixels = canvas.pixels
    pixels -= np.float32(0.5)
    pixels *= np.float32(exposure)
    pixels += np.float32(0.5 + brightness)
    blur, grain = hardness * draw(0.0, 0.013) * size, hardness * draw(0.0, 0.18)
    if blur > 0.3:
        soft = Image.fromarray(_to_bytes(pixels)).filter(ImageFilter.GaussianBlur(blur))
        pixels = np.moveaxis(np.asarray(soft, np.float32), -1, 0) * np.float32(1 / 255)
    return _to_bytes(pixels + np.float32(grain) * draw.noise(pixels.shape))


def _to_bytes(pixels: Plane) -> NDArray[np.uint8]:
    """Planes (3, h, w) in 0–1 → uint8 (h, w, 3)."""
    scaled = np.clip(pixels * np.float32(255) + np.float32(0.5), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(scaled, 0, -1))


@lru_cache(maxsize=4096)
def _block(seed: int, split: int, block: int) -> tuple[int, ...]:
    """The order of the classes within one block of `len(CLASS_NAMES)` consecutive images."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, split, block, 1))))
    return tuple(int(i) for i in np.argsort(rng.random(len(CLASS_NAMES)), kind="stable"))


@dataclass(frozen=True)
class Shapes:
    """Random access to the endless images of one seed and split.

    Every block of 24 consecutive indices holds each class once, in a seeded order.

    Args:
        seed: non-negative; different seeds give unrelated images.
        split: "train" or "val", two unrelated streams of the same seed.
        size: side of the square images, pixels; at least 16.

    Raises:
        DataError: for a negative seed, an unknown split or a size below 16.
    """

    seed: int = 0
    split: Split = "val"
    size: int = NATIVE_SIZE

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise DataError(f"the seed of 'shapes' must not be negative, got {self.seed}")
        if self.split not in get_args(Split):
            raise DataError(f"'shapes' has the splits train and val, not '{self.split}'")
        if self.size < 16:
            raise DataError(f"'shapes' images need a side of at least 16 pixels, got {self.size}")

    @property
    def _stream(self) -> int:
        return get_args(Split).index(self.split)

    def label(self, index: int) -> int:
        """Class of image `index`, 0–23."""
        block, offset = divmod(index, len(CLASS_NAMES))
        return _block(self.seed, self._stream, block)[offset]

    def labels(self, count: int) -> NDArray[np.int64]:
        """Classes of the first `count` images, int64 (count,)."""
        return np.fromiter((self.label(i) for i in range(count)), np.int64, count)

    def image(self, index: int) -> NDArray[np.uint8]:
        """Image `index`: uint8 RGB (size, size, 3)."""
        draw = _Draws(self.seed, self._stream, index, 0)
        return _render(self.label(index), draw, self.size)

    def digest(self, count: int) -> str:
        """sha256 of what determines the first `count` images."""
        facts = f"shapes v{GENERATOR_VERSION} {self.seed} {self.split} {self.size} {count}"
        return hashlib.sha256(facts.encode()).hexdigest()


def write_folder(
    path: Path, count: int, seed: int = 0, split: Split = "val", size: int = NATIVE_SIZE
) -> tuple[Path, ...]:
    """Write the first `count` images as files, one subfolder per class, PNG and JPEG in turn.

    Folders are named after the classes with `_` for the space (`striped_star/000012.png`).

    Returns:
        The files, in index order.
    """
    source = Shapes(seed, split, size)
    written = []
    for index in range(count):
        folder = path / CLASS_NAMES[source.label(index)].replace(" ", "_")
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{index:06d}{'.jpg' if index % 2 else '.png'}"
        # without chroma subsampling: the class must survive compression; PNG takes no notice
        Image.fromarray(source.image(index)).save(file, quality=95, subsampling=0)
        written.append(file)
    return tuple(written)


@click.command()
@click.argument("path", type=click.Path(file_okay=False, path_type=Path))
@click.option("--count", type=click.IntRange(min=1), default=24, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--split", type=click.Choice(get_args(Split)), default="val", show_default=True)
@click.option("--size", type=click.IntRange(min=16), default=NATIVE_SIZE, show_default=True)
def main(path: Path, count: int, seed: int, split: Split, size: int) -> None:
    """Write COUNT images of the task `shapes` to PATH, one subfolder per class."""
    files = write_folder(path, count, seed, split, size)
    click.echo(f"wrote {len(files)} images of 'shapes' ({split}, seed {seed}) to {path}")


if __name__ == "__main__":
    main()
