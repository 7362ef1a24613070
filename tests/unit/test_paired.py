"""Paired statistics against closed forms, full enumeration, published figures and simulation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inception_deploy.errors import BadInput
from inception_deploy.parity.paired import Z95, PairedCounts


@st.composite
def counts(draw: st.DrawFn, most: int = 5000) -> PairedCounts:
    images = draw(st.integers(1, most))
    harmful = draw(st.integers(0, images))
    return PairedCounts(images, harmful, draw(st.integers(0, images - harmful)))


def adjusted_wald(n: int, b: int, c: int) -> tuple[float, float]:
    """Bonett & Price 2012: one image of each flip added, then the Wald interval."""
    p, q = (b + 1) / (n + 2), (c + 1) / (n + 2)
    half = Z95 * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    return max(-1.0, p - q - half), min(1.0, p - q + half)


def tango(n: int, b: int, c: int) -> tuple[float, float]:
    return PairedCounts(n, b, c).drop_interval()


# ---------------------------------------------------------------- the interval


@pytest.mark.parametrize("n", [1, 7, 100, 50_000])
def test_interval_without_flips_is_wilsons(n):
    # with no flips the score equation reduces to nδ² = z²δ(1 − δ)
    end = Z95**2 / (n + Z95**2)
    assert PairedCounts(n, 0, 0).drop_interval() == pytest.approx((-end, end), rel=1e-12)


@pytest.mark.parametrize("n", [4, 100, 50_000])
def test_interval_when_every_image_flips_one_way(n):
    # T = √(n(1 − δ)/(1 + δ)) there
    low = (n - Z95**2) / (n + Z95**2)
    assert PairedCounts(n, n, 0).drop_interval() == pytest.approx((low, 1.0), rel=1e-11)
    assert PairedCounts(n, 0, n).drop_interval() == pytest.approx((-1.0, -low), rel=1e-11)


def test_interval_of_a_published_example():
    # airway hyper-responsiveness, 1 and 7 discordant of 21: Fagerland, Lydersen & Laake,
    # Statistics in Medicine 33 (2014), 2850–2875
    low, high = PairedCounts(21, 1, 7).drop_interval()
    assert (round(low, 3), round(high, 3)) == (-0.517, -0.026)


@pytest.mark.parametrize(
    ("n", "b", "c", "delta"),
    [(100, 7, 3, 0.02), (100, 7, 3, -0.2), (480, 5, 0, 0.03), (480, 0, 5, 0.03), (50, 20, 20, 0.5)],
)
def test_score_uses_the_constrained_maximum_likelihood_estimate(n, b, c, delta):
    # q is the rate of beneficial flips, q + δ of harmful ones; search the likelihood itself
    low, high = max(0.0, -delta), (1 - delta) / 2

    def minus_log_likelihood(q: float) -> float:
        parts = ((b, q + delta), (c, q), (n - b - c, 1 - 2 * q - delta))
        if any(count and p <= 0 for count, p in parts):
            return math.inf
        return -sum(count * math.log(p) for count, p in parts if count)

    for _ in range(60):  # the likelihood is concave: thirds close in on its maximum
        first, second = low + (high - low) / 3, high - (high - low) / 3
        if minus_log_likelihood(first) < minus_log_likelihood(second):
            high = second
        else:
            low = first
    q = (low + high) / 2
    expected = (b - c - n * delta) / math.sqrt(n * (2 * q + delta * (1 - delta)))
    assert PairedCounts(n, b, c)._score(delta) == pytest.approx(expected, rel=1e-5)


@settings(deadline=None)  # a busy machine is no failure
@given(counts())
def test_interval_holds_the_drop_and_stays_in_range(pair):
    low, high = pair.drop_interval()
    assert -1 <= low <= pair.drop <= high <= 1


@settings(deadline=None)
@given(counts())
def test_interval_mirrors_when_the_flips_swap(pair):
    low, high = pair.drop_interval()
    mirrored = PairedCounts(pair.images, pair.beneficial, pair.harmful).drop_interval()
    assert mirrored == pytest.approx((-high, -low), abs=1e-9)


@settings(deadline=None)
@given(counts(most=500), st.integers(2, 20))
def test_interval_shrinks_with_the_number_of_images(pair, factor):
    larger = PairedCounts(
        factor * pair.images, factor * pair.harmful, factor * pair.beneficial
    ).drop_interval()
    low, high = pair.drop_interval()
    assert larger[1] - larger[0] < high - low
    assert low <= larger[0] + 1e-12
    assert larger[1] <= high + 1e-12


@pytest.mark.parametrize(
    ("n", "harmful", "beneficial"),
    [(480, 0.02, 0.01), (1000, 0.01, 0.01), (2000, 0.03, 0.01), (200, 0.1, 0.05)],
)
def test_coverage_by_simulation(n, harmful, beneficial):
    rates = [harmful, beneficial, 1 - harmful - beneficial]
    drawn = np.random.default_rng(0).multinomial(n, rates, size=2000)
    cache: dict[tuple[int, int], tuple[float, float]] = {}
    inside = 0
    for b, c, _ in drawn.tolist():
        low, high = cache.setdefault((b, c), tango(n, b, c))
        inside += low <= harmful - beneficial <= high
    assert 0.93 <= inside / len(drawn) <= 0.97


def missed_above(interval: Callable[[int, int, int], tuple[float, float]], n: int, p: float):
    """Chance that the true drop `p` lies above the interval when all flips are harmful."""
    return sum(
        math.comb(n, b) * p**b * (1 - p) ** (n - b)
        for b in range(min(n, 40) + 1)
        if p > interval(n, b, 0)[1]
    )


@pytest.mark.parametrize("n", [100, 480, 1000, 2000])
def test_few_harmful_flips_are_where_adjusted_wald_passes_too_easily(n):
    drop = 3 / n
    assert missed_above(adjusted_wald, n, drop) > 0.045  # nominal: 0.025
    assert missed_above(tango, n, drop) < 0.025


# ---------------------------------------------------------------- McNemar


@pytest.mark.parametrize("flips", [1, 2, 5, 11])
def test_mcnemar_by_enumerating_every_outcome(flips):
    # under "no drop" every flip goes either way with equal chance: count the outcomes that are
    # at least as lopsided as the one seen
    outcomes = [sum(way) for way in itertools.product((0, 1), repeat=flips)]
    for harmful in range(flips + 1):
        seen = abs(harmful - flips / 2)
        extreme = sum(abs(outcome - flips / 2) >= seen for outcome in outcomes)
        p = PairedCounts(100, harmful, flips - harmful).mcnemar_p()
        assert p == extreme / len(outcomes)


def test_mcnemar_without_flips_is_one():
    assert PairedCounts(10, 0, 0).mcnemar_p() == 1.0


def test_mcnemar_of_many_flips_agrees_with_the_normal_approximation():
    harmful, beneficial = 5200, 4800
    z = (harmful - beneficial - 1) / math.sqrt(harmful + beneficial)  # continuity-corrected
    p = PairedCounts(100_000, harmful, beneficial).mcnemar_p()
    assert p == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.01)


@settings(deadline=None)
@given(counts(most=300))
def test_mcnemar_is_a_probability_and_ignores_direction(pair):
    p = pair.mcnemar_p()
    assert 0 < p <= 1
    assert PairedCounts(pair.images, pair.beneficial, pair.harmful).mcnemar_p() == p


# ---------------------------------------------------------------- the verdict


def test_pass_needs_the_whole_interval_within_the_bound():
    pair = PairedCounts(2000, 6, 4)
    high = 100 * pair.drop_interval()[1]
    assert pair.verdict(high).outcome == "PASS"
    assert pair.verdict(high - 1e-9).outcome == "INCONCLUSIVE"


def test_fail_needs_the_whole_interval_above_the_bound():
    pair = PairedCounts(2000, 90, 10)
    low = 100 * pair.drop_interval()[0]
    assert pair.verdict(low - 1e-9).outcome == "FAIL"
    assert pair.verdict(low).outcome == "INCONCLUSIVE"


def test_the_point_alone_decides_nothing():
    # no drop at all, and yet 100 images cannot exclude a loss of one point
    verdict = PairedCounts(100, 0, 0).verdict(1.0)
    assert verdict.outcome == "INCONCLUSIVE"
    assert verdict.reason == (
        "top-1 drop 0.00 points on 100 images (95 % interval -3.70 to 3.70), on both sides of the "
        "allowed 1; about 390 images would settle it if flips stay as frequent"
    )


@pytest.mark.parametrize(("harmful", "beneficial"), [(0, 0), (3, 1), (30, 5), (5, 30)])
def test_the_promised_number_of_images_settles_it(harmful, beneficial):
    images, bound = 1000, 0.012
    needed = PairedCounts(images, harmful, beneficial).images_to_settle(bound)
    assert needed is not None
    # grow every count alike, far enough for whole numbers, just below and just above
    for slack, settled in ((0.97, False), (1.03, True)):
        scale = 1000
        grown = PairedCounts(
            round(needed * slack) * scale,
            round(harmful * needed * slack * scale / images),
            round(beneficial * needed * slack * scale / images),
        )
        # 1000 times the images narrow the interval √1000 times: undo that with z
        low, high = grown.drop_interval(z=Z95 * math.sqrt(scale))
        assert (bound <= low or bound >= high) == settled


def test_a_drop_equal_to_the_bound_cannot_be_settled():
    pair = PairedCounts(100, 1, 0)
    assert pair.images_to_settle(0.01) is None
    assert "no number of images" in pair.verdict(1.0).reason


def test_estimates_look_like_estimates():
    assert "about 2,800 images" in PairedCounts(480, 3, 0).verdict(1.0).reason


@pytest.mark.parametrize("max_drop", [-0.1, 101.0, math.nan, math.inf])
def test_impossible_bounds(max_drop):
    with pytest.raises(BadInput, match="0 to 100 points"):
        PairedCounts(10, 0, 0).verdict(max_drop)


@pytest.mark.parametrize("bad", [(0, 0, 0), (10, -1, 0), (10, 0, -1), (10, 6, 5)])
def test_impossible_counts(bad):
    with pytest.raises(ValueError, match="no counts of paired images"):
        PairedCounts(*bad)
