"""Weights in integers by what their rounding does to the sums, not each to its nearest.

A layer y = W·x reads x with mean μ and covariance C, and x is rounded to a grid of step Δ before it
is read. Integer weights Ŵ change an output by (Ŵ − W)·(x + n − μ) and, on average, by (Ŵ − W)·μ.
The average is taken back by the bias. What is left has the expected square

    Σ over rows of (ŵ − w)·H·(ŵ − w)ᵀ,    H = C + Δ²/12,

which rounding each weight to its nearest makes least only where H is diagonal; inputs of
convolutions are far from it. So weights are rounded one after the other, and those that are still
free take over what rounding cost: with H = RRᵀ, R upper triangular, the square is that of
(ŵ − w)·R, whose place k is least when weight k is rounded from wₖ − Σ eⱼ·Rⱼₖ/Rₖₖ over the errors eⱼ
before it. That is GPTQ (Frantar et al., arXiv 2210.17323, section 3.3, where H⁻¹ is factored), seen
as the nearest plane of a lattice (Chen et al., arXiv 2507.18553), and needs no inverse. The inputs
that vary most go first, as long as there are many weights left to make up for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from inception_deploy.errors import StageError
from inception_deploy.quantisation import QuantisedWeights

__all__ = ["REACH", "InputMoments", "RoundedWeights", "WeightRounder"]

Floats: TypeAlias = NDArray[np.float32]

DAMPING = 3e-3
"""Added to the diagonal of H, in parts of its mean: the covariance is that of a sample, and has
directions in which nothing was seen. From 1e-4 to 1e-2 the SQNR of the logits changes by at most
0.3 dB; weights move by more steps the less there is."""

REACH = 4
"""Steps between a weight's integer and its nearest, at most. Of thousands per layer a few would go
further; `locate` tells a wrong weight from a rounded one by this."""

_BLOCK = 64
"""Weights of a row rounded before what they leave to the rest is added up, by one product."""


@dataclass(frozen=True, eq=False)
class InputMoments:
    """First and second moments of what one weighted layer reads.

    Args:
        mean: float64 (groups, taps); taps are input channels of the group times kernel positions,
            in the order of the weights.
        covariance: float32 (groups, taps, taps).
        samples: positions that they were taken over.
    """

    mean: NDArray[np.float64]
    covariance: Floats
    samples: int


@dataclass(frozen=True, eq=False)
class RoundedWeights:
    """Weights in integers, and what that does to the layer's outputs on average.

    Args:
        weights: on the grids that were given.
        shift: float64 (channels,), E[(Ŵ − W)·x], to be subtracted from the bias.
    """

    weights: QuantisedWeights
    shift: NDArray[np.float64]


class WeightRounder:
    """Rounds weights of layers that read the same windows: H is factored once for all of them.

    Args:
        moments: of what the layers read.
        noise: variance of the rounding of each input, Δ²/12.

    Raises:
        StageError: the moments are not finite.
    """

    def __init__(self, moments: InputMoments, noise: float = 0.0) -> None:
        if not np.isfinite(moments.covariance).all():
            raise StageError("the covariance of a layer's inputs is not finite; look at the images")
        self.moments, self.noise = moments, noise
        variances = np.diagonal(moments.covariance, axis1=1, axis2=2)
        self._order = np.argsort(-variances, axis=1, kind="stable")
        self._factor = _factor(moments.covariance, self._order, noise)

    def round(
        self, weights: NDArray[Any], grid: QuantisedWeights, *, bits: int = 8
    ) -> RoundedWeights:
        """`weights` on the scales of `grid`, rounded for the least error of the layer's outputs.

        No row comes out worse than `grid` has it: where it would, it is taken over.

        Args:
            weights: float (out, in / groups, …), finite.
            grid: the nearest integers, axis 0.
            bits: of the integers, as in `quantisation.quantise_weights`.

        Raises:
            StageError: the moments are of another layer.
        """
        groups, taps = self.moments.mean.shape
        if weights.size != len(weights) * taps or len(weights) % groups:
            raise StageError(
                f"moments of {groups} × {taps} inputs do not fit {weights.shape} weights"
            )
        shape = (groups, len(weights) // groups, taps)
        scales = grid.scales.astype(np.float64).reshape(*shape[:2], 1)
        own = weights.astype(np.float64).reshape(shape) / scales
        nearest = grid.integers.reshape(shape).astype(np.float64)
        order = self._order[:, :, None]
        first, near = (np.take_along_axis(w.swapaxes(1, 2), order, 1) for w in (own, nearest))
        integers = _in_turn(first, near, self._factor, 2 ** (bits - 1) - 1)
        found = np.empty_like(own)
        np.put_along_axis(found.swapaxes(1, 2), order, integers, 1)
        worse = self._cost(found - own) > self._cost(nearest - own)
        found[worse] = nearest[worse]
        shifts = np.matmul(found - own, self.moments.mean[:, :, None]) * scales
        rounded = QuantisedWeights(
            found.astype(np.int8).reshape(weights.shape), grid.scales, grid.axis
        )
        return RoundedWeights(rounded, shifts.reshape(-1))

    def _cost(self, errors: NDArray[np.float64]) -> Floats:
        """e·H·eᵀ of each row, (groups, rows)."""
        rows = errors.astype(np.float32)
        cost: Floats = ((rows @ self.moments.covariance + self.noise * rows) * rows).sum(-1)
        return cost


def _in_turn(
    own: NDArray[np.float64], nearest: NDArray[np.float64], factor: Floats, highest: int
) -> NDArray[np.float64]:
    """Integers of weights `own` (groups, taps, rows), in steps and in order.

    What is added up is eR: of a weight not rounded yet, what those before it have left there.
    """
    low = np.maximum(nearest - REACH, -highest)
    high = np.minimum(nearest + REACH, highest)
    found = np.empty_like(own)
    errors = np.empty(own.shape, np.float32)
    left = np.zeros(own.shape, np.float32)
    taps = own.shape[1]
    for start in range(0, taps, _BLOCK):
        end = min(start + _BLOCK, taps)
        for j in range(start, end):
            near = factor[:, None, start:j, j] @ errors[:, start:j]
            wanted = own[:, j] - (left[:, j] + near[:, 0]) / factor[:, j, j, None]
            found[:, j] = np.clip(np.rint(wanted), low[:, j], high[:, j])
            errors[:, j] = found[:, j] - own[:, j]
        left[:, end:] += factor[:, start:end, end:].swapaxes(1, 2) @ errors[:, start:end]
    return found


def _factor(covariance: Floats, order: NDArray[np.intp], noise: float) -> Floats:
    """Upper triangular R, (groups, taps, taps), with RRᵀ = H + damping in that order.

    With rows and columns in the reverse order it is the Cholesky factor. The damping bounds the
    condition of H to taps / `DAMPING`, which float32 stands; should a covariance's own rounding
    leave it indefinite nevertheless, ten times as much is added until it is not.
    """
    factor = np.empty_like(covariance)
    for own, turned, result in zip(covariance, order[:, ::-1], factor, strict=True):
        matrix = torch.from_numpy(own[np.ix_(turned, turned)])
        diagonal = matrix.diagonal()
        diagonal += noise
        mean = float(diagonal.mean())
        damping = DAMPING * mean if mean > 0 else 1.0
        diagonal += damping
        lower, failed = torch.linalg.cholesky_ex(matrix)
        while failed:
            diagonal += 9 * damping
            damping *= 10
            lower, failed = torch.linalg.cholesky_ex(matrix)
        result[:] = lower.numpy()[::-1, ::-1]
    return factor
