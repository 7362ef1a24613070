"""MLCommons' load generator around something that only sleeps."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest

from inception_deploy.errors import BadInput, MissingDependency, StageError
from inception_deploy.throughput import Candidate, Scenario, loadgen
from inception_deploy.throughput.loadgen import LOGS, drive, parse_summary

needs_loadgen = pytest.mark.skipif(
    not loadgen.available(), reason="mlcommons-loadgen is not installed"
)


def sleeper(seconds: float, sizes: list[int]) -> Candidate:
    def run(inputs: np.ndarray) -> None:
        sizes.append(len(inputs))
        time.sleep(seconds)

    return Candidate("sleeper", "graph", "fp32", run)


def images(size: int) -> np.ndarray:
    return np.zeros((size, 3, 2, 2), np.float32)


@needs_loadgen
@pytest.mark.parametrize(
    ("scenario", "figure"),
    [
        ("single-stream", "Mean latency (ns)"),
        ("offline", "Samples per second"),
        ("server", "Completed samples per second"),
    ],
)
def test_every_scenario_leaves_its_logs(scenario: Scenario, figure: str, tmp_path: Path) -> None:
    sizes: list[int] = []
    server = scenario == "server"
    found = drive(
        sleeper(0.001, sizes),
        images,
        tmp_path / "logs",
        scenario=scenario,
        images=4,
        batch=4,
        seconds=0.3,
        bound=0.5 if server else None,
        rate=1500 if server else None,
    )
    assert sorted(p.name for p in (tmp_path / "logs").iterdir()) == sorted(LOGS)
    summary = (tmp_path / "logs" / LOGS[0]).read_text()
    assert f"Result is : {'VALID' if found.valid else 'INVALID'}" in summary
    assert found.figures[figure] > 0
    assert max(sizes) == (1 if scenario == "single-stream" else 4)
    if server:
        assert sum(sizes) >= loadgen.SERVER_QUERIES  # so that it can decide, short as it was
    if scenario == "single-stream":
        assert found.valid
        assert 1e6 < found.figures[figure] < 100e6
    assert found.to_dict()["candidate"] == "sleeper:graph"


@needs_loadgen
def test_a_failing_engine_ends_the_test(tmp_path: Path) -> None:
    calls = []

    def run(inputs: np.ndarray) -> None:
        calls.append(1)
        if len(calls) > 10:
            raise RuntimeError("out of memory")

    with pytest.raises(StageError, match="bad:graph failed at batch 1: out of memory"):
        drive(
            Candidate("bad", "graph", "fp32", run),
            images,
            tmp_path,
            scenario="single-stream",
            images=2,
            seconds=0.1,
        )


@pytest.mark.parametrize(("queries", "late"), [(459, 0), (loadgen.SERVER_QUERIES, 3)])
def test_the_server_scenario_sends_as_many_queries_as_decide(queries: int, late: int) -> None:
    """LoadGen's rule: at most so many late ones would be rarer than 1 % if 1 % were late."""

    def at_most(late: int, queries: int) -> float:
        ways = (math.comb(queries, k) * 0.01**k * 0.99 ** (queries - k) for k in range(late + 1))
        return math.fsum(ways)

    assert at_most(late, queries) < 0.01 <= at_most(late, queries - 1)


@needs_loadgen
def test_server_needs_a_bound_and_a_rate(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--latency-bound and --qps"):
        drive(sleeper(0, []), images, tmp_path, scenario="server", images=1, bound=0.1)


def test_missing_loadgen_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loadgen, "_MODULE", "no_such_load_generator")
    assert not loadgen.available()
    with pytest.raises(MissingDependency, match=r"pip install 'inception-deploy\[loadgen\]'"):
        drive(sleeper(0, []), images, tmp_path, scenario="offline", images=1)


SUMMARY = """Scenario : Server
Completed samples per second    : 92.47
Result is : INVALID
  Early stopping satisfied: NO
Early Stopping Result:
 * Would need to run at least 359 more queries,
 * Early stopping 99.0th percentile estimate: 825199
50.00 percentile latency (ns)   : 1526996
================================================
Test Parameters Used
================================================
target_qps : 100
"""


def test_a_summary_is_read() -> None:
    valid, figures, advice = parse_summary(SUMMARY)
    assert not valid
    assert figures == {
        "Completed samples per second": 92.47,
        "Early stopping 99.0th percentile estimate": 825199,
        "50.00 percentile latency (ns)": 1526996,
    }
    assert advice == ("Would need to run at least 359 more queries,",)


def test_a_summary_without_a_result() -> None:
    with pytest.raises(StageError, match="did not finish"):
        parse_summary("Scenario : Offline\n")
