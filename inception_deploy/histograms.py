"""Histograms whose range grows with the data and whose counts never depend on the order.

A bin is [i·2^k, (i + 1)·2^k) for an integer i. When a value falls outside of what the bins cover,
k grows, and two neighbouring bins become one: ⌊⌊x/2^k⌋/2⌋ = ⌊x/2^(k+1)⌋, exactly. The final k and
the final counts therefore follow from the values alone, whatever came first. Zeros are counted
apart, for every affine quantiser represents them exactly, and after a ReLU they are most of a
tensor.

Of a large tensor only every s-th element is counted, and counts for s elements. What is rare lies
between them, and clipping is about what is rare; so the smallest and the largest element of every
image, known exactly, are counted as well, for one element each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["BINS", "Histogram", "Histograms", "Snapshot", "Tally", "merged"]

BINS = 4096
"""Bins of one tensor; half of them or more lie inside its range, zero included."""

_ALL_ZERO = -200  # below every k that a float32 can ask for: 2**-149 is the smallest one

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Histogram:
    """The distribution of one tensor.

    Args:
        minimum, maximum: exact, over every element of every image.
        zeros: how many elements are exactly zero, as far as was sampled.
        counts: int64 (n,), the other elements by bin, without empty bins at either end.
        first: index of the first bin.
        exponent: bins are 2^exponent wide.
    """

    minimum: float
    maximum: float
    zeros: int
    counts: Integers
    first: int
    exponent: int

    @property
    def max_abs(self) -> float:
        """Largest magnitude."""
        return max(abs(self.minimum), abs(self.maximum))

    @property
    def samples(self) -> int:
        """How many elements were counted or stood for, zeros included."""
        return self.zeros + int(self.counts.sum())

    @property
    def width(self) -> float:
        """Of one bin."""
        return float(np.ldexp(1.0, self.exponent))

    @property
    def edges(self) -> Floats:
        """float64 (n + 1,), exact but for the two outer ones, which stop at the exact range."""
        edges = np.ldexp(self.first + np.arange(len(self.counts) + 1.0), self.exponent)
        exact: Floats = np.clip(edges, self.minimum, self.maximum)
        return exact

    def magnitudes(self) -> Integers:
        """int64: elements by |x|, bin i being [i·width, (i + 1)·width), zeros left out."""
        index = self.first + np.arange(len(self.counts))
        folded = np.where(index < 0, -1 - index, index)
        if not len(folded):
            return np.zeros(0, np.int64)
        sums = np.zeros(int(folded.max()) + 1, np.int64)
        np.add.at(sums, folded, self.counts)
        return sums

    def power(self) -> float:
        """Mean square of the elements, zeros included, density being flat inside a bin."""
        low, high = self.edges[:-1], self.edges[1:]
        squares = (low * low + low * high + high * high) / 3
        return float(squares @ self.counts) / max(1, self.samples)


def merged(parts: Sequence[Histogram]) -> Histogram:
    """The histogram of several tensors together, as if they had been observed as one: exact."""
    low, high = min(part.minimum for part in parts), max(part.maximum for part in parts)
    exponents, firsts = _bins(np.array([low]), np.array([high]))
    exponent, first = int(exponents[0]), int(firsts[0])
    counts = np.zeros(BINS, np.int64)
    for part in parts:
        index = (part.first + np.arange(len(part.counts))) >> min(exponent - part.exponent, 62)
        np.add.at(counts, index - first, part.counts)
    return _trimmed(low, high, sum(part.zeros for part in parts), counts, first, exponent)


def _trimmed(
    low: float, high: float, zeros: int, counts: Integers, first: int, exponent: int
) -> Histogram:
    """Without the empty bins at either end."""
    filled = np.flatnonzero(counts)
    start, stop = (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, 0)
    return Histogram(low, high, zeros, counts[start:stop], first + start, exponent)


@dataclass(frozen=True)
class Snapshot:
    """The ranges after the first `images` images: tensor name → (minimum, maximum)."""

    images: int
    ranges: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, eq=False)
class Histograms:
    """What calibration saw of the tensors that will be quantised.

    Args:
        tensors: tensor name → histogram, in the order asked for.
        model: sha256 of the graph.
        data: digest of the calibration images' source.
        images: how many images were seen.
        history: ranges after 1, 2, 4, … images and after all; the one thing that depends on the
            order of the images.
    """

    tensors: Mapping[str, Histogram]
    model: str
    data: str
    images: int
    history: tuple[Snapshot, ...] = ()


class Tally:
    """Counts the samples of many tensors, one image after the other, in memory fixed beforehand.

    Args:
        sizes: samples per image of each tensor.
        strides: how many elements a sample of each tensor stands for; where it is more than one,
            the extremes of an image are counted too.
    """

    def __init__(self, sizes: Sequence[int], strides: Sequence[int]) -> None:
        self._sizes = np.array(sizes, np.int64)
        self._strides = np.array(strides, np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)[:-1]]).astype(np.int64)
        self._counts = np.zeros((2, len(sizes), BINS), np.int64)  # of samples, of extremes
        self._zeros = np.zeros(len(sizes), np.int64)
        self._exponent = np.full(len(sizes), _ALL_ZERO, np.int64)
        self._first = np.zeros(len(sizes), np.int64)
        self.minimum: Floats = np.full(len(sizes), np.inf)
        self.maximum: Floats = np.full(len(sizes), -np.inf)
        self._aim()

    def add(self, samples: NDArray[np.float32], low: Floats, high: Floats) -> None:
        """One image.

        Args:
            samples: float32 (sum of sizes,), tensor after tensor, finite.
            low, high: float64 (tensors,), exact extremes of each tensor, finite.
        """
        grown = (low < self.minimum) | (high > self.maximum)
        if grown.any():
            self.minimum = np.minimum(self.minimum, low)
            self.maximum = np.maximum(self.maximum, high)
            self._grow(np.flatnonzero(grown))
        bins = samples * self._scale  # float64: exact for every float32, subnormal ones included
        np.floor(bins, out=bins)
        index = bins.astype(np.int64)
        index += self._offset
        np.add.at(self._counts[0].reshape(-1), index, 1)
        for extreme in (low, high):
            rows = np.flatnonzero((extreme != 0) & (self._strides > 1))
            bins = np.floor(np.ldexp(extreme[rows], -self._exponent[rows])).astype(np.int64)
            np.add.at(self._counts[1], (rows, bins - self._first[rows]), 1)
        self._zeros += np.add.reduceat(samples == 0, self._starts, dtype=np.int64)

    def histogram(self, tensor: int) -> Histogram:
        """Of the tensor at this position; there has been an image."""
        first, weight = int(self._first[tensor]), int(self._strides[tensor])
        zeros = int(self._zeros[tensor])
        samples, extremes = self._counts[:, tensor]
        counts = samples * weight + extremes
        if zeros:
            counts[-first] -= zeros * weight
        low, high = float(self.minimum[tensor]), float(self.maximum[tensor])
        return _trimmed(low, high, zeros * weight, counts, first, int(self._exponent[tensor]))

    def _grow(self, tensors: Integers) -> None:
        exponents, firsts = _bins(self.minimum[tensors], self.maximum[tensors])
        changed = (exponents != self._exponent[tensors]) | (firsts != self._first[tensors])
        for tensor, exponent, first in zip(
            tensors[changed], exponents[changed], firsts[changed], strict=True
        ):
            rows = self._counts[:, tensor]
            filled = np.flatnonzero(rows.any(axis=0))
            # a shift by more than 62, out of a tensor that was zero so far, gives what 62 gives
            shift = min(int(exponent - self._exponent[tensor]), 62)
            index = ((self._first[tensor] + filled) >> shift) - first
            moved = rows[:, filled]
            rows[:] = 0
            for row, counts in zip(rows, moved, strict=True):
                np.add.at(row, index, counts)
            self._exponent[tensor], self._first[tensor] = exponent, first
        if changed.any():
            self._aim()

    def _aim(self) -> None:
        """Precompute what takes each sample to its bin."""
        rows = np.arange(len(self._sizes)) * BINS
        self._scale = np.repeat(np.ldexp(1.0, -self._exponent), self._sizes)
        self._offset = np.repeat(rows - self._first, self._sizes)


def _bins(low: Floats, high: Floats) -> tuple[Integers, Integers]:
    """Smallest exponent for which `BINS` bins cover zero and [low, high]; index of the first bin.

    Zero is covered because every quantiser's interval holds it. Both follow from the range alone,
    and the exponent never falls when the range grows.
    """
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    _, exponent = np.frexp((high - low) / BINS)
    exponent = np.where(high > low, exponent.astype(np.int64) - 2, _ALL_ZERO)

    def index(value: Floats) -> Floats:
        return np.floor(np.ldexp(value, -exponent))

    while (wide := index(high) - index(low) >= BINS).any():
        exponent = exponent + wide
    return exponent, index(low).astype(np.int64)
