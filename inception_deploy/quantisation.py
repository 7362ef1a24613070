"""Eight-bit arithmetic: affine grids for activations, symmetric per-channel grids for weights.

    q = clip(round(x / scale) + zero_point, lowest, highest)        x ≈ (q − zero_point) · scale

as ONNX defines `QuantizeLinear` (half to even) and `DequantizeLinear`. Zero is always on the grid:
padding writes zeros, and a ReLU cuts at one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from inception_deploy.errors import StageError
from inception_deploy.ranges import TensorRange

__all__ = [
    "IntegerType",
    "QuantisedWeights",
    "Quantiser",
    "activation_quantiser",
    "bias_correction",
    "exact_grid",
    "on_scales",
    "quantise_weights",
    "quantised_bias",
    "widened",
]

IntegerType: TypeAlias = Literal["uint8", "int8"]
Float64Array: TypeAlias = NDArray[np.float64]

SMALLEST_SCALE = 2.0**-60
"""Of a tensor that is zero throughout. Kernels multiply two scales and divide by a third: the
product of two such ones is still a normal float32, and no quotient with one overflows."""

LARGEST_BIAS = 2.0**30
"""Of a bias in int32, in steps: the sum over the taps, below 255 · 127 per tap, has the other
half."""

CLIPS = np.linspace(0.5, 1.0, 51)
"""Candidates of `quantise_weights`, as parts of the largest magnitude; 1 clips nothing."""


@dataclass(frozen=True)
class Quantiser:
    """One affine grid for a whole tensor.

    Args:
        scale: distance of neighbouring values, float32 precision.
        zero_point: the integer that stands for 0.
        dtype: of the integers.
    """

    scale: float
    zero_point: int
    dtype: IntegerType

    @property
    def limits(self) -> tuple[int, int]:
        """Lowest and highest integer."""
        return (0, 255) if self.dtype == "uint8" else (-128, 127)

    @property
    def shift(self) -> float:
        """What is taken off a value so that the integer 0 stands for 0."""
        return -self.zero_point * self.scale

    def quantise(self, values: NDArray[Any]) -> NDArray[Any]:
        """float → integers of `dtype`, the same shape."""
        low, high = self.limits
        with np.errstate(over="ignore"):  # what overflows here is saturated below
            scaled = (
                np.rint(np.asarray(values, np.float32) / np.float32(self.scale)) + self.zero_point
            )
        integers: NDArray[Any] = np.clip(scaled, low, high).astype(self.dtype)
        return integers

    def dequantise(self, integers: NDArray[Any]) -> NDArray[np.float32]:
        """Integers → float32, the same shape."""
        offsets = integers.astype(np.int32) - self.zero_point
        return (offsets * np.float32(self.scale)).astype(np.float32)


def activation_quantiser(seen: TensorRange, dtype: IntegerType, *, symmetric: bool) -> Quantiser:
    """The grid that covers a range.

    Args:
        seen: what is to be represented; widened to hold 0.
        symmetric: zero point 0. For uint8 that is exact where nothing is negative; what is negative
            would be cut off, so such a range is an error of the caller.
    """
    low, high = min(seen.minimum, 0.0), max(seen.maximum, 0.0)
    if dtype == "int8" and symmetric:
        scale, zero_point = max(high, -low) / 127, 0
    else:
        assert low == 0.0 or not symmetric, "a uint8 grid with zero point 0 holds nothing negative"
        scale = max((high - low) / 255, SMALLEST_SCALE)
        zero_point = round((0 if dtype == "uint8" else -128) - low / scale)
    return Quantiser(float(np.float32(max(scale, SMALLEST_SCALE))), zero_point, dtype)


def exact_grid(values: NDArray[Any]) -> Quantiser | None:
    """The coarsest uint8 grid with zero point 0 on which every value lies; None where none is.

    Its step is the smallest value above zero, or a whole part of it.
    """
    wanted = np.asarray(values, np.float32)
    positive = wanted[wanted > 0]
    if positive.size == 0 or wanted.min() < 0 or not np.isfinite(wanted).all():
        return None
    for part in range(1, 256):
        grid = Quantiser(float(np.float32(positive.min() / part)), 0, "uint8")
        if (grid.dequantise(grid.quantise(wanted)) == wanted).all():
            return grid
    return None


@dataclass(frozen=True)
class QuantisedWeights:
    """Weights in integers, with one scale per output channel.

    Args:
        integers: int8, the shape of the weights.
        scales: float32 (channels,).
        axis: of the channels.
    """

    integers: NDArray[np.int8]
    scales: NDArray[np.float32]
    axis: int

    def dequantise(self) -> NDArray[np.float32]:
        """float32, the shape of the weights."""
        shape = [1] * self.integers.ndim
        shape[self.axis] = -1
        values: NDArray[np.float32] = self.integers * self.scales.reshape(shape)
        return values

    def sums(self) -> Float64Array:
        """float64 (channels,): all weights of each channel added up, exactly."""
        rows = np.moveaxis(self.integers, self.axis, 0).reshape(len(self.scales), -1)
        total: Float64Array = rows.sum(1, dtype=np.int64) * self.scales.astype(np.float64)
        return total


def quantise_weights(
    weights: NDArray[Any], *, axis: int = 0, bits: int = 8, clip: bool = True
) -> QuantisedWeights:
    """Symmetric grids, one per channel: integers in ±(2^(bits−1) − 1).

    Args:
        weights: float, at least two dimensions.
        bits: 8, or 7 where products of two neighbours must not saturate 16 bits (x86 without VNNI).
        clip: choose the largest magnitude per channel that gives the smallest squared error, of
            `CLIPS`; otherwise it is that of the weights.
    """
    highest = 2 ** (bits - 1) - 1
    rows: Float64Array = np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1)
    rows = rows.astype(np.float64)
    largest = np.abs(rows).max(1)
    best = np.maximum(largest / highest, SMALLEST_SCALE)
    if clip:
        least = np.full(len(rows), np.inf)
        for part in CLIPS[::-1]:
            scales = np.maximum(largest * part / highest, SMALLEST_SCALE)
            steps = np.clip(np.rint(rows / scales[:, None]), -highest, highest)
            error = ((steps * scales[:, None] - rows) ** 2).sum(1)
            better = error < least
            least[better], best[better] = error[better], scales[better]
    scales32 = best.astype(np.float32)
    return QuantisedWeights(_steps(weights, scales32, axis, highest), scales32, axis)


def on_scales(
    weights: NDArray[Any], scales: NDArray[np.float32], *, bits: int = 8
) -> QuantisedWeights:
    """Weights on given symmetric grids of their channels (axis 0); what is beyond saturates.

    A channel without weights gets the scale 1, which every float format holds.
    """
    steps = _steps(weights, scales, 0, 2 ** (bits - 1) - 1)
    dead = ~steps.reshape(len(scales), -1).any(1)
    return QuantisedWeights(steps, np.where(dead, np.float32(1), scales).astype(np.float32), 0)


def _steps(
    weights: NDArray[Any], scales: NDArray[np.float32], axis: int, highest: int
) -> NDArray[np.int8]:
    shape = [1] * weights.ndim
    shape[axis] = -1
    steps = np.rint(weights / scales.astype(np.float64).reshape(shape))
    integers: NDArray[np.int8] = np.clip(steps, -highest, highest).astype(np.int8)
    return integers


def widened(
    grid: QuantisedWeights,
    weights: NDArray[Any],
    bias: NDArray[Any],
    input_scale: float,
    *,
    bits: int = 8,
) -> QuantisedWeights:
    """`grid`, coarser in the channels whose bias would not fit the accumulator otherwise.

    Such a bias, of more than `LARGEST_BIAS` steps, outweighs the channel's sum: what coarser
    weights cost is below taps · 255 / 2^31 of it, 10⁻⁴ for a thousand taps. Dead channels, and
    weights behind a dead input, are the usual case: their smallest of scales follows the bias.

    Args:
        grid: that `quantise_weights` chose for `weights`, with as many bits.
        bias: (channels,).
        input_scale: of the activation that the weights are multiplied with.
    """
    needed = np.abs(bias.astype(np.float64)) / (LARGEST_BIAS * input_scale)
    scales = np.maximum(grid.scales, needed).astype(np.float32)
    wider = scales > grid.scales
    if not wider.any():
        return grid
    integers = np.moveaxis(grid.integers.copy(), grid.axis, 0)
    coarse = _steps(weights, scales, grid.axis, 2 ** (bits - 1) - 1)
    integers[wider] = np.moveaxis(coarse, grid.axis, 0)[wider]
    return QuantisedWeights(np.moveaxis(integers, 0, grid.axis), scales, grid.axis)


def quantised_bias(
    bias: NDArray[Any], input_scale: float, weight_scales: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """int32 bias on the grid of the accumulator, and that grid's scales, float32 (channels,).

    The accumulator counts in input_scale · weight_scale; a bias on this grid is added as it is.

    Raises:
        StageError: a bias is beyond int32 on this grid; `widened` makes room.
    """
    scales = (np.float32(input_scale) * weight_scales).astype(np.float32)
    steps = np.rint(bias.astype(np.float64) / scales)
    beyond = np.flatnonzero(np.abs(steps) > np.iinfo(np.int32).max)
    if beyond.size:
        raise StageError(
            f"the bias of channel {beyond[0]}, {bias[beyond[0]]:.3g}, takes more than 32 bits in "
            f"steps of {scales[beyond[0]]:.3g}; keep this node in float"
        )
    return steps.astype(np.int32), scales


def bias_correction(
    weights: NDArray[Any], grid: QuantisedWeights, input_means: NDArray[Any]
) -> Float64Array:
    """What quantising the weights adds to each output channel on average, to be subtracted.

    E[(Ŵ − W) · x] = Σ over input channels and taps of (Ŵ − W) · E[x] (arXiv 1906.04721,
    section 4.2), with zero padding left out of account.

    Args:
        weights: (out, in / groups, kh, kw), the float ones; `grid` is theirs with axis 0.
        input_means: (in,), the mean of each input channel.

    Returns:
        float64 (out,).
    """
    difference = grid.dequantise().astype(np.float64) - weights
    taps = difference.reshape(*difference.shape[:2], -1).sum(2)
    out, per_group = taps.shape
    groups = len(input_means) // per_group
    means = np.repeat(input_means.reshape(groups, per_group), out // groups, axis=0)
    corrected: Float64Array = (taps * means).sum(1)
    return corrected
