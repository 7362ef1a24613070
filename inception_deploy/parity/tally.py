"""What is remembered of all images compared so far: sums and counts, whatever their number.

A tally can be written down and taken up again, so that a comparison of a million images survives an
interruption, and it can be looked at after every batch, so that a gate may stop early.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from inception_deploy.errors import DataError
from inception_deploy.parity.distance import DistanceMeter

__all__ = ["CALIBRATION_BINS", "Renumbered", "Tally", "rounded_up"]

TOP = 5

CALIBRATION_BINS = 15
"""Bins of equal width for the expected calibration error: as in Guo et al., "On calibration of
modern neural networks", ICML 2017, whose definition of it is used."""

MOST_CONFUSED = 2048
"""Classes up to which labels are counted against choices: 16 MB, whatever the number of images."""

_LEADS = 1 << 15
"""Non-negative numbers of 8 exponent and 7 mantissa bits: the keys that leads are counted under."""


def rounded_up(value: float) -> float:
    """The smallest float of 8 significant bits (bfloat16) that is at least `value` >= 0.

    Margins are rounded to it, so that "this lead is at most the margin" can be counted exactly from
    leads that are remembered with that many bits only.
    """
    (key,) = _keys(np.array([value]))
    return float(np.uint32(int(key) << 16).view(np.float32))


@dataclass(frozen=True)
class Renumbered:
    """What the reference would have right if classes were numbered otherwise.

    Args:
        hits: images.
        of_one: those of the class that has most of them; 0 where that was not counted.
    """

    hits: int
    of_one: int

    @property
    def spread(self) -> bool:
        """Whether several classes fit: a network that always answers the same fits one as well."""
        return self.of_one <= 0.9 * self.hits


