"""Classify image files with a bundle, preprocessed exactly as it was verified."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inception_deploy.bundle import Bundle
from inception_deploy.dataset import batches
from inception_deploy.deployed import open_deployed
from inception_deploy.errors import BundleError, DataError
from inception_deploy.pixels import fed
from inception_deploy.progress import Progress
from inception_deploy.sources import IMAGE_SUFFIXES, Files

__all__ = ["Prediction", "ScoredClass", "predict", "softmax", "top_classes"]


@dataclass(frozen=True)
class ScoredClass:
    """A class and its probability in 0–1."""

    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image, best first."""

    image: str
    classes: tuple[ScoredClass, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Rows of logits (N, K) → probabilities (N, K)."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def top_classes(
    scores: NDArray[np.float32], head: str, names: Sequence[str] | None, top: int
) -> tuple[tuple[ScoredClass, ...], ...]:
    """The `top` classes of each row of a head's output (N, K)."""
    probabilities = softmax(scores) if head == "logits" else scores.astype(np.float64)
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    return tuple(
        tuple(ScoredClass(str(k) if names is None else names[k], float(row[k])) for k in order)
        for row, order in zip(probabilities, best, strict=True)
    )


def predict(
    bundle: Bundle, paths: Sequence[Path], *, top: int, skip_bad: bool, progress: Progress
) -> list[Prediction]:
    """Classify the images in `paths` (files, or directories of them).

    Raises:
        BundleError: the bundle returns features, not classes.
        DataError: an image cannot be read, and `skip_bad` is off.
    """
    if bundle.head == "features":
        raise BundleError(
            f"{bundle.path} returns features, not classes; export it with --head logits"
        )
    images = Files("images", Path(), _files(paths), None, None, None)
    with open_deployed(bundle) as session:

        def classified() -> Iterator[Prediction]:
            for batch in batches(images, bundle.preprocessing, 8, skip_bad=skip_bad):
                scores = session.run(fed(batch, bundle.pixel_layout))
                ranked = top_classes(scores, bundle.head, bundle.class_names, top)
                yield from map(Prediction, batch.names, ranked)

        return list(progress.track(classified(), "classify images", total=len(images)))


def _files(paths: Sequence[Path]) -> tuple[str, ...]:
    """The named files, and for a directory all images below it, in a fixed order."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
            if not inside:
                raise DataError(f"no images in '{path}'; looked for {', '.join(IMAGE_SUFFIXES)}")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise DataError(f"no image at '{path}'; give image files or directories of them")
    return tuple(map(str, found))
