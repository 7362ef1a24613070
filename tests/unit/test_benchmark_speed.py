"""The arithmetic and the tables of the speed benchmarks, without measuring anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import inception_deploy
from benchmarks import harness, sweep
from benchmarks.export_time import STEPS, Stopwatch, step_of
from benchmarks.harness import GOALS, summary
from benchmarks.native import provenance
from benchmarks.speed_tables import (
    contenders_table,
    export_time_table,
    harness_table,
    peers_table,
    sweep_table,
)
from inception_deploy.errors import StageError
from inception_deploy.recipe import Recipe

PLACE = {
    "machine": {"cores": 2, "cpu": "CPU", "isa": ["avx2"]},
    "versions": {"torch": "2", "onnxruntime": "1", "numpy": "3"},
}


def test_runs_within_the_goal_are_counted() -> None:
    found = summary([{"1": 1.019, "8": 0.9}, {"1": 0.981, "8": 1.0}, {"1": 1.03, "8": 1.05}])
    assert found["1"] == {"within": 2, "runs": 3, "median": 1.019, "furthest": 1.03}
    assert found["8"] == {"within": 1, "runs": 3, "median": 1.0, "furthest": 0.9}


@pytest.mark.parametrize("there", [True, False], ids=["an empty folder", "no folder"])
def test_what_is_no_bundle_is_said_in_one_line(there: bool, tmp_path: Path) -> None:
    wrong = tmp_path / "bundle"
    if there:
        wrong.mkdir()
    done = CliRunner().invoke(harness.main, ["--bundle", str(wrong)])
    assert done.exit_code == 2
    assert done.output == f"Error: {wrong} is not a bundle: it has no manifest.json\n"


def test_a_step_has_what_is_inside_of_it_and_the_rest_is_what_none_claims() -> None:
    now = [0.0]
    watch = Stopwatch(lambda: now[0])

    def work(seconds: float) -> None:
        now[0] += seconds

    work(1)
    with watch.stage("fuse/conv_bn"):
        work(2)
        for _ in watch.track(range(3), "proving fuse/conv_bn", 3):
            work(4)
    with pytest.raises(ValueError, match="stop"), watch.stage("lower/int8"):
        work(8)
        raise ValueError("stop")
    with watch.stage("something new"):
        work(16)
    with watch.stage("fuse/lrn"):
        work(32)
    assert watch.seconds() == {"rewrites": 46, "lowering": 8, "rest": 17}


@pytest.mark.parametrize("begins", [words for step in STEPS.values() for words in step])
def test_steps_go_by_what_the_stages_say(begins: str) -> None:
    said = f'"{begins.split()[0]}'
    package = Path(inception_deploy.__file__).parent
    assert any(said in path.read_text(encoding="utf-8") for path in package.rglob("*.py"))
    assert step_of(f"{begins} and more") == step_of(f"proving {begins}") is not None


def figure(engine: str, precision: str, batch: int, ms: float) -> dict[str, Any]:
    return {"engine": engine, "precision": precision, "batch": batch, "median_ms": ms}


def test_the_tables_say_what_the_files_say() -> None:
    row = {
        "network": "googlenet",
        "figures": [figure("ort", "fp32", 1, 10.04), figure("ort", "int8", 1, 2.5)],
        "ratios": [{"batch": 1, "of": "ort:int8", "to": "ort:fp32", "ratio": 4.016}],
    }
    fp32 = {**row, "network": "xception", "figures": [figure("ort", "fp32", 8, 7.0)]}
    table = sweep_table({**PLACE, "rows": [row, {**fp32, "refused": {"ort:int8": "too far off"}}]})
    assert "| xception, 8 | 7.0 ms | refused |" in table
    assert "| network, batch | ort fp32 | ort int8 |" in table
    assert "| googlenet, 1 | 10.0 ms | 2.5 ms (4.02×) |" in table
    assert "On 2 cores of an CPU (avx2); torch 2, onnxruntime 1." in table
    times = {
        **{"network": "googlenet", "precision": "fp32", "seconds": 4.26, "peak_rss_mb": 1234},
        **{"steps": {"export": 2.04, "rest": 2.11}, "calibration_images": None},
    }
    steps = {"export": 3.04, "calibration": 5.05, "rest": 1.0}
    table = export_time_table(
        {
            **PLACE,
            "rows": [
                times,
                {**times, "precision": "int8", "calibration_images": 256, "steps": steps},
            ],
        }
    )
    assert "| network | seconds | export | calibration | rest | peak memory |" in table
    assert "| googlenet, fp32 | 4.3 | 2.0 | – | 2.1 | 1,234 MB |" in table
    assert "| googlenet, int8, 256 images | 4.3 | 3.0 | 5.0 | 1.0 | 1,234 MB |" in table
    harness = harness_table(
        {
            **PLACE,
            **{"harness_us": 1.52, "share": 0.0017, "bench_seconds": 12.0},
            "against_itself": summary([{"1": 1.001}]),
            "goals": GOALS,
        }
    )
    assert "| null engine, per query | 1.5 µs | < 20 µs |" in harness
    assert "| its largest share of a figure below | 0.17 % | < 2 % |" in harness
    assert "1 of 1 (median 1.001, furthest 1.001) | 9 of 10 |" in harness


def test_the_peers_tables_tell_of_lanes_where_they_were_timed() -> None:
    ours, stock = "onnxruntime:ours", "onnxruntime:quantize_static"

    def row(network: str, medians: dict[str, float]) -> dict[str, Any]:
        return {
            **{"network": network, "weights": "random:0", "median_ms": {"8": medians}},
            "sqnr_db": {ours: 33.0, stock: 30.0, "openvino:ours": 33.0, "openvino:nncf": 30.0},
            "ratios": [{"batch": 8, "ours": ours, "to": stock, "ratio": 1.25}],
        }

    old = row("googlenet", {ours: 8.0, stock: 10.0})
    new = row("xception", {ours: 8.0, stock: 10.0, f"{stock}-lanes": 4.0})
    means: dict[str, Any] = {name: {"geometric_mean": 1.2} for name in ("onnxruntime", "openvino")}
    versions = {"onnxruntime": "1", "torch": "2", "openvino": "1", "nncf": "2"}
    facts = {**PLACE, "versions": versions, "rows": [old], "summary": means}
    before = contenders_table(facts)
    assert "| native size, batch | quantize_static | ours, ONNX Runtime |" in before
    assert "lanes" not in before + peers_table(facts)
    means["onnxruntime"]["graph_against_graph"] = {"geometric_mean": 1.17}
    table = contenders_table({**facts, "rows": [old, new]})
    assert "| native size, batch | quantize_static | quantize_static in lanes | ours," in table
    assert "| googlenet, 8 | 800 | – | **1e+03** |" in table
    assert "| xception, 8 | 800 | **2e+03** | 1e+03 |" in table
    assert "it is 1.17× on ONNX Runtime" in peers_table(facts)


@pytest.fixture
def swept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The sweep without deploying and measuring; says which networks it took."""
    taken: list[str] = []

    def row(network: str, bundles: Any, seconds: float) -> dict[str, Any]:
        taken.append(network)
        return {"network": network, "figures": [], "ratios": []}

    monkeypatch.setattr(sweep, "prepare", lambda *_: ({}, {"ort:fp16": "too far off"}))
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
    assert all(row["refused"] == {"ort:fp16": "too far off"} for row in rows)


