"""Knees of curves whose knee is known."""

from __future__ import annotations

import pytest

from inception_deploy.throughput.knee import find_knee

SIZES = [1, 2, 4, 8, 16, 32]


def test_a_broken_line_has_its_knee_at_the_break() -> None:
    rates = [min(size, 8) * 10.0 + 0.1 * size for size in SIZES]
    found = find_knee("a", "batch", SIZES, rates)
    assert found.at == 8
    assert found.gain == pytest.approx(80.8 / 10.1)
    assert found.of_best == pytest.approx(80.8 / 83.2)


def test_a_curve_of_the_paper() -> None:
    # figure 2 of Satopää et al.: y = −1/(x + 0.1) + 5 on ten points of [0, 1]; the knee is at 0.22
    sizes = list(range(10))
    rates = [-1 / (n / 9 + 0.1) + 15 for n in sizes]  # lifted, for rates are above 0
    assert find_knee("a", "threads", sizes, rates).at == 2


def test_fixed_costs_move_the_knee_up() -> None:
    def at(fixed: float) -> int | None:
        return find_knee("a", "batch", SIZES, [s / (fixed + s) for s in SIZES]).at

    knees = [at(0.3), at(2.0), at(20.0)]
    assert all(knee is not None for knee in knees)
    assert knees == sorted(knees, key=lambda knee: knee or 0)
    assert knees[0] != knees[-1]


def test_a_flat_curve_has_its_knee_at_the_first() -> None:
    found = find_knee("a", "batch", SIZES, [100, 104, 106, 103, 99, 98])
    assert (found.at, found.gain) == (1, 1.0)
    assert "flat" in found.reason


def test_a_falling_curve_has_its_knee_at_the_first() -> None:
    assert find_knee("a", "streams", [1, 2, 4], [100, 80, 60]).at == 1


def test_a_straight_line_has_no_knee() -> None:
    found = find_knee("a", "batch", SIZES, [10.0 * size for size in SIZES])
    assert found.at is None
    assert found.of_best == 1.0
    assert "still rising" in found.reason


def test_what_lies_behind_the_best_is_not_looked_at() -> None:
    rates = [10.0, 20.0, 38.0, 40.0, 15.0, 12.0]
    assert (
        find_knee("a", "batch", SIZES, rates).at
        == find_knee("a", "batch", SIZES[:4], rates[:4]).at
        == 4
    )
    straight = find_knee("a", "batch", SIZES, [10.0, 20.0, 40.0, 80.0, 15.0, 12.0])
    assert straight.at == 8
    assert "then falls" in straight.reason


@pytest.mark.parametrize(
    ("sizes", "rates"),
    [([1, 2], [1.0, 2.0]), ([1, 2, 2], [1, 2, 3]), ([1, 2, 3], [1, 0, 3]), ([1, 2, 3], [1, 2])],
)
def test_no_curve_no_knee(sizes: list[int], rates: list[float]) -> None:
    with pytest.raises(ValueError, match=r"knee|ascend"):
        find_knee("a", "batch", sizes, rates)
