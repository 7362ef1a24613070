"""Histograms: exact counts in bins that follow from the range alone."""

from __future__ import annotations

import numpy as np
import pytest
from histogram_cases import DISTRIBUTIONS, contents, histogram_of

from inception_deploy.histograms import BINS, Tally, merged


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_counts_are_those_of_numpy(kind: str) -> None:
    values = DISTRIBUTIONS[kind]
    histogram = histogram_of(values)
    assert (histogram.minimum, histogram.maximum) == (values.min(), values.max())
    assert histogram.zeros == np.count_nonzero(values == 0)
    assert histogram.samples == values.size
    others = values[values != 0].astype(np.float64)
    bins = np.floor(others / histogram.width).astype(int)
    if others.size:
        expected = np.bincount(bins - bins.min())
        assert histogram.first == bins.min()
        assert histogram.counts.tolist() == expected.tolist()
        assert (
            histogram.magnitudes().tolist()
            == np.bincount(np.where(bins < 0, -1 - bins, bins)).tolist()
        )
    else:
        assert len(histogram.counts) == 0
    assert histogram.power() == pytest.approx(
        np.mean(values.astype(np.float64) ** 2), rel=1e-3, abs=histogram.width**2
    )


@pytest.mark.parametrize("kind", sorted({*DISTRIBUTIONS} - {"dead"}))
def test_half_of_the_bins_or_more_lie_in_the_range(kind: str) -> None:
    values = DISTRIBUTIONS[kind]
    span = max(float(values.max()), 0) - min(float(values.min()), 0)
    assert BINS / 2 - 1 <= span / histogram_of(values).width <= BINS


def test_growth_moves_counts_exactly() -> None:
    """Values from 1e-40 to 1e30, smallest first: the range doubles a few hundred times."""
    values = np.sort(np.float32(10.0) ** np.linspace(-40, 30, 400, dtype=np.float32))
    values *= np.where(np.arange(400) % 3, 1, -1).astype(np.float32)
    growing = Tally([1], [1])
    for value in values:
        growing.add(np.array([value]), *np.array([[value], [value]], np.float64))
    assert contents(growing.histogram(0)) == contents(histogram_of(values))


def test_zeros_before_anything_else() -> None:
    values = np.array([0, 0, 0, -0.0, 1e-30, 5, -5], np.float32)
    growing = Tally([1], [1])
    for value in values:
        growing.add(np.array([value]), *np.array([[value], [value]], np.float64))
    assert growing.histogram(0).zeros == 4
    assert contents(growing.histogram(0)) == contents(histogram_of(values))


def test_tensors_do_not_mix() -> None:
    rng = np.random.default_rng(0)
    kinds = [rng.standard_normal((5, 7)), rng.uniform(0, 9, (5, 3)), np.zeros((5, 1))]
    tally = Tally([7, 3, 1], [1, 1, 1])
    for image in range(5):
        parts = [kind[image].astype(np.float32) for kind in kinds]
        bounds = np.array([(part.min(), part.max()) for part in parts], np.float64).T
        tally.add(np.concatenate(parts), *bounds)
    for index, kind in enumerate(kinds):
        expected = histogram_of(kind.astype(np.float32))
        assert contents(tally.histogram(index)) == contents(expected)


def test_a_sample_stands_for_as_many_elements_as_its_stride() -> None:
    tally = Tally([3], [10])
    tally.add(np.array([0, 1, 2], np.float32), np.array([-1.0]), np.array([2.5]))
    histogram = tally.histogram(0)
    assert (histogram.zeros, histogram.samples) == (10, 32)  # and the two extremes, once each
    filled = {
        float(edge): int(count)
        for edge, count in zip(histogram.edges[:-1], histogram.counts, strict=True)
        if count
    }
    assert filled == {-1.0: 1, 1.0: 10, 2.0: 10, 2.5: 1}


@pytest.mark.parametrize("one", DISTRIBUTIONS)
@pytest.mark.parametrize("other", ["gaussian", "dead", "shifted", "tiny", "constant negative"])
def test_merging_is_observing_as_one(one: str, other: str) -> None:
    values = DISTRIBUTIONS[one], DISTRIBUTIONS[other]
    together = merged([histogram_of(part) for part in values])
    assert contents(together) == contents(histogram_of(np.concatenate(values)))
