"""The arithmetic and the tables of the speed benchmarks, without measuring anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import sweep
from benchmarks.export_time import by_stage
from benchmarks.harness import summary
from benchmarks.native import provenance
from benchmarks.speed_tables import export_time_table, harness_table, sweep_table

PLACE = {
    "machine": {"cores": 2, "cpu": "CPU", "isa": ["avx2"]},
    "versions": {"torch": "2", "onnxruntime": "1", "numpy": "3"},
}


def test_runs_within_the_goal_are_counted() -> None:
    found = summary([{"1": 1.019, "8": 0.9}, {"1": 0.981, "8": 1.0}, {"1": 1.03, "8": 1.05}])
    assert found["1"] == {"within": 2, "runs": 3, "median": 1.019, "furthest": 1.03}
    assert found["8"] == {"within": 1, "runs": 3, "median": 1.0, "furthest": 0.9}


def test_stages_are_summed_by_kind_and_the_rest_is_other() -> None:
    stages = [
        {"name": "export", "seconds": 2.0},
        {"name": "fuse/a", "seconds": 0.5},
        {"name": "fuse/b", "seconds": 0.25},
        {"name": "lower/int8", "seconds": 1.0},
    ]
    assert by_stage(stages, 5.0) == {"export": 2.0, "fuse": 0.75, "lower": 1.0, "other": 1.25}


def figure(engine: str, precision: str, batch: int, ms: float) -> dict[str, Any]:
    return {"engine": engine, "precision": precision, "batch": batch, "median_ms": ms}


def test_the_tables_say_what_the_files_say() -> None:
    row = {
        "network": "googlenet",
        "figures": [figure("ort", "fp32", 1, 10.04), figure("ort", "int8", 1, 2.5)],
        "ratios": [{"batch": 1, "of": "ort:int8", "to": "ort:fp32", "ratio": 4.016}],
    }
    table = sweep_table({**PLACE, "rows": [row]})
    assert "| network, batch | ort fp32 | ort int8 |" in table
    assert "| googlenet, 1 | 10.0 ms | 2.5 ms (4.02×) |" in table
    assert "On 2 cores of an CPU (avx2); torch 2, onnxruntime 1." in table
    times = {
        **{"network": "googlenet", "precision": "fp32", "seconds": 4.26, "peak_rss_mb": 1234},
        "stages": {"export": 2.04, "fuse": 0.11, "other": 2.11},
    }
    assert "| googlenet | fp32 | 4.3 | 2.0 | 0.1 | – | 2.1 | 1,234 MB |" in export_time_table(
        {**PLACE, "rows": [times]}
    )
    harness = harness_table(
        {
            **PLACE,
            **{"harness_us": 1.52, "bench_seconds": 12.0},
            "against_itself": summary([{"1": 1.001}]),
            "goals": {"harness_us": 20, "within": 0.02, "runs_within": 9, "bench_seconds": 30},
        }
    )
    assert "| null engine, per query | 1.5 µs | < 20 µs |" in harness
    assert "1 of 1 (median 1.001, furthest 1.001) | 9 of 10 |" in harness


@pytest.fixture
def swept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The sweep without deploying and measuring; says which networks it took."""
    taken: list[str] = []

    def row(network: str, bundles: Any, seconds: float) -> dict[str, Any]:
        taken.append(network)
        return {"network": network, "figures": [], "ratios": []}

    monkeypatch.setattr(sweep, "prepare", lambda *_: {})
    monkeypatch.setattr(sweep, "row_of", row)
    results = tmp_path / "sweep.json"

    def run(*arguments: str) -> list[str]:
        taken.clear()
        options = ["--bundles", str(tmp_path / "b"), "--results", str(results)]
        done = CliRunner().invoke(sweep.main, [*arguments, *options])
        assert done.exit_code == 0, done.output
        return list(taken)

    run.results = results  # type: ignore[attr-defined]
    return run


def test_a_sweep_goes_on_where_it_was_stopped(swept: Any) -> None:
    assert swept("googlenet", "inception_v3") == ["googlenet", "inception_v3"]
    rest = swept()
    assert "googlenet" not in rest
    assert len(rest) > 5
    assert swept() == []
    assert swept("googlenet") == ["googlenet"]  # named: measured anew
    rows = json.loads(swept.results.read_text())["rows"]
    assert len({row["network"] for row in rows}) == len(rows) == len(rest) + 2


def test_rows_of_another_machine_are_not_kept(swept: Any) -> None:
    swept("googlenet")
    stored = json.loads(swept.results.read_text())
    assert stored["machine"] == provenance()["machine"]
    stored["machine"]["cpu"] = "another"
    swept.results.write_text(json.dumps(stored))
    swept("inception_v3")
    rows = json.loads(swept.results.read_text())["rows"]
    assert [row["network"] for row in rows] == ["inception_v3"]
