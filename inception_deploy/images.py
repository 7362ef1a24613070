"""Which images serve which purpose: golden, calibration, parity, samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from inception_deploy.dataset import (
    Batch,
    Dataset,
    Sample,
    UnreadableImage,
    batches,
    check_labels,
    open_dataset,
    subset,
)
from inception_deploy.errors import DataError
from inception_deploy.preprocess import Preprocessing
from inception_deploy.progress import Progress
from inception_deploy.recipe import Recipe
from inception_deploy.reference import Reference
from inception_deploy.shapes import Split

__all__ = ["GOLDEN_IMAGES", "ImagePlan", "ImageSet", "choose_images", "plan_images"]

GOLDEN_IMAGES = 8
"""Images whose PyTorch outputs are recorded and kept in the bundle."""

UNLABELLED_IMAGES = 256
"""Most of the built-in images compared without labels: agreement settles sooner than accuracy."""

BATCH = 16
"""Images per forward pass of calibration and parity."""


@dataclass
class ImageSet:
    """A seeded, class-balanced choice of images from a data set, ready for the network.

    Args:
        dataset: where they come from.
        indices: int64, which of its images, in order.
        preprocessing: how they become inputs.
        skip_bad: leave out images that cannot be read instead of raising.
        skipped: names of those left out so far, each once.
        use_labels: whether the labels are classes of this network.
    """

    dataset: Dataset
    indices: NDArray[np.int64]
    preprocessing: Preprocessing
    skip_bad: bool = False
    use_labels: bool = True
    skipped: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def labelled(self) -> bool:
        """Whether accuracy can be measured."""
        return self.use_labels and self.dataset.labels is not None

    def batch_count(self, size: int = BATCH) -> int:
        """How many batches there are when every image can be read."""
        return -(-len(self.indices) // size)

    def batches(self, size: int = BATCH) -> Iterator[Batch]:
        """Preprocessed batches in order. Raises `DataError` naming an unreadable image."""
        for batch in batches(
            self.dataset,
            self.preprocessing,
            size,
            indices=self.indices,
            skip_bad=self.skip_bad,
            on_bad=self._remember,
        ):
            yield batch if self.use_labels else replace(batch, labels=None)

    def spread(self, count: int) -> ImageSet:
        """`count` of the images, evenly spread: a sorted folder's first ones are all one class."""
        picks = np.linspace(0, len(self.indices) - 1, min(count, len(self.indices)))
        return replace(self, indices=self.indices[np.unique(picks.round().astype(np.int64))])

    def samples(self) -> Iterator[Sample]:
        """The images themselves, where they are images and can be read."""
        for index in self.indices:
            try:
                yield self.dataset[int(index)]
            except UnreadableImage as error:
                if not self.skip_bad:
                    raise
                self._remember(error.name, error)

    def _remember(self, name: str, error: DataError) -> None:
        del error  # raised when nothing is skipped; a skipped image is known by its name
        if name not in self.skipped:
            self.skipped.append(name)


@dataclass(frozen=True)
class ImagePlan:
    """The images of one deployment.

    Args:
        parity: compared one by one between PyTorch and the deployed graph; labelled where possible.
        calibration: seen for ranges only; labels are not needed.
    """

    parity: ImageSet
    calibration: ImageSet

    def golden(self) -> Batch:
        """The images that PyTorch's outputs are recorded for, at most `GOLDEN_IMAGES`."""
        (batch,) = self.parity.spread(GOLDEN_IMAGES).batches(GOLDEN_IMAGES)
        return batch


def plan_images(recipe: Recipe, reference: Reference, progress: Progress) -> ImagePlan:
    """Open the data sets a recipe names, or the built-in ones.

    Without `data`, weights trained on a built-in task bring their own labelled images. Other
    weights are compared on `shapes` images without labels: they exercise the network, and say
    nothing of its accuracy.

    Raises:
        DataError: a source cannot be used, or its labels are not classes of this network.
    """
    source = recipe.data or reference.default_data
    if source is None:
        progress.note(
            "no --data given: parity on built-in images without labels; "
            "name labelled images to have accuracy measured"
        )
    parity = choose_images(
        source,
        reference.preprocessing,
        count=recipe.data_size if source else min(recipe.data_size, UNLABELLED_IMAGES),
        seed=recipe.seed,
        skip_bad=recipe.skip_bad_images,
        class_names=reference.class_names,
        num_classes=None if recipe.head == "features" else reference.weights.num_classes,
    )
    calibration = choose_images(
        source if recipe.calibration_table else recipe.calibration or source,
        reference.preprocessing,
        count=recipe.calibration_size,
        seed=recipe.seed + 1,
        skip_bad=recipe.skip_bad_images,
        split="train",
    )
    return ImagePlan(parity, calibration)


def choose_images(
    source: str | None,
    preprocessing: Preprocessing,
    *,
    count: int,
    seed: int,
    skip_bad: bool,
    class_names: Sequence[str] | None = None,
    num_classes: int | None = None,
    split: Split = "val",
) -> ImageSet:
    """A seeded, class-balanced choice of at most `count` images of `source`.

    Args:
        source: as for `open_dataset`; None takes the built-in images without their labels.
        class_names, num_classes: of the network; without `num_classes` labels are not looked at.
        split: of the built-in task; calibration takes "train", so that no image serves both.

    Raises:
        DataError: the source cannot be used, or its labels are not classes of the network.
    """
    use_labels = source is not None and num_classes is not None
    dataset = open_dataset(
        source or "shapes",
        split=split,
        size=count,
        image_size=preprocessing.size,
        class_names=class_names if use_labels else None,
    )
    if use_labels and num_classes is not None:
        check_labels(dataset, num_classes)
    indices = subset(dataset, min(count, len(dataset)), seed=seed)
    return ImageSet(dataset, indices, preprocessing, skip_bad, use_labels)
