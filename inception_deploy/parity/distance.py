"""How far one set of outputs is from another, gathered batch by batch.

Sums run in float64, where the difference of two float32 values is as good as exact, so neither the
order of the images nor the size of the batches shows in the figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from inception_deploy.errors import StageError

__all__ = ["Distance", "DistanceMeter"]


@dataclass(frozen=True)
class Distance:
    """Figures of `candidate` against `reference` over all images.

    Args:
        images: how many were compared.
        max_abs_error: max |reference − candidate|.
        max_rel_error: the same over max |reference|; scaled by the reference, never the candidate.
        sqnr_db: 10·log10(Σ reference² / Σ (reference − candidate)²); None where `exact`, since the
            ratio is infinite then and JSON knows no infinity.
        exact: every value agrees to the last bit.
        cosine: of the flattened outputs per image; the smallest.
        cosine_mean: the mean over images.
    """

    images: int
    max_abs_error: float
    max_rel_error: float
    sqnr_db: float | None
    exact: bool
    cosine: float
    cosine_mean: float


_STATE = (
    "images",
    "max_error",
    "max_reference",
    "signal",
    "noise",
    "cosine_min",
    "cosine_sum",
)


class DistanceMeter:
    """Gathers a `Distance`; keeps sums only, whatever the number of images."""

    def __init__(self) -> None:
        self._images = 0
        self._max_error = self._max_reference = 0.0
        self._signal = self._noise = 0.0
        self._cosine_min, self._cosine_sum = math.inf, 0.0

    def add(self, reference: NDArray[Any], candidate: NDArray[Any]) -> None:
        """Take in one batch of finite values.

        Args:
            reference, candidate: (N, …) of one shape, any floating dtype.

        Raises:
            ValueError: the shapes differ or there are no images.
        """
        if reference.shape != candidate.shape or not reference.size:
            raise ValueError(f"cannot compare {reference.shape} with {candidate.shape}")
        want = reference.reshape(len(reference), -1).astype(np.float64)
        have = candidate.reshape(len(candidate), -1).astype(np.float64)
        error = want - have
        self._images += len(want)
        self._max_error = max(self._max_error, float(np.abs(error).max()))
        self._max_reference = max(self._max_reference, float(np.abs(want).max()))
        self._signal += float(np.sum(want * want))
        self._noise += float(np.sum(error * error))
        cosines = _cosines(want, have)
        self._cosine_min = min(self._cosine_min, float(cosines.min()))
        self._cosine_sum += float(cosines.sum())

    @property
    def max_abs_error(self) -> float:
        """The largest error so far."""
        return self._max_error

    def to_dict(self) -> dict[str, Any]:
        """JSON values, floats to the last bit; something must have been taken in."""
        return {name: getattr(self, f"_{name}") for name in _STATE}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises `KeyError`, `TypeError` or `ValueError`."""
        meter = cls()
        for name in _STATE:
            setattr(meter, f"_{name}", type(getattr(meter, f"_{name}"))(values[name]))
        return meter

    def result(self) -> Distance:
        """The figures over everything taken in.

        Raises:
            StageError: nothing was taken in, or the reference was zero throughout.
        """
        if not self._images:
            raise StageError("nothing was compared; give at least one image")
        if not self._max_reference:
            raise StageError(
                f"the reference is zero for all {self._images} images, so no error can be scaled "
                "by it; check the weights and the preprocessing"
            )
        exact = self._noise == 0
        return Distance(
            images=self._images,
            max_abs_error=self._max_error,
            max_rel_error=self._max_error / self._max_reference,
            sqnr_db=None if exact else 10 * math.log10(self._signal / self._noise),
            exact=exact,
            cosine=self._cosine_min,
            cosine_mean=self._cosine_sum / self._images,
        )


def _cosines(want: NDArray[np.float64], have: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosine per row; 1 where both rows are zero, 0 where one is."""
    dots = np.einsum("ij,ij->i", want, have)
    norms = np.linalg.norm(want, axis=1) * np.linalg.norm(have, axis=1)
    alike = np.where(want.any(axis=1) | have.any(axis=1), 0.0, 1.0)
    np.divide(dots, norms, out=alike, where=norms > 0)
    return np.clip(alike, -1.0, 1.0)  # rounding may pass ±1 by a bit
