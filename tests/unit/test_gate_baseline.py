"""Baselines: what they hold the next build to, and which they refuse to be compared with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from inception_deploy.errors import BadInput
from inception_deploy.gate import Baseline, Bounds, load_baseline
from inception_deploy.gate.baseline import _wilson, difference_interval
from inception_deploy.gate.speed import of_speed
from inception_deploy.machine import describe
from inception_deploy.parity import DataFacts, Flips, ParityReport
from inception_deploy.parity.paired import Z95
from inception_deploy.throughput import Ratio, Row, ThroughputReport
from inception_deploy.throughput.latency import summarise

PREPROCESSING = {"size": 96, "mean": [0.5, 0.5, 0.5]}

BASELINE = Baseline(
    network="googlenet",
    classes=24,
    precision="int8",
    target="onnxruntime",
    preprocessing=PREPROCESSING,
    head="logits",
    weights="a" * 64,
    data_name="photos",
    data_digest="d" * 64,
    images=1000,
    correct=950,
    agreement=99.5,
    top1_drop=0.1,
    sqnr_db=40.0,
    deployed_bytes=1_000_000,
    machine=describe().cpu,
    speedups={"1": 4.0},
)


def bundle(**changes: Any) -> Any:
    manifest: dict[str, Any] = {
        "network": {"name": "googlenet"},
        "weights": {"num_classes": 24, "sha256": "b" * 64},
        "preprocessing": PREPROCESSING,
        "precision": "int8",
        "target": "onnxruntime",
        "engine": None,
        "graph": {"bytes": 1_050_000},
    }
    return SimpleNamespace(manifest={**manifest, **changes}, head="logits")


def parity(correct: int, sqnr: float | None = 40.5, images: int = 1000) -> ParityReport:
    return ParityReport(
        *("pytorch", "onnxruntime", "logits"),
        DataFacts("photos", "d" * 64, images, labelled=True),
        *(0.1, 0.01, sqnr, sqnr is None, 1.0, 1.0),
        top1_agreement=99.0,
        top1_reference=95.0,
        top1_deployed=100 * correct / images,
        top1_drop=0.0,
        flips=Flips(0, 0),
    )


def speed(ratio: float, low: float, high: float, p99_scale: float = 1.0) -> ThroughputReport:
    seconds = 0.001 * np.array([1.0] * 98 + [p99_scale] * 2)
    latency, cov = summarise(seconds)
    row = Row("onnxruntime", "model.onnx", "int8", 1, 100, 5, 1e3, 1e3, 1e3, latency, cov, 1.0)
    pair = Ratio(1, "onnxruntime:model.onnx", "pytorch:torch", ratio, (low, high))
    return ThroughputReport(describe(), {}, (row,), (pair,), {})


def outcomes(
    report: ParityReport | None, timed: ThroughputReport | None = None, **changes: Any
) -> dict[str, str]:
    checks = BASELINE.checks(bundle(**changes), Bounds.asked("int8"), report, timed)
    return {check.name: check.outcome for check in checks}


def test_round_trip(tmp_path: Path) -> None:
    BASELINE.save(tmp_path / "deep" / "main.json")
    assert load_baseline(tmp_path / "deep" / "main.json") == BASELINE


def test_a_build_as_good_as_the_last_passes() -> None:
    # 950 of 1,000 both times: 2 points cannot be told from nothing without pairs
    assert outcomes(parity(950), speed(4.1, 3.9, 4.3)) == {
        "top1_against_baseline": "INCONCLUSIVE",
        "sqnr_against_baseline": "PASS",
        "size_against_baseline": "PASS",
        "speedup_batch_1_against_baseline": "PASS",
    }


def test_a_worse_build_fails() -> None:
    worse = outcomes(parity(850, sqnr=36.9), speed(2.0, 1.9, 2.1), graph={"bytes": 1_200_000})
    assert set(worse.values()) == {"FAIL"}


def test_another_precision_has_another_sqnr() -> None:
    assert "sqnr_against_baseline" not in outcomes(parity(950, sqnr=10.0), precision="fp16")


def test_ratios_of_another_machine_are_not_held() -> None:
    other = replace(BASELINE, machine="another")
    checks = list(other.checks(bundle(), Bounds.asked("int8"), None, speed(1.0, 0.9, 1.1)))
    assert [c.outcome for c in checks if "speedup" in c.name] == ["NOT_ASKED"]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"network": {"name": "inception_v3"}}, "another network"),
        ({"weights": {"num_classes": 10, "sha256": None}}, "number of classes"),
        ({"preprocessing": {**PREPROCESSING, "mean": [0, 0, 0]}}, "another preprocessing (mean"),
        ({"preprocessing": {**PREPROCESSING, "extra": 1}}, "another preprocessing (extra"),
    ],
)
def test_foreign_baselines_are_refused(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(BadInput) as refused:
        BASELINE.refuse(bundle(**changes))
    assert word in str(refused.value)
    assert "--update-baseline" in str(refused.value)
    BASELINE.refuse(bundle())


def test_another_data_set_is_refused() -> None:
    with pytest.raises(BadInput, match="another data set"):
        BASELINE.refuse_data("e" * 64, "photos")
    with pytest.raises(BadInput, match="without a digest"):
        BASELINE.refuse_data(None, "photos")
    BASELINE.refuse_data("d" * 64, "photos")


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"schema": 2}', '{"schema": 1, "network": "x"}'],
)
def test_files_that_are_no_baseline(tmp_path: Path, text: str) -> None:
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(BadInput, match=r"b\.json"):
        load_baseline(tmp_path / "b.json")


def test_missing_and_damaged_baselines(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot read the baseline"):
        load_baseline(tmp_path / "none.json")
    BASELINE.save(tmp_path / "b.json")
    values = json.loads((tmp_path / "b.json").read_text())
    (tmp_path / "b.json").write_text(json.dumps({**values, "images": 0}))
    with pytest.raises(BadInput, match="counts below one"):
        load_baseline(tmp_path / "b.json")


# ---------------------------------------------------------------- statistics


@pytest.mark.parametrize(
    ("counts", "interval"),
    [
        # Newcombe 1998, table II, method 10
        ((56, 70, 48, 80), (0.0524, 0.3339)),
        ((9, 10, 3, 10), (0.1705, 0.8090)),
        ((5, 56, 0, 29), (-0.0381, 0.1926)),
        ((0, 10, 0, 20), (-0.1611, 0.2775)),
    ],
)
def test_difference_of_the_published_examples(
    counts: tuple[int, int, int, int], interval: tuple[float, float]
) -> None:
    assert difference_interval(*counts) == pytest.approx(interval, abs=1e-4)


@pytest.mark.parametrize(("hits", "images"), [(0, 7), (3, 40), (40, 40), (955, 1000)])
def test_a_proportion_has_scipys_wilson_interval(hits: int, images: int) -> None:
    want = stats.binomtest(hits, images).proportion_ci(0.95, method="wilson")
    assert _wilson(hits, images, Z95) == pytest.approx((want.low, want.high), abs=1e-12)


# ---------------------------------------------------------------- speed


@pytest.mark.parametrize(
    ("low", "high", "outcome"), [(2.1, 2.5, "PASS"), (1.5, 1.9, "FAIL"), (1.9, 2.2, "INCONCLUSIVE")]
)
def test_speedup_is_held_by_its_interval(low: float, high: float, outcome: str) -> None:
    bounds = Bounds.asked("int8", defaults=False, min_speedup=2.0)
    (check,) = of_speed(speed(2.0, low, high), bounds)
    assert (check.outcome, check.counts) == (outcome, True)


@pytest.mark.parametrize(
    ("p99_scale", "bound", "outcome"),
    [
        (1.0, 1.5, "PASS"),
        (1.0, 0.5, "FAIL"),  # calm and over
        (9.0, 2.0, "INCONCLUSIVE"),  # over, but the machine may be to blame
        (9.0, 20.0, "PASS"),  # restless, and below all the same
    ],
)
def test_latency_on_a_restless_machine_does_not_fail(
    p99_scale: float, bound: float, outcome: str
) -> None:
    bounds = Bounds.asked("int8", defaults=False, max_p99_ms=bound)
    (check,) = of_speed(speed(2.0, 1.9, 2.1, p99_scale), bounds)
    assert check.outcome == outcome
    assert ("restless" in check.reason) == (outcome == "INCONCLUSIVE")