def test_what_an_export_refuses_is_kept_and_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tried = []

    def deploy(recipe: Recipe, path: Path) -> None:
        tried.append(path.name)
        if recipe.precision == "fp16":
            raise StageError("too far off")
        path.mkdir()

    monkeypatch.setattr(sweep, "deploy", deploy)
    (tmp_path / "images.npz").touch()
    found, refused = sweep.prepare("googlenet", tmp_path, ("fp32", "fp16"), ("onnxruntime",))
    assert found["onnxruntime:fp32"] == tmp_path / "onnxruntime-fp32"
    assert refused["onnxruntime:fp16"] == "too far off"
    assert "onnxruntime:fp16" not in found
    assert all(name.startswith("onnxruntime-") for name in tried), (
        "another engine was not asked for"
    )
    times = len(tried)
    assert sweep.prepare("googlenet", tmp_path, ("fp32", "fp16"), ("onnxruntime",)) == (
        found,
        refused,
    )
    assert len(tried) == times


def test_rows_of_another_machine_are_not_kept(swept: Any) -> None:
    swept("googlenet")
    stored = json.loads(swept.results.read_text())
    assert stored["machine"] == provenance()["machine"]
    stored["machine"]["cpu"] = "another"
    swept.results.write_text(json.dumps(stored))
    swept("inception_v3")
    rows = json.loads(swept.results.read_text())["rows"]
    assert [row["network"] for row in rows] == ["inception_v3"]
