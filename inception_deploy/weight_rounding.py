"""Weights in integers by what their rounding does to the sums, not each to its nearest.

A layer y = W·x reads x with mean μ and covariance C, and x is rounded to a grid of step Δ before it
is read. Integer weights Ŵ change an output by (Ŵ − W)·(x + n − μ) and, on average, by (Ŵ − W)·μ.
The average is taken back by the bias. What is left has the expected square

    Σ over rows of (ŵ − w)·H·(ŵ − w)ᵀ,    H = C + Δ²/12,

which rounding each weight to its nearest makes least only where H is diagonal; inputs of
convolutions are far from it. So weights are rounded one after the other, and those that are still
free take over what rounding cost: with H⁻¹ = UᵀU, U upper triangular, rounding weight j by eⱼ moves
weight k > j by −eⱼ·Uⱼₖ/Uⱼⱼ (Frantar and Alistarh, arXiv 2208.11580, section 4; in this order and
form arXiv 2210.17323, section 3.3). The inputs that vary most go first, as long as there are many
weights left to make up for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from inception_deploy.errors import StageError
from inception_deploy.quantisation import QuantisedWeights

__all__ = ["REACH", "InputMoments", "RoundedWeights", "round_weights"]

Floats: TypeAlias = NDArray[np.float32]

DAMPING = 3e-3
"""Added to the diagonal of H, in parts of its mean: the covariance is that of a sample, and has
directions in which nothing was seen. From 1e-4 to 1e-2 the SQNR of the logits changes by at most
0.3 dB; weights move by more steps the less there is."""

REACH = 4
"""Steps between a weight's integer and its nearest, at most. Of thousands per layer a few would go
further; `locate` tells a wrong weight from a rounded one by this."""

_BLOCK = 64
"""Weights of a row rounded before the rest of the row is moved, by one product for all."""


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


def round_weights(
    weights: NDArray[Any],
    grid: QuantisedWeights,
    moments: InputMoments,
    *,
    noise: float = 0.0,
    bits: int = 8,
) -> RoundedWeights:
    """`weights` on the scales of `grid`, rounded for the least error of the layer's outputs.

    No row comes out worse than `grid` has it: where it would, it is taken over.

    Args:
        weights: float (out, in / groups, …), finite.
        grid: the nearest integers, axis 0.
        noise: variance of the rounding of each input, Δ²/12.
        bits: of the integers, as in `quantisation.quantise_weights`.

    Raises:
        StageError: the moments are of another layer, or not finite.
    """
    groups, taps = moments.mean.shape
    if weights.size != len(weights) * taps or len(weights) % groups:
        raise StageError(f"moments of {groups} × {taps} inputs do not fit {weights.shape} weights")
    if not np.isfinite(moments.covariance).all():
        raise StageError("the covariance of a layer's inputs is not finite; look at the images")
    shape = (groups, len(weights) // groups, taps)
    scales = grid.scales.astype(np.float64).reshape(*shape[:2], 1)
    own = weights.astype(np.float64).reshape(shape) / scales
    nearest = grid.integers.reshape(shape)
    highest = 2 ** (bits - 1) - 1
    integers, shifts = np.empty(shape, np.int8), np.empty(shape[:2])
    for group in range(groups):
        matrix = moments.covariance[group].copy()
        matrix[np.diag_indices_from(matrix)] += noise
        steps = nearest[group].astype(np.float64)
        found = _in_turn(own[group], steps, matrix, highest)
        worse = _cost(found - own[group], matrix) > _cost(steps - own[group], matrix)
        found[worse] = steps[worse]
        integers[group] = found
        shifts[group] = ((found - own[group]) @ moments.mean[group]) * scales[group, :, 0]
    rounded = QuantisedWeights(integers.reshape(weights.shape), grid.scales, grid.axis)
    return RoundedWeights(rounded, shifts.reshape(-1))


def _cost(errors: NDArray[np.float64], matrix: Floats) -> Floats:
    """e·H·eᵀ for each row."""
    rows = errors.astype(np.float32)
    cost: Floats = ((rows @ matrix) * rows).sum(1)
    return cost


def _in_turn(
    own: NDArray[np.float64], nearest: NDArray[np.float64], matrix: Floats, highest: int
) -> NDArray[np.float64]:
    """Integers of the rows `own` (rows, taps), in steps; `matrix` is H."""
    order = np.argsort(-np.diag(matrix), kind="stable")
    factor = _factor(matrix[np.ix_(order, order)])
    low = np.maximum(nearest - REACH, -highest)[:, order]
    high = np.minimum(nearest + REACH, highest)[:, order]
    free = own[:, order]
    found = np.empty_like(free)
    taps = len(order)
    for start in range(0, taps, _BLOCK):
        end = min(start + _BLOCK, taps)
        errors = np.empty((len(free), end - start))
        for j in range(start, end):
            found[:, j] = np.clip(np.rint(free[:, j]), low[:, j], high[:, j])
            error = (free[:, j] - found[:, j]) / factor[j, j]
            free[:, j:end] -= np.outer(error, factor[j, j:end])
            errors[:, j - start] = error
        free[:, end:] -= errors.astype(np.float32) @ factor[start:end, end:]
    result = np.empty_like(found)
    result[:, order] = found
    return result


def _factor(matrix: Floats) -> Floats:
    """Upper triangular U with UᵀU = (H + damping)⁻¹.

    With the order of rows and columns reversed, H = LLᵀ is H = RRᵀ with R upper triangular, whose
    inverse is U: one factorisation, and no inverse of H itself. The damping bounds the condition of
    H to taps / `DAMPING`, which float32 stands; where it does not, float64 is taken.
    """
    diagonal = np.diag_indices_from(matrix)
    mean = float(matrix[diagonal].mean())
    matrix[diagonal] += DAMPING * mean if mean > 0 else 1.0
    turned = torch.from_numpy(matrix[::-1, ::-1].copy())
    lower, failed = torch.linalg.cholesky_ex(turned)
    if failed:
        lower = torch.linalg.cholesky(turned.double())
    inverse = torch.linalg.solve_triangular(
        lower, torch.eye(len(matrix), dtype=lower.dtype), upper=False
    )
    found: Floats = np.ascontiguousarray(inverse.float().numpy()[::-1, ::-1])
    return found
