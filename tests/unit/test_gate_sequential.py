"""The gate's statistics: exactly, by enumeration; against SciPy; and by simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from inception_deploy.gate.sequential import (
    ALPHA,
    EARLY,
    LAST,
    Counts,
    log_capital,
    log_evidence,
    standing,
)
from inception_deploy.parity.paired import PairedCounts


def of(values: tuple[int, ...], smallest: int) -> Counts:
    return Counts(
        values.count(1), values.count(0) * (smallest < 0), values.count(smallest), smallest
    )


# ---------------------------------------------------------------- the e-process


@pytest.mark.parametrize("above", [False, True])
@pytest.mark.parametrize(("p", "q"), [(0.02, 0.01), (0.3, 0.0), (0.1, 0.4)])
def test_bets_on_a_drop_are_fair_at_the_claimed_mean(p, q, above):
    # over every sequence of four images the expected capital is what it was at the start: 1
    chance = {1: p, 0: 1 - p - q, -1: q}
    expected = math.fsum(
        math.prod(chance[v] for v in values)
        * math.exp(log_evidence(of(values, -1), p - q, above=above))
        for values in itertools.product((1, 0, -1), repeat=4)
        if all(chance[v] for v in values)
    )
    assert expected == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("above", [False, True])
@pytest.mark.parametrize("p", [0.01, 0.5, 0.97])
def test_bets_on_a_rate_are_fair_at_the_claimed_rate(p, above):
    chance = {1: p, 0: 1 - p}
    expected = math.fsum(
        math.prod(chance[v] for v in values)
        * math.exp(log_evidence(Counts.of_rate(5, sum(values)), p, above=above))
        for values in itertools.product((1, 0), repeat=5)
    )
    assert expected == pytest.approx(1, rel=1e-12)


def test_bets_lose_on_average_where_the_claim_is_true_with_room_to_spare():
    chance = {1: 0.1, 0: 0.9, -1: 0.0}
    for claimed in (0.05, 0.0, -0.3):  # the mean is 0.1, so "at least" that holds
        expected = sum(
            chance[v] * math.exp(log_evidence(of((v,), -1), claimed, above=False)) for v in chance
        )
        assert expected < 1


def test_evidence_rises_with_the_claimed_mean_and_mirrors():
    counts = Counts.of_drop(300, 9, 4)
    claims = np.linspace(-0.99, 0.99, 67)
    below = [log_evidence(counts, m, above=False) for m in claims]
    assert all(a < b for a, b in itertools.pairwise(below))
    mirrored = Counts.of_drop(300, 4, 9)
    for m in (-0.2, 0.005, 0.4):
        assert log_evidence(counts, m, above=True) == pytest.approx(
            log_evidence(mirrored, -m, above=False)
        )


def test_claim_of_the_largest_mean_is_refuted_by_one_image():
    assert log_evidence(Counts.of_drop(3, 3, 0), 1.0, above=False) == 0
    assert log_evidence(Counts.of_drop(3, 2, 0), 1.0, above=False) == math.inf
    assert log_evidence(Counts.of_rate(3, 0), 0.0, above=True) == 0


# ---------------------------------------------------------------- error rates


def paths(harmful: float, beneficial: float, *, runs: int, images: int, batch: int, seed: int):
    """Counts after every batch, (runs, looks) each of harmful, unchanged and beneficial."""
    rng = np.random.default_rng(seed)
    rates = [harmful, 1 - harmful - beneficial, beneficial]
    steps = rng.multinomial(batch, rates, size=(runs, images // batch))
    return np.moveaxis(steps.cumsum(axis=1), -1, 0)


def ever(harmful: float, beneficial: float, bound: float, seed: int = 0) -> tuple[float, float]:
    """Share of 2,000 runs of 2,000 images that end in PASS and in FAIL, looked at every 16."""
    h, z, b = paths(harmful, beneficial, runs=2000, images=2000, batch=16, seed=seed)
    need, claimed = math.log(1 / EARLY), (bound + 1) / 2
    early_pass = log_capital(h, z, b, claimed) >= need
    early_fail = log_capital(b, z, h, 1 - claimed) >= need
    passed = failed = 0
    cache: dict[tuple[int, int], str] = {}
    for run in range(len(h)):
        stops = np.flatnonzero(early_pass[run] | early_fail[run])
        if len(stops):
            outcome = "PASS" if early_pass[run, stops[0]] else "FAIL"
        else:
            last = int(h[run, -1]), int(b[run, -1])
            counts = Counts.of_drop(int((h + z + b)[run, -1]), *last)
            if last not in cache:
                cache[last] = standing(counts, bound, last=True)[0]
            outcome = cache[last]
        passed, failed = passed + (outcome == "PASS"), failed + (outcome == "FAIL")
    return passed / len(h), failed / len(h)


@pytest.mark.parametrize(
    ("harmful", "beneficial"), [(0.005, 0.0), (0.010, 0.005), (0.025, 0.020), (0.105, 0.100)]
)
def test_sequential_test_keeps_its_error_when_the_drop_is_the_bound(harmful, beneficial):
    # both errors at once: a drop just above the bound must not pass, one just below not fail
    passed, failed = ever(harmful, beneficial, 0.005)
    three_sigma = 3 * math.sqrt(ALPHA * (1 - ALPHA) / 2000)
    assert passed <= ALPHA + three_sigma
    assert failed <= ALPHA + three_sigma


def test_peeking_with_a_fixed_sample_interval_would_not():
    h, z, b = paths(0.025, 0.020, runs=300, images=2000, batch=16, seed=1)
    n = h + z + b
    wrong = 0
    cache: dict[tuple[int, int, int], float] = {}
    for run in range(len(h)):
        for look in range(h.shape[1]):
            key = int(n[run, look]), int(h[run, look]), int(b[run, look])
            if key not in cache:
                cache[key] = PairedCounts(*key)._score(0.005)
            if abs(cache[key]) > 1.96:
                wrong += 1
                break
    assert wrong / len(h) > 0.15  # three times the 5 % that the interval is worth


def test_clear_answers_are_found_and_early():
    passed, failed = ever(0.004, 0.004, 0.02)
    assert (passed > 0.99, failed) == (True, 0.0)
    passed, failed = ever(0.10, 0.01, 0.005)
    assert (passed, failed > 0.99) == (0.0, True)
    h, z, b = paths(0.3, 0.01, runs=200, images=320, batch=16, seed=3)
    refuted = log_capital(b, z, h, 1 - (0.005 + 1) / 2) >= math.log(1 / EARLY)
    assert np.median(16 * (refuted.argmax(axis=1) + 1)) <= 64  # images until FAIL


def test_sequential_interval_covers_at_every_look_at_once():
    h, z, b = paths(0.03, 0.02, runs=2000, images=2000, batch=16, seed=5)
    claimed, need = (0.01 + 1) / 2, math.log(1 / EARLY)
    left_out = (log_capital(h, z, b, claimed) >= need) | (log_capital(b, z, h, 1 - claimed) >= need)
    assert left_out.any(axis=1).mean() <= 2 * EARLY + 3 * math.sqrt(2 * EARLY / 2000)


# ---------------------------------------------------------------- intervals


@pytest.mark.parametrize("images", [1, 20, 400, 5000])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.4, 1.0])
def test_rate_interval_is_scipys_clopper_pearson(images, share):
    hits = round(share * images)
    found = Counts.of_rate(images, hits).last_interval()
    want = stats.binomtest(hits, images).proportion_ci(1 - 2 * LAST, method="exact")
    assert found.low == pytest.approx(want.low, abs=1e-9)
    assert found.high == pytest.approx(want.high, abs=1e-9)


@pytest.mark.parametrize(("harmful", "beneficial"), [(0, 0), (3, 0), (7, 2), (40, 41), (1, 9)])
def test_mcnemar_is_scipys_binomial_test(harmful, beneficial):
    p = PairedCounts(1000, harmful, beneficial).mcnemar_p()
    flips = harmful + beneficial
    assert p == pytest.approx(stats.binomtest(harmful, flips).pvalue if flips else 1.0, rel=1e-12)


@pytest.mark.parametrize("counts", [Counts.of_drop(900, 9, 4), Counts.of_rate(900, 12)])
def test_interval_of_the_bets_ends_where_they_would_be_won(counts):
    found = counts.interval()
    assert found.low < counts.mean < found.high
    need = math.log(1 / EARLY)
    assert log_evidence(counts, found.high, above=False) == pytest.approx(need, abs=1e-6)
    assert log_evidence(counts, found.low, above=True) == pytest.approx(need, abs=1e-6)
    last = counts.last_interval()
    assert found.low < last.low
    assert last.high < found.high


def test_nothing_seen_but_agreement_and_nothing_but_disagreement():
    assert Counts.of_rate(50, 0).interval().low == 0.0
    assert Counts.of_rate(50, 50).interval().high == 1.0
    assert Counts.of_drop(50, 50, 0).interval().high == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("images", "harmful", "beneficial", "last", "outcome"),
    [
        (100, 0, 0, True, "INCONCLUSIVE"),
        (2000, 0, 0, False, "PASS"),
        (1000, 0, 0, False, "INCONCLUSIVE"),
        (1000, 0, 0, True, "PASS"),
        (100, 30, 1, False, "FAIL"),
        (2000, 40, 10, True, "FAIL"),
    ],
)
def test_standing(images, harmful, beneficial, last, outcome):
    counts = Counts.of_drop(images, harmful, beneficial)
    found, interval = standing(counts, 0.005, last=last)
    assert found == outcome
    assert interval.low <= counts.mean <= interval.high
