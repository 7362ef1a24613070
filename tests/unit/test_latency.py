"""Latency figures against hand-computed values and trtexec's own rule."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inception_deploy.throughput.latency import estimate_ratio, percentile, summarise

POSITIVE = st.lists(st.floats(1e-6, 10), min_size=1, max_size=200)


def test_figures_by_hand():
    latency, cov = summarise([0.004, 0.001, 0.003, 0.002])
    assert latency.to_dict() == pytest.approx(
        {"min": 1, "mean": 2.5, "median": 2.5, "p50": 2, "p90": 4, "p95": 4, "p99": 4, "max": 4}
    )
    assert cov == pytest.approx(math.sqrt(1.25) / 2.5)


@pytest.mark.parametrize(
    ("percent", "value"), [(50, 49), (90, 89), (95, 94), (99, 98), (100, 99), (0, 0)]
)
def test_percentiles_of_a_hundred_values(percent, value):
    assert percentile(range(100), percent) == value


@pytest.mark.parametrize(("count", "index"), [(1, 0), (9, 8), (10, 8), (11, 9), (19, 17), (20, 17)])
def test_percentile_leaves_out_the_slowest_tenth_rounded_down(count, index):
    # at 10 values binary fractions would make (1 - 0.9) * 10 less than one
    assert percentile(range(count), 90) == index


@settings(deadline=None)
@given(POSITIVE)
def test_figures_are_ordered_and_scale(seconds):
    latency, cov = summarise(seconds)
    assert latency.min <= latency.p50 <= latency.p90 <= latency.p95 <= latency.p99 <= latency.max
    assert latency.min <= latency.median <= latency.max
    assert latency.min * (1 - 1e-12) <= latency.mean <= latency.max * (1 + 1e-12)
    slower, same = summarise([3 * value for value in seconds])
    assert slower.p95 == pytest.approx(3 * latency.p95)
    assert same == pytest.approx(cov, abs=1e-9)


def test_constant_latency_does_not_vary():
    assert summarise([0.25] * 10)[1] == 0.0


def test_ratio_of_rounds_cancels_what_slows_both():
    load = np.array([1.0, 5.0, 1.0, 2.0, 9.0, 1.0])
    found = estimate_ratio([0.3 * load], [0.1 * load])
    assert (found.ratio, found.low, found.high) == pytest.approx((3, 3, 3))


def test_ratio_is_the_same_each_time():
    rng = np.random.default_rng(3)
    base, other = rng.uniform(1, 2, 40), rng.uniform(1, 2, 40)
    assert estimate_ratio([base], [other]) == estimate_ratio([base], [other])


def test_ratio_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        base = 2.0 * rng.lognormal(sigma=0.05, size=25)
        other = 1.0 * rng.lognormal(sigma=0.05, size=25)
        found = estimate_ratio([base], [other])
        assert found.low <= found.ratio <= found.high
        inside += found.low <= 2.0 <= found.high
    assert 0.90 <= inside / 200 <= 0.99


def test_one_round_has_no_spread():
    found = estimate_ratio([[0.4]], [[0.2]])
    assert (found.ratio, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0), abs=1e-12)


def test_layouts_in_which_two_changed_places_cancel_out():
    # in the first the candidate has the better place by 3 %, in the second the baseline has
    found = estimate_ratio([[2.06] * 9, [2.0]], [[1.0] * 9, [1.03]])
    assert found.ratio == pytest.approx(2.0)  # nine rounds of one weigh as much as one of the other
    assert (found.low, found.high) == pytest.approx((2 / 1.03, 2.06))


def test_interval_of_layouts_holds_the_truth_where_that_of_rounds_does_not():
    rng = np.random.default_rng(0)
    layouts = rounds = 0
    for _ in range(100):
        places = rng.lognormal(sigma=0.02, size=(8, 1))  # a layout stays as it is for its rounds
        base = 2.0 * places * rng.lognormal(sigma=0.001, size=(8, 10))
        other = rng.lognormal(sigma=0.001, size=(8, 10))
        found = estimate_ratio(base, other)
        layouts += found.low <= 2.0 <= found.high
        found = estimate_ratio(base[:1], other[:1])
        rounds += found.low <= 2.0 <= found.high
    assert layouts >= 80
    assert rounds <= 20