class Tally:
    """Counts of first choices, flips, leads and calibration, and the distance of the outputs.

    Args:
        outputs: values per image.
        chooses: the outputs are classes; features have no first choice, and neither has a single
            output.
        labelled: whether the images come with labels.
        probabilities: the outputs are probabilities already; else softmax makes them so.
    """

    def __init__(self, outputs: int, *, chooses: bool, labelled: bool, probabilities: bool) -> None:
        self.outputs, self.probabilities = outputs, probabilities
        self.chooses = chooses and outputs > 1
        self.labelled = labelled and self.chooses
        self.meter = DistanceMeter()
        self.whole = True
        """False while a batch is half taken in: an interruption must not write that down."""
        self.images = self.agreeing = self.shared = 0
        self.harmful = self.beneficial = self.correct = 0
        self.shifted = [0, 0]
        """Images whose label the reference would hit if labels were one less, or one more."""
        self._leads = np.zeros((2, _LEADS), np.int64)
        per_class = outputs if self.labelled else 0
        self._by_class = np.zeros((3, per_class), np.int64)  # images, right before, right after
        self._bins = np.zeros((2, 3, CALIBRATION_BINS))  # side; images, confidence, right
        kept = per_class if per_class <= MOST_CONFUSED else 0
        self._confusion = np.zeros((kept, kept), np.int32)  # label; what the reference says

    def add(self, want: NDArray[Any], have: NDArray[Any], labels: NDArray[Any] | None) -> None:
        """Take in one batch.

        Args:
            want, have: finite floating (N, K) of reference and candidate.
            labels: whole numbers (N,), or None.

        Raises:
            DataError: labels are missing for some images, are no whole numbers, or name no class.
        """
        if self.chooses:
            self._check_labels(labels, len(want))
        self.whole = False
        self.meter.add(want, have)
        if self.chooses:
            self._choices(want, have, labels)
        self.images += len(want)
        self.whole = True

    def near_ties(self, margin: float) -> tuple[int, int]:
        """Images whose lead is at most `margin` (see `rounded_up`), and those that disagree."""
        (last,) = _keys(np.array([margin]))
        agreeing, disagreeing = (int(row[: int(last) + 1].sum()) for row in self._leads)
        return agreeing + disagreeing, disagreeing

    def class_counts(self) -> NDArray[np.int64]:
        """(3, K): images of each class, how many the reference has right, how many the other."""
        return self._by_class

    def shifted_by(self, shift: Literal[-1, 1]) -> Renumbered:
        """If every label were one less, or one more."""
        hits = self.shifted[0 if shift < 0 else 1]
        each = np.diagonal(self._confusion, shift)
        return Renumbered(hits, int(each.max(initial=0)))

    def reordered(self) -> Renumbered | None:
        """If classes were numbered in another order: what is left of the accuracy where a class is
        taken for another one that, of all classes, is taken for it most often. None for more
        classes than `MOST_CONFUSED`."""
        if not self._confusion.size:
            return None
        labels = np.arange(len(self._confusion))
        said = self._confusion.argmax(axis=1)
        paired = self._confusion.argmax(axis=0)[said] == labels
        each = self._confusion[labels, said][paired]
        return Renumbered(int(each.sum()), int(each.max(initial=0)))

    def calibration_error(self) -> tuple[float, float]:
        """Expected calibration error of both sides: mean |confidence − accuracy| over the bins,
        weighted by the images in them; fractions. Needs labels."""
        gaps = np.abs(self._bins[:, 1] - self._bins[:, 2]).sum(axis=1) / self.images
        return float(gaps[0]), float(gaps[1])

    def to_dict(self) -> dict[str, Any]:
        """JSON values, floats to the last bit."""
        kept = np.nonzero(self._leads.any(axis=0))[0]
        return {
            "outputs": self.outputs,
            "chooses": self.chooses,
            "labelled": self.labelled,
            "probabilities": self.probabilities,
            "meter": self.meter.to_dict(),
            **{name: getattr(self, name) for name in _SCALARS},
            "shifted": list(self.shifted),
            "leads": [[int(k), *(int(n) for n in self._leads[:, k])] for k in kept],
            "by_class": self._by_class.tolist(),
            "confusion": [
                [int(i), int(j), int(self._confusion[i, j])]
                for i, j in np.argwhere(self._confusion)
            ],
            "bins": self._bins.tolist(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises `KeyError`, `TypeError` or `ValueError`."""
        tally = cls(
            int(values["outputs"]),
            chooses=bool(values["chooses"]),
            labelled=bool(values["labelled"]),
            probabilities=bool(values["probabilities"]),
        )
        tally.meter = DistanceMeter.from_dict(values["meter"])
        for name in _SCALARS:
            setattr(tally, name, int(values[name]))
        tally.shifted = [int(n) for n in values["shifted"]]
        for key, agreeing, disagreeing in values["leads"]:
            tally._leads[:, int(key)] = agreeing, disagreeing
        for label, said, count in values["confusion"]:
            tally._confusion[int(label), int(said)] = int(count)
        for name in ("by_class", "bins"):
            array: NDArray[Any] = getattr(tally, f"_{name}")
            array[...] = np.array(values[name]).reshape(array.shape)
        return tally

    def _choices(self, want: NDArray[Any], have: NDArray[Any], labels: NDArray[Any] | None) -> None:
        top_want, top_have = _top(want), _top(have)
        rows = np.arange(len(want))
        first, second = (want[rows, top_want[:, k]].astype(np.float64) for k in (0, 1))
        agree = top_want[:, 0] == top_have[:, 0]
        keys = _keys(first - second)
        np.add.at(self._leads[0], keys[agree], 1)
        np.add.at(self._leads[1], keys[~agree], 1)
        self.agreeing += int(agree.sum())
        self.shared += int((top_want[:, :, None] == top_have[:, None, :]).sum())
        if labels is None:
            return
        right_want, right_have = top_want[:, 0] == labels, top_have[:, 0] == labels
        self.correct += int(right_want.sum())
        self.harmful += int((right_want & ~right_have).sum())
        self.beneficial += int((~right_want & right_have).sum())
        for index, shift in enumerate((-1, 1)):
            self.shifted[index] += int((top_want[:, 0] == labels + shift).sum())
        for row, hits in zip(
            self._by_class, (np.ones(len(labels), bool), right_want, right_have), strict=True
        ):
            np.add.at(row, labels[hits], 1)
        if self._confusion.size:
            np.add.at(self._confusion, (labels, top_want[:, 0]), 1)
        sides = ((want, top_want, right_want), (have, top_have, right_have))
        for bins, (outputs, top, right) in zip(self._bins, sides, strict=True):
            confidence = self._confidence(outputs, top[:, 0])
            where = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
            for row, amounts in zip(bins, (np.ones(len(right)), confidence, right), strict=True):
                np.add.at(row, where, amounts)

    def _confidence(self, outputs: NDArray[Any], first: NDArray[Any]) -> NDArray[np.float64]:
        """Probability of the first choice, within 0–1."""
        values = outputs.astype(np.float64)
        rows = np.arange(len(values))
        if self.probabilities:
            given: NDArray[np.float64] = values[rows, first]
            return np.clip(given, 0.0, 1.0)
        exponents = np.exp(values - values[rows, first][:, None])
        confidence: NDArray[np.float64] = 1 / exponents.sum(axis=1)
        return confidence

    def _check_labels(self, labels: NDArray[Any] | None, images: int) -> None:
        if (labels is not None) != self.labelled:
            raise DataError(
                f"the images from {self.images} on are {'un' if self.labelled else ''}labelled and "
                "those before are not alike; give labels for all images or for none"
            )
        if labels is None:
            return
        if labels.shape != (images,) or labels.dtype.kind not in "iu":
            raise DataError(
                f"labels must be {images} whole numbers, not {labels.dtype} {labels.shape}, "
                f"at image {self.images}"
            )
        outside = (labels < 0) | (labels >= self.outputs)
        if outside.any():
            index = int(np.argmax(outside))
            raise DataError(
                f"label {labels[index]} of image {self.images + index} is outside 0 to "
                f"{self.outputs - 1}, the network's classes; check the order and the number of "
                "classes"
            )


_SCALARS = ("images", "agreeing", "shared", "harmful", "beneficial", "correct")


def _top(outputs: NDArray[Any]) -> NDArray[np.intp]:
    """The first choices, best first, (N, min(K, 5)); of equal values the lower class wins."""
    order: NDArray[np.intp] = np.argsort(-outputs, axis=1, kind="stable")
    return order[:, :TOP]


def _keys(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """The upper half of each float32's bits, rounded up: ordered as the values >= 0 are."""
    narrow = np.abs(values).astype(np.float32)  # −0 − 0 is −0, whose bits sort last
    narrow = np.where(narrow < values, np.nextafter(narrow, np.float32(math.inf)), narrow)
    bits = np.ascontiguousarray(narrow, np.float32).view(np.uint32).astype(np.int64)
    keys: NDArray[np.int64] = np.minimum((bits + 0xFFFF) >> 16, _LEADS - 1)
    return keys
