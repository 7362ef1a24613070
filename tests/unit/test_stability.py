"""Whether the calibration images were enough."""

from __future__ import annotations

import json

import pytest

from inception_deploy.histograms import Histograms, Snapshot
from inception_deploy.stability import coverage, stability


def seen(*highs: tuple[int, float]) -> Histograms:
    """Tensor `a` from 0 to each high after so many images; `b` and the dead `c` never move."""
    history = tuple(
        Snapshot(images, {"a": (0.0, high), "b": (-2.0, -1.0), "c": (0.0, 0.0)})
        for images, high in highs
    )
    return Histograms({}, "m", "d", highs[-1][0], history)


def test_changes_are_relative_to_the_final_range() -> None:
    report = stability(seen((1, 1.0), (2, 2.0), (4, 6.0), (8, 8.0)))
    assert [entry["images"] for entry in report] == [1, 2, 4]
    assert [entry["largest_change"] for entry in report] == pytest.approx([0.875, 0.75, 0.25])
    assert [entry["changed"] for entry in report] == [1, 1, 1]
    assert report[-1]["tensors"] == {"a": 0.25}
    json.dumps(report, allow_nan=False)


def test_only_the_last_three_doublings_are_told() -> None:
    report = stability(seen(*((2**n, 1.0 + n) for n in range(8)), (300, 8.0)))
    assert [entry["images"] for entry in report] == [32, 64, 128]
    assert report[-1]["tensors"] == {}


def test_one_image_says_nothing_of_stability() -> None:
    assert stability(seen((1, 1.0))) == []


def test_both_ends_count() -> None:
    history = tuple(
        Snapshot(images, {"a": ends}) for images, ends in ((1, (-1.0, 3.0)), (2, (-5.0, 3.0)))
    )
    report = stability(Histograms({}, "m", "d", 2, history))
    assert report[0]["tensors"] == {"a": 0.5}


def test_coverage_counts_classes() -> None:
    report = coverage([0, 0, 2, 2, 2], ["disc", "ring", "star"])
    assert report == {"classes": 3, "seen": 2, "fewest": 2, "most": 3, "missing": ["ring"]}
    assert coverage([1], 1000)["missing"] == ["0", "2", "3", "4", "5"]
    assert coverage([], 2) == {
        "classes": 2,
        "seen": 0,
        "fewest": 0,
        "most": 0,
        "missing": ["0", "1"],
    }
