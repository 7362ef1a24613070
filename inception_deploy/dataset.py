"""Images with optional labels, from wherever they come: one interface for every later stage.

Sources: a folder with one subfolder per class, a flat folder (no labels), a `.csv` of path,label,
an `.npz`, and the word `shapes` (a folder of that name is `./shapes`). Images are decoded one at a
time, when asked for; a data set is never held decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from inception_deploy.errors import DataError
from inception_deploy.preprocess import Preprocessing
from inception_deploy.shapes import NATIVE_SIZE, Shapes, Split
from inception_deploy.sources import (
    SORTED_ORDER,
    Labels,
    Sample,
    UnreadableImage,
    open_csv,
    open_folder,
    open_npz,
    open_shapes,
    read_image,
)

__all__ = [
    "BadImages",
    "Batch",
    "Dataset",
    "Sample",
    "UnreadableImage",
    "batches",
    "check_labels",
    "open_dataset",
    "read_image",
    "subset",
]

SHAPES_DEFAULT_COUNT = 2_400  # 100 per class: a top-1 near 95 % is known to ± 0.9 points (95 % CI)


class Dataset(Protocol):
    """Random access to images; iterate with `batches`."""

    @property
    def name(self) -> str:
        """The source as it was given."""
        ...

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names by label; None where there are no labels or they are plain numbers."""
        ...

    @property
    def label_mapping(self) -> str | None:
        """How labels were derived, for the record; None without labels."""
        ...

    @property
    def labels(self) -> Labels | None:
        """All labels, int64 (len,); None where there are none."""
        ...

    @property
    def digest(self) -> str:
        """sha256 over what identifies the data."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """Decode one image. Raises `DataError`, naming it, when it cannot be read."""
        ...


@dataclass(frozen=True)
class Batch:
    """A preprocessed batch.

    Args:
        inputs: float32 (n, 3, size, size), C-contiguous.
        pixels: uint8 RGB (n, size, size, 3), what `inputs` were normalised from; None where the
            source holds preprocessed input instead of images.
        labels: int64 (n,), or None.
        indices: int64 (n,), positions in the data set.
        names: of the samples.
    """

    inputs: NDArray[np.float32]
    labels: Labels | None
    indices: NDArray[np.int64]
    names: tuple[str, ...]
    pixels: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.names)


@dataclass
class BadImages:
    """Collects what `batches(…, skip_bad=True)` had to leave out; pass it as `on_bad`."""

    names: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def __call__(self, name: str, error: DataError) -> None:
        self.names.append(name)
        self.reasons.append(str(error))

    def summary(self, total: int) -> str:
        """One line, e.g. "skipped 2 of 120 images that cannot be read: a/b.jpg, c/d.png"."""
        shown = ", ".join(self.names[:5]) + (", …" if len(self.names) > 5 else "")
        return f"skipped {len(self.names)} of {total} images that cannot be read: {shown}"


def open_dataset(
    source: str | Path,
    *,
    seed: int = 0,
    split: Split = "val",
    size: int | None = None,
    image_size: int = NATIVE_SIZE,
    class_names: Sequence[str] | None = None,
) -> Dataset:
    """Open a data set; nothing is decoded yet.

    Args:
        source: a folder, a `.csv`, an `.npz`, or the word "shapes".
        seed, split, size, image_size: for `shapes` only: which stream, how many images (default
            2,400), and their side in pixels.
        class_names: the network's, by label. Folder names (and label names in a `.csv`) that are
            among them are mapped by name; otherwise folders are numbered in sorted order. Some
            names known and others not is an error.

    Raises:
        DataError: for a source that is missing, unreadable, empty, or not understood.
    """
    if str(source) == "shapes":
        source_images = Shapes(seed, split, image_size)
        return open_shapes(
            source_images, SHAPES_DEFAULT_COUNT if size is None else size, class_names
        )
    path = Path(source)
    try:
        if path.is_dir():
            return open_folder(path, class_names)
        if not path.exists():
            raise DataError(
                f"no data at '{path}'; give an image folder, a .csv, an .npz or the word 'shapes'"
            )
        if path.suffix.lower() == ".csv":
            return open_csv(path, class_names)
        if path.suffix.lower() == ".npz":
            return open_npz(path)
    except OSError as error:
        raise DataError(
            f"cannot read '{error.filename or path}' ({error.strerror}); check its permissions"
        ) from error
    raise DataError(f"'{path}' is neither an image folder nor a .csv or .npz file")


def check_labels(dataset: Dataset, num_classes: int) -> None:
    """Make sure that the labels can be those of a network with `num_classes` outputs.

    Raises:
        DataError: for a label outside 0…num_classes-1, or for class folders that were numbered in
            sorted order although their number is not the network's, or although they are numbers
            themselves and sort otherwise ('10' before '2'): then the order means nothing.
    """
    labels, names = dataset.labels, dataset.class_names
    if labels is None:
        return
    outside = (labels < 0) | (labels >= num_classes)
    if outside.any():
        first = int(np.argmax(outside))
        raise DataError(
            f"{int(outside.sum())} labels of '{dataset.name}' are outside 0…{num_classes - 1}, "
            f"the first is {labels[first]} at image {first}; the network has {num_classes} classes"
        )
    if dataset.label_mapping != SORTED_ORDER or names is None:
        return
    if all(name.isdecimal() for name in names) and sorted(names, key=int) != list(names):
        raise DataError(
            f"the class folders of '{dataset.name}' are numbers that sort as text, '10' before "
            "'2'; pad them with zeros, or use a .csv of path,index"
        )
    if len(names) != num_classes:
        raise DataError(
            f"'{dataset.name}' has {len(names)} classes but the network has {num_classes}, and the "
            "class names do not match; name them as the network does, or use a .csv of path,index"
        )


def subset(dataset: Dataset, count: int, *, seed: int = 0) -> NDArray[np.int64]:
    """A seeded choice of `count` distinct images, ascending int64 indices (all if there are fewer).

    With labels the choice is class-balanced: no class gets a second image before each has one.
    """
    if count < 1:
        raise DataError(f"a subset needs at least one image, not {count}")
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    order = rng.permutation(len(dataset))
    labels = dataset.labels
    if labels is not None:
        # rank of each image within its class, in the shuffled order; lowest ranks first
        shuffled = labels[order]
        by_class = np.argsort(shuffled, kind="stable")
        _, starts, sizes = np.unique(shuffled[by_class], return_index=True, return_counts=True)
        rank = np.empty(len(order), np.int64)
        rank[by_class] = np.arange(len(order)) - np.repeat(starts, sizes)
        order = order[np.argsort(rank, kind="stable")]
    return np.sort(order[:count]).astype(np.int64)


@dataclass(frozen=True)
class _Row:
    sample: Sample
    values: NDArray[np.float32]
    pixels: NDArray[np.uint8] | None


def _row(sample: Sample, preprocessing: Preprocessing) -> _Row:
    if sample.image is not None:
        pixels = np.asarray(preprocessing.crop(sample.image), np.uint8)
        return _Row(sample, preprocessing.normalise(pixels), pixels)
    assert sample.tensor is not None
    expected = (3, preprocessing.size, preprocessing.size)
    if sample.tensor.shape != expected:
        raise DataError(
            f"preprocessed input '{sample.name}' has shape {sample.tensor.shape}, but the network "
            f"takes {expected}; preprocess for that size or pass uint8 'images'"
        )
    return _Row(sample, sample.tensor, None)


def batches(
    dataset: Dataset,
    preprocessing: Preprocessing,
    batch_size: int,
    *,
    indices: Sequence[int] | NDArray[np.int64] | None = None,
    skip_bad: bool = False,
    on_bad: Callable[[str, DataError], None] | None = None,
) -> Iterator[Batch]:
    """Decode, preprocess and stack; every batch but the last has `batch_size` images.

    Args:
        indices: which images, in this order; all by default.
        skip_bad: leave out images that cannot be read instead of raising.
        on_bad: told (name, error) of each one left out, e.g. a `BadImages`.

    Raises:
        DataError: for an image that cannot be read (unless `skip_bad`), for preprocessed input of
            another size, and when not a single image could be read.
    """
    if batch_size < 1:
        raise DataError(f"the batch size must be at least 1, not {batch_size}")
    chosen = range(len(dataset)) if indices is None else indices
    pending: list[_Row] = []
    read = bad = 0
    for index in chosen:
        try:
            sample = dataset[int(index)]
        except UnreadableImage as error:
            if not skip_bad:
                raise
            bad += 1
            if on_bad is not None:
                on_bad(error.name, error)
            continue
        read += 1
        pending.append(_row(sample, preprocessing))
        if len(pending) == batch_size:
            yield _stack(pending)
            pending = []
    if pending:
        yield _stack(pending)
    if bad and not read:
        raise DataError(f"none of the {bad} images of '{dataset.name}' can be read")


def _stack(rows: list[_Row]) -> Batch:
    samples = [row.sample for row in rows]
    pixels = [row.pixels for row in rows if row.pixels is not None]
    labels = [sample.label for sample in samples if sample.label is not None]
    return Batch(
        inputs=np.ascontiguousarray(np.stack([row.values for row in rows])),
        labels=np.array(labels, np.int64) if len(labels) == len(samples) else None,
        indices=np.array([sample.index for sample in samples], np.int64),
        names=tuple(sample.name for sample in samples),
        pixels=np.stack(pixels) if len(pixels) == len(rows) else None,
    )
