"""Calibrators against closed forms, brute force, and each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
from histogram_cases import DISTRIBUTIONS, histogram_of, squared_error
from scipy import stats  # type: ignore[import-untyped]

from inception_deploy.calibrators import Clip, Grid, calibrator, expected_error
from inception_deploy.calibrators.auto import CANDIDATES, CLIPPING
from inception_deploy.calibrators.entropy import divergence
from inception_deploy.errors import BadInput, UnknownName
from inception_deploy.histograms import Histogram

SIGNED, UNSIGNED = Grid(symmetric=True), Grid()


def ideal(distribution: stats.rv_continuous, low: float, high: float, count: float) -> Histogram:
    """The histogram of a density: what infinitely many samples would fill it with."""
    exponent = math.ceil(math.log2((high - low) / 4096))
    first, last = (math.floor(end / 2.0**exponent) for end in (low, high))
    edges = np.arange(first, last + 2) * 2.0**exponent
    counts = np.round(count * np.diff(distribution.cdf(edges))).astype(np.int64)
    return Histogram(low, high, 0, counts, first, exponent)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(
    ("distribution", "published"),
    [(stats.norm(), 3.92), (stats.laplace(), 9.89)],
    ids=["gaussian", "laplace"],
)
def test_mse_clips_known_densities_where_theory_does(
    distribution: stats.rv_continuous, published: float, bits: int
) -> None:
    """Banner et al. (NeurIPS 2019) publish the optimum at 8 bits in units of σ and of b.

    Their levels lie in the middle of steps; here zero is one, which tells only where levels are
    few. So fewer bits are compared with integrating the density instead.
    """
    histogram = ideal(distribution, -20, 20, 1e12)
    low, high = _clip(histogram, "mse", Grid(2**bits, symmetric=True))
    assert low == -high
    steps = 2 ** (bits - 1) - 1

    def error(limit: float) -> float:
        step = limit / steps
        x = np.linspace(-20, 20, 400_001)
        codes = np.clip(np.rint(x / step), -steps - 1, steps)
        return float(np.mean((codes * step - x) ** 2 * distribution.pdf(x)))

    best = error(high)
    others = [error(limit) for limit in high * np.linspace(0.7, 1.4, 36)]
    assert best <= min(others) * 1.002
    if bits == 8:
        assert high == pytest.approx(published, rel=0.03)


def _clip(histogram: Histogram, name: str, grid: Grid) -> tuple[float, float]:
    clip = calibrator(name).clip(histogram, grid)
    return clip.low, clip.high


@pytest.mark.parametrize("grid", [SIGNED, UNSIGNED, Grid(16)], ids=str)
def test_uniform_values_are_not_clipped_and_err_by_a_twelfth(grid: Grid) -> None:
    values = np.linspace(-1, 1, 200_001).astype(np.float32)
    histogram = histogram_of(values)
    step = float(grid.quantiser(-1, 1)[0])
    clip = calibrator("mse").clip(histogram, grid)
    assert clip.error == pytest.approx(step**2 / 12, rel=0.02)
    assert clip.high == pytest.approx(1, abs=step)
    assert clip.low == pytest.approx(-1, abs=step)


@pytest.mark.parametrize("percent", [50, 90, 99, 99.9, 99.99, 100])
def test_percentile_is_that_of_the_magnitudes(percent: float) -> None:
    values = DISTRIBUTIONS["gaussian"]
    histogram = histogram_of(values)
    clip = calibrator(f"percentile:{percent}").clip(histogram, SIGNED)
    expected = np.percentile(np.abs(values), percent)
    assert clip.high == pytest.approx(expected, abs=2 * histogram.width, rel=5e-3)


def test_parameters_are_spelled_behind_a_colon() -> None:
    assert calibrator("percentile").name == calibrator("percentile:99.99").name == "percentile"
    assert calibrator("percentile:99.9").name == "percentile:99.9"
    for wrong in (
        "percentile:0",
        "percentile:101",
        "percentile:nan",
        "percentile:",
        "mse:2",
        "auto:0",
        "auto:inf",
        "auto:nan",
    ):
        with pytest.raises(BadInput):
            calibrator(wrong)
    assert (calibrator("auto:16").name, calibrator("auto:4").name) == ("auto", "auto:4")
    with pytest.raises(UnknownName, match="did you mean 'entropy'"):
        calibrator("entrop")


@pytest.mark.parametrize("kind", sorted({*DISTRIBUTIONS} - {"dead"}))
@pytest.mark.parametrize("grid", [SIGNED, UNSIGNED, Grid(128), Grid(16)], ids=str)
def test_no_calibrator_has_a_smaller_error_than_mse(kind: str, grid: Grid) -> None:
    histogram = histogram_of(DISTRIBUTIONS[kind])
    best = calibrator("mse").clip(histogram, grid).error
    for candidate in CANDIDATES:
        other = candidate.clip(histogram, grid).error
        assert best <= other * (1 + 0.01), candidate.name


@pytest.mark.parametrize("kind", ["gaussian", "relu", "skewed", "negative"])
@pytest.mark.parametrize("grid", [SIGNED, UNSIGNED, Grid(16)], ids=str)
def test_mse_finds_what_brute_force_over_the_values_finds(kind: str, grid: Grid) -> None:
    values = DISTRIBUTIONS[kind][:20_000]
    clip = calibrator("mse").clip(histogram_of(values), grid)
    ours = squared_error(values, grid, clip.low, clip.high)
    low, high = float(values.min()), float(values.max())
    shares = np.linspace(0.3, 1, 29)
    brute = min(squared_error(values, grid, low * a, high * b) for a in shares for b in shares)
    assert ours <= brute * 1.01


def test_a_planted_outlier_is_clipped_by_mse_and_kept_by_min_max() -> None:
    values = np.append(DISTRIBUTIONS["gaussian"], 12.0).astype(np.float32)
    histogram = histogram_of(values)
    clips = {name: _clip(histogram, name, SIGNED)[1] for name in ("min_max", "mse", "percentile")}
    assert clips["min_max"] == 12
    # minimises (12 − a)²/n for the outlier plus (a/127)²/12 for the rounding of all others
    assert clips["mse"] == pytest.approx(12 / (1 + values.size / (12 * 127**2)), rel=0.03)
    assert 3.5 < clips["percentile"] < 4.5


def test_an_outlier_channel_is_not_clipped_away() -> None:
    """One channel of 64 is 20 times as large: those are many elements, and all of them matter."""
    rng = np.random.default_rng(3)
    values = rng.standard_normal((64, 2_000), np.float32)
    values[17] *= 20
    histogram = histogram_of(values)
    for name in ("mse", "auto"):
        clip = calibrator(name).clip(histogram, SIGNED)
        assert clip.high > 45, name
        assert squared_error(values, SIGNED, clip.low, clip.high) < 0.05


def test_auto_weighs_clipping_more_than_rounding() -> None:
    for kind in ("gaussian", "laplace", "relu", "skewed", "outlier"):
        histogram = histogram_of(DISTRIBUTIONS[kind])
        auto = calibrator("auto").clip(histogram, SIGNED)
        mse = calibrator("mse").clip(histogram, SIGNED)
        assert auto.high > mse.high, kind
        assert auto.error >= mse.error, kind

        def weighed(clip: Clip, seen: Histogram = histogram) -> float:
            return float(expected_error(seen, SIGNED, clip.low, clip.high, clipping=CLIPPING))

        clips = [candidate.clip(histogram, SIGNED) for candidate in CANDIDATES]
        assert weighed(auto) == min(map(weighed, clips))
        assert auto.calibrator in {clip.calibrator for clip in clips}


def test_auto_without_extra_weight_is_mse_and_with_a_huge_one_min_max() -> None:
    histogram = histogram_of(DISTRIBUTIONS["laplace"])
    for spelled, same in (("auto:1", "mse"), ("auto:1e9", "min_max")):
        assert calibrator(spelled).clip(histogram, SIGNED) == calibrator(same).clip(
            histogram, SIGNED
        )


def test_auto_is_not_always_the_same_one() -> None:
    chosen = {
        calibrator("auto").clip(histogram_of(DISTRIBUTIONS[kind]), grid).calibrator
        for kind in ("uniform", "laplace", "relu", "skewed", "outlier")
        for grid in (SIGNED, UNSIGNED, Grid(16))
    }
    assert len(chosen) >= 3


def test_clipping_weight_counts_only_what_is_clipped() -> None:
    values = DISTRIBUTIONS["gaussian"]
    histogram = histogram_of(values)
    low, high = histogram.minimum, histogram.maximum
    plain, heavy = (expected_error(histogram, SIGNED, low, high, clipping=c) for c in (1, 100))
    assert heavy == pytest.approx(plain, rel=1e-3)  # nothing is clipped
    limit = 2.0
    inside = np.abs(values) <= limit * (1 + 0.5 / 127)
    errors = (np.clip(np.rint(values * 63.5), -128, 127) / 63.5 - values) ** 2
    expected = (errors[inside].sum() + 9 * errors[~inside].sum()) / values.size
    found = expected_error(histogram, SIGNED, -limit, limit, clipping=9)
    assert found == pytest.approx(expected, rel=0.02)


def test_divergence_by_the_definition() -> None:
    """Ten bins on four cells of a toy grid, one sample in the last bin clipped away."""
    counts = np.array([4, 2, 0, 6, 3, 1, 1, 0, 0, 1], np.int64)
    histogram = Histogram(0.0, 10.0, 1000, counts, 0, 0)
    # threshold 6: cells of step 2 are [0, 1), [1, 3), [3, 5), [5, 6]
    p = np.array([4, 2, 6, 3, 1 + 1 + 1])
    q = np.array([4, 2, 4.5, 4.5, 1])
    expected = np.sum(p / p.sum() * np.log((p / p.sum()) / (q / q.sum())))
    assert divergence(histogram, Grid(levels=4), 6) == pytest.approx(expected)


def test_entropy_clips_a_relu_whatever_its_share_of_zeros() -> None:
    """Zeros counted into the first bin would be all that the divergence sees."""
    rng = np.random.default_rng(0)
    alive = np.abs(rng.laplace(0, 1, 40_000)).astype(np.float32)
    limits = [
        calibrator("entropy")
        .clip(histogram_of(np.append(alive, np.zeros(n, np.float32))), UNSIGNED)
        .high
        for n in (0, 40_000, 4_000_000)
    ]
    assert limits[0] == limits[1] == limits[2]
    assert 3 < limits[0] < alive.max()


@pytest.mark.parametrize("name", ["min_max", "percentile", "entropy", "mse", "auto"])
def test_a_range_of_which_only_zeros_were_sampled_is_kept(name: str) -> None:
    unseen = Histogram(0.0, 3.0, 500, np.zeros(0, np.int64), 0, -9)
    assert _clip(unseen, name, UNSIGNED) == (0, 3)


@pytest.mark.parametrize(
    ("grid", "low", "high", "step", "lowest", "highest"),
    [
        (UNSIGNED, -1.0, 3.0, 4 / 255, -64, 191),
        (SIGNED, -1.0, 3.0, 3 / 127, -128, 127),
        (UNSIGNED, 2.0, 3.0, 3 / 255, 0, 255),  # zero is part of it
        (UNSIGNED, 0.0, 0.0, 1, 0, 255),
        (Grid(128), 0.0, 1.0, 1 / 127, 0, 127),
    ],
)
def test_grids_quantise_as_onnx_does(
    grid: Grid, low: float, high: float, step: float, lowest: int, highest: int
) -> None:
    found = [float(value) for value in grid.quantiser(low, high)]
    assert found == pytest.approx([step, lowest, highest])


def test_grids_have_short_names() -> None:
    assert [str(g) for g in (UNSIGNED, SIGNED, Grid(128))] == ["u8", "s8", "u7"]
