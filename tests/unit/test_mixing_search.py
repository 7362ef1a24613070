"""The search itself, on numbers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inception_deploy.mixing.search import (
    BlockSensitivity,
    Point,
    least,
    ordered,
    pareto,
    predicted_sqnr,
)


@given(st.integers(1, 200), st.data())
def test_the_least_number_is_found_in_few_trials(count: int, data: st.DataObject) -> None:
    answer = data.draw(st.integers(1, count + 1))
    guess = data.draw(st.none() | st.integers(1, count))
    tried: list[int] = []

    def works(number: int) -> bool:
        assert 1 <= number <= count
        tried.append(number)
        return number >= answer

    assert least(count, works, guess) == (answer if answer <= count else None)
    assert len(set(tried)) == len(tried)
    assert len(tried) <= 2 * math.log2(count) + 3


@pytest.mark.parametrize("guess", [1, 7, 20])
def test_a_right_guess_takes_two_trials(guess: int) -> None:
    tried: list[int] = []

    def works(number: int) -> bool:
        tried.append(number)
        return number >= guess

    assert least(20, works, guess) == guess
    assert len(tried) <= 2


def test_without_blocks_nothing_can_work() -> None:
    assert least(0, lambda _: True) is None


def test_order_is_noise_per_millisecond() -> None:
    blocks = [
        BlockSensitivity("dear", 3, noise=1.0, extra_ms=2.0),
        BlockSensitivity("cheap", 3, noise=0.6, extra_ms=1.0),
        BlockSensitivity("free", 3, noise=0.1, extra_ms=-0.5),
        BlockSensitivity("quiet and free", 3, noise=0.0001, extra_ms=-9.0),
    ]
    names = [b.block for b in ordered(blocks, int8_ms=10.0)]
    assert names == ["free", "cheap", "dear", "quiet and free"]


def test_what_is_left_of_the_noise_is_predicted() -> None:
    noise = {"a": 0.9, "b": 0.09, "c": 0.01}
    assert predicted_sqnr(noise, ["a", "b", "c"], 30.0) == pytest.approx(30)
    assert predicted_sqnr(noise, ["b", "c"], 30.0) == pytest.approx(40)
    assert predicted_sqnr(noise, ["c"], 30.0) == pytest.approx(50)
    assert predicted_sqnr(noise, [], 30.0) is None
    assert predicted_sqnr(noise, ["a"], None) is None


def test_the_front_holds_what_nothing_beats() -> None:
    points = [
        Point(("a", "b"), predicted_sqnr_db=40.0, predicted_ms=3.0),
        Point((), predicted_sqnr_db=30.0, predicted_ms=1.0),
        Point(("a",), predicted_sqnr_db=45.0, predicted_ms=2.0),
        Point(("a", "b", "c"), predicted_ms=4.0),
        Point(("b",), predicted_sqnr_db=50.0, predicted_ms=2.5, sqnr_db=44.0, measured=True),
    ]
    found = pareto(points)
    assert [p.predicted_ms for p in found] == [1.0, 2.0, 2.5, 3.0, 4.0]
    assert [p.kept_float for p in found if p.front] == [(), ("a",), ("a", "b", "c")]
