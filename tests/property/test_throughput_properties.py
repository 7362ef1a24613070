"""Percentiles against NumPy, arrivals against SciPy, and what must hold for any latencies."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from inception_deploy.errors import BadInput
from inception_deploy.throughput.arrivals import poisson_arrivals
from inception_deploy.throughput.knee import find_knee
from inception_deploy.throughput.latency import distribution, outliers, percentile
from inception_deploy.throughput.server import verdict

LATENCIES = st.lists(st.floats(1e-6, 10), min_size=1, max_size=300)


@settings(deadline=None)
@given(LATENCIES, st.integers(1, 100))
def test_percentiles_are_numpys_inverse_of_the_distribution(
    seconds: list[float], percent: int
) -> None:
    ordered = sorted(seconds)
    # the smallest value that `percent` % do not exceed; NumPy's fraction may be a bit off at a step
    found = percentile(ordered, percent)
    near = [
        float(np.percentile(ordered, min(max(percent + nudge, 0), 100), method="inverted_cdf"))
        for nudge in (-1e-9, 0.0, 1e-9)
    ]
    assert found in near


@settings(deadline=None)
@given(LATENCIES)
def test_a_histogram_holds_every_run(seconds: list[float]) -> None:
    found = distribution(seconds)
    assert sum(found.counts) + found.beyond == len(seconds)
    assert min(found.counts) >= 0
    assert found.beyond <= 0.01 * len(seconds) + 1
    assert found.low_ms == pytest.approx(1e3 * min(seconds))


@settings(deadline=None)
@given(LATENCIES, st.integers(1, 3))
def test_outliers_are_few_and_found(seconds: list[float], stalls: int) -> None:
    assert outliers(seconds) <= len(seconds) // 4  # all of them are above the upper quartile
    steady = [0.010, 0.011] * 50
    assert outliers(steady) == 0
    assert outliers([*steady, *([1.0] * stalls)]) == stalls


@pytest.mark.parametrize("rate", [3.0, 200.0, 5000.0])
def test_gaps_are_exponential_and_counts_poisson(rate: float) -> None:
    times = poisson_arrivals(rate, 2000 / rate, seed=5)
    gaps = np.diff(times, prepend=0.0)
    assert stats.kstest(gaps, stats.expon(scale=1 / rate).cdf).pvalue > 0.01
    # independence: neighbouring gaps are not correlated
    assert abs(stats.pearsonr(gaps[:-1], gaps[1:]).statistic) < 4 / math.sqrt(len(gaps))
    counts = [len(poisson_arrivals(rate, 20 / rate, seed=s)) for s in range(400)]
    expected = stats.poisson(20)
    edges = [0, 14, 17, 19, 21, 23, 26, 1000]
    seen, _ = np.histogram(counts, edges)
    wanted = 400 * np.diff([expected.cdf(edge - 1) for edge in edges])
    assert stats.chisquare(seen, wanted * 400 / wanted.sum()).pvalue > 0.01


@settings(deadline=None)
@given(st.floats(0.1, 1e4), st.floats(1e-3, 5), st.integers(0, 2**31))
def test_arrivals_ascend_within_their_time(rate: float, seconds: float, seed: int) -> None:
    times = poisson_arrivals(rate, seconds, seed)
    assert np.array_equal(times, poisson_arrivals(rate, seconds, seed))
    assert np.all(np.diff(times) > 0)
    assert len(times) == 0 or (times[0] > 0 and times[-1] < seconds)


@pytest.mark.parametrize(("rate", "seconds"), [(0, 1), (1, 0), (math.inf, 1), (math.nan, 1)])
def test_impossible_arrivals(rate: float, seconds: float) -> None:
    with pytest.raises(BadInput, match="queries cannot arrive"):
        poisson_arrivals(rate, seconds, 0)


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(0, 60))
def test_verdicts_are_scipys_binomial_tests(queries: int, overruns: int) -> None:
    overruns = min(overruns, queries)
    less = stats.binomtest(overruns, queries, 0.01, alternative="less").pvalue
    more = stats.binomtest(overruns, queries, 0.01, alternative="greater").pvalue
    found = verdict(overruns, queries)
    if abs(less - 0.05) > 1e-9 and abs(more - 0.05) > 1e-9:
        wanted = "VALID" if less < 0.05 else "INVALID" if more < 0.05 else "INCONCLUSIVE"
        assert found == wanted


@settings(deadline=None)
@given(st.floats(0, 50), st.floats(0.1, 10))
def test_the_knee_of_a_saturating_curve_does_not_depend_on_units(
    fixed: float, scale: float
) -> None:
    sizes = [1, 2, 4, 8, 16, 32, 64]
    rates = [size / (fixed + size) for size in sizes]
    found = find_knee("a", "batch", sizes, rates)
    assert find_knee("a", "batch", sizes, [scale * r for r in rates]).at == found.at
    assert found.at in sizes
    assert found.of_best <= 1
    assert found.gain >= 1
