"""The whole query: a JPEG file decoded, preprocessed and classified, and what each part takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inception_deploy.errors import DataError
from inception_deploy.images import ImageSet
from inception_deploy.pixels import arranged
from inception_deploy.preprocess import Preprocessing
from inception_deploy.recipe import Layout

__all__ = ["EndToEnd", "write_jpegs"]

QUALITY = 95


class EndToEnd:
    """Runs a batch of files, given by their numbers; to be used as `Candidate.run`.

    One thread decodes and preprocesses one image after the other, as a plain Python server does.

    Args:
        files: JPEGs; numbers beyond them begin again at the first.
        layout: of the pixels that `run` takes; None where it takes normalised images.
        run: the batch in, anything out.
    """

    def __init__(
        self,
        files: Sequence[Path],
        preprocessing: Preprocessing,
        layout: Layout | None,
        run: Callable[[NDArray[Any]], object],
    ) -> None:
        self._files, self._preprocessing = files, preprocessing
        self._layout, self._run = layout, run
        self._parts: dict[str, float] = {}

    def __call__(self, numbers: NDArray[Any]) -> object:
        started = time.perf_counter()
        images = [_decoded(self._files[int(n) % len(self._files)]) for n in numbers]
        decoded = time.perf_counter()
        crops = [np.asarray(self._preprocessing.crop(image), np.uint8) for image in images]
        pixels = np.stack(crops)
        given = (
            self._preprocessing.normalise(pixels)
            if self._layout is None
            else arranged(pixels, self._layout)
        )
        ready = time.perf_counter()
        found = self._run(given)
        done = time.perf_counter()
        self._parts = {
            "decode": decoded - started,
            "preprocess": ready - decoded,
            "engine": done - ready,
        }
        return found

    def parts(self) -> Mapping[str, float]:
        """Seconds of the last run: "decode", "preprocess", "engine"."""
        return self._parts

    @staticmethod
    def numbers(size: int) -> NDArray[np.int64]:
        """A batch of the first `size` files, as `Candidate.make_batch`."""
        return np.arange(size, dtype=np.int64)


def write_jpegs(images: ImageSet, folder: Path) -> list[Path]:
    """The images as JPEG files of their own size in `folder`.

    Raises:
        DataError: the data holds no pictures, or one cannot be read.
    """
    files = []
    for number, sample in enumerate(images.samples()):
        if sample.image is None:
            raise DataError(
                f"{images.dataset.name} holds inputs, not pictures; name images with --data"
            )
        files.append(folder / f"{number:04}.jpg")
        sample.image.convert("RGB").save(files[-1], "JPEG", quality=QUALITY)
    if not files:
        raise DataError(f"{images.dataset.name} holds no images; name others with --data")
    return files


def _decoded(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image
