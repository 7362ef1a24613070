"""What every calibrator promises, for everything a tensor may hold."""

from __future__ import annotations

import numpy as np
import pytest
from histogram_cases import DISTRIBUTIONS, contents, histogram_of, squared_error

from inception_deploy.calibrators import CALIBRATORS, Grid, calibrator
from inception_deploy.errors import BadInput

GRIDS = (Grid(), Grid(symmetric=True), Grid(levels=128), Grid(levels=16))

pytestmark = pytest.mark.parametrize("name", CALIBRATORS.names())
everything = pytest.mark.parametrize("kind", DISTRIBUTIONS)
every_grid = pytest.mark.parametrize("grid", GRIDS, ids=str)


@everything
@every_grid
def test_the_interval_holds_zero_and_lies_within_the_range(
    name: str, kind: str, grid: Grid
) -> None:
    values = DISTRIBUTIONS[kind]
    clip = calibrator(name).clip(histogram_of(values), grid)
    low, high = grid.interval(float(values.min()), float(values.max()))
    assert low <= clip.low <= 0 <= clip.high <= high
    assert clip.low < clip.high or not values.any()
    if grid.symmetric:
        assert clip.low == -clip.high


@everything
@every_grid
def test_the_stated_error_is_that_of_quantising_the_values(
    name: str, kind: str, grid: Grid
) -> None:
    values = DISTRIBUTIONS[kind]
    histogram = histogram_of(values)
    clip = calibrator(name).clip(histogram, grid)
    expected = squared_error(values, grid, clip.low, clip.high)
    # within a bin the density is taken as flat: that blurs an error by a part of a bin's width
    blur = histogram.width**2 / 12
    assert clip.error == pytest.approx(expected, rel=0.02, abs=blur)


@every_grid
def test_the_scale_of_the_values_does_not_matter(name: str, grid: Grid) -> None:
    values = DISTRIBUTIONS["skewed"]
    once = calibrator(name).clip(histogram_of(values), grid)
    twice = calibrator(name).clip(histogram_of(values * 1024), grid)
    assert (twice.low, twice.high) == pytest.approx((once.low * 1024, once.high * 1024), rel=1e-9)
    assert twice.error == pytest.approx(once.error * 2**20, rel=1e-9)


@every_grid
def test_adding_zeros_changes_nothing_but_the_mean_error(name: str, grid: Grid) -> None:
    values = DISTRIBUTIONS["relu"]
    padded = np.append(values, np.zeros(9 * values.size, np.float32))
    once, diluted = (calibrator(name).clip(histogram_of(v), grid) for v in (values, padded))
    assert (diluted.low, diluted.high) == (once.low, once.high)
    assert diluted.error == pytest.approx(once.error / 10, rel=1e-9)


def test_the_histogram_is_left_alone(name: str) -> None:
    histogram = histogram_of(DISTRIBUTIONS["gaussian"])
    before = contents(histogram)
    calibrator(name).clip(histogram, Grid())
    assert contents(histogram) == before


def test_the_name_finds_it_again(name: str) -> None:
    assert calibrator(name).name == name
    with pytest.raises(BadInput, match="nonsense"):
        calibrator(f"{name}:nonsense")
