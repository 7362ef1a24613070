"""`bench` on small bundles: every scenario, what is kept, and what is refused in one line."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inception_deploy.bench_record import own_report
from inception_deploy.bundle import Bundle
from inception_deploy.cli.main import main
from inception_deploy.report import load_bundle, render
from inception_deploy.throughput import ThroughputReport, loadgen, trial
from inception_deploy.throughput.report import Peak
from inception_deploy.verify import verify

SMALL = ("--weights", "random:0", "--num-classes", "5", "--image-size", "64")
QUICK = ("--seconds", "0.02", "--threads", "1", "-q", "--json")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and warm-ups of a tenth of their length: what is measured here is not looked at."""
    monkeypatch.setattr(trial, "BLOCK_SECONDS", 0.01)
    monkeypatch.setattr(trial, "WARMUP_SECONDS", 0.02)
    monkeypatch.setattr(trial, "WINDOW_SECONDS", 0.005)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of random weights, made once."""
    path = tmp_path_factory.mktemp("bench") / "small"
    few = ("--data-size", "8", "--seconds", "0", "-q")
    with pytest.raises(SystemExit) as stop:
        main(["export", "googlenet", *SMALL, *few, "--fp32", "-o", str(path)])
    assert stop.value.code == 0
    return path


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "small"))


@pytest.fixture
def bench(capfd: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str | Path, code: int = 0) -> Any:
        with pytest.raises(SystemExit) as stop:
            main(["bench", *map(str, arguments)])
        captured = capfd.readouterr()
        assert stop.value.code == code, captured.err
        return captured

    return run


def test_single_stream_says_all_there_is_to_say(bench: Any, bundle: Path) -> None:
    values = json.loads(bench(bundle, "--batch", "1,2,4", *QUICK).out)
    report = ThroughputReport.from_dict(values)
    assert [(row.engine, row.batch) for row in report.rows] == [
        (engine, batch) for batch in (1, 2, 4) for engine in ("pytorch", "onnxruntime")
    ]
    ours = [row for row in report.rows if row.engine == "onnxruntime"]
    for row in ours:
        assert row.threads == 1
        assert row.utilisation is not None
        assert 0 < row.utilisation < 2
        assert row.cpu_ms is not None
        assert row.cpu_ms > 0
        assert 0 < row.parts_ms["engine"] <= row.latency_ms.max
        assert row.harness_share is not None
        assert row.harness_share < 0.1
    assert {(r.candidate, r.baseline) for r in report.ratios} == {
        ("onnxruntime:model.onnx", "pytorch:torch")
    }
    assert [knee.over for knee in report.knees] == ["batch", "batch"]
    (peak,) = report.peaks
    assert (peak.precision, peak.ran) == ("fp32", "float32")
    blocks = report.blocks["onnxruntime:model.onnx"]
    assert "inception3a" in {block.name for block in blocks}
    assert report.footprints["onnxruntime:model.onnx"].batch == 4
    assert report.harness_us is not None
    assert report.harness_us < 20
    assert report.energy


def test_figures_are_kept_and_shown(bench: Any, bundle: Path) -> None:
    bench(bundle, "--batch", "1", "--save", *QUICK)
    bench(bundle, "--batch", "2", "--scenario", "offline", "--brief", "--save", *QUICK)
    assert all(check.ok for check in verify(Bundle.open(bundle)))
    kept = json.loads((bundle / "throughput.json").read_text())
    assert [row["graph"] for row in kept["rows"]] == ["torch", "model.onnx"]
    assert (bundle / "throughput-offline.json").is_file()
    page = (bundle / "report.html").read_text()
    assert page == render([load_bundle(bundle)])
    for words in ("Latency distribution", "Time and error per block", "Other scenarios", "GMAC/s"):
        assert words in page


def test_streams_and_threads_are_candidates_of_their_own(bench: Any, bundle: Path) -> None:
    values = json.loads(
        bench(
            *(bundle, "--scenario", "offline", "--batch", "1", "--seconds", "0.02", "--brief"),
            *("--threads", "1,2,3", "--streams", "1,2", "--no-pytorch", "-q", "--json"),
        ).out
    )
    found = {(row["threads"], row["streams"], row["graph"]) for row in values["rows"]}
    assert len(found) == 6
    assert (2, 1, "model.onnx, 2 threads, 1 stream") in found
    assert {row["scenario"] for row in values["rows"]} == {"offline"}
    assert {knee["candidate"] for knee in values["knees"]} == {
        "model.onnx, batch 1",
        "model.onnx, batch 1, streams 2",
    }


def test_server(bench: Any, bundle: Path) -> None:
    values = json.loads(
        bench(
            *(bundle, "--scenario", "server", "--latency-bound", "1000", "--qps", "50"),
            *("--batch", "2", "--seconds", "1", "--no-pytorch", "--brief", "-q", "--json"),
        ).out
    )
    (row,) = values["rows"]
    assert row["server"]["offered_qps"] == 50
    assert row["server"]["overruns"] == 0
    assert row["server"]["verdict"] == "INCONCLUSIVE"  # 50 queries decide nothing
    assert any("50 queries/s" in w or "do not decide" in w for w in values["warnings"])


def test_end_to_end_splits_the_query(bench: Any, bundle: Path) -> None:
    values = json.loads(bench(bundle, "--end-to-end", "--batch", "2", "--brief", *QUICK).out)
    for row in values["rows"]:
        assert row["end_to_end"]
        assert set(row["parts_ms"]) == {"decode", "preprocess", "engine"}
        assert sum(row["parts_ms"].values()) < 2 * row["latency_ms"]["median"]


@pytest.mark.skipif(not loadgen.available(), reason="mlcommons-loadgen is not installed")
def test_loadgen_leaves_its_logs_in_the_bundle(bench: Any, bundle: Path) -> None:
    said = bench(bundle, "--loadgen", "--seconds", "0.2", "-q", "--json")
    (found,) = json.loads(said.out)
    assert all(check.ok for check in verify(Bundle.open(bundle)))
    log = bundle / "loadgen" / "single-stream" / "mlperf_log_summary.txt"
    # which of both is LoadGen's to say: on a busy machine a fifth of a second is too short for it
    verdict = "VALID" if found["valid"] else "INVALID"
    assert f"Result is : {verdict}\n" in log.read_text()
    assert f"Result is {verdict}" in render([load_bundle(bundle)])


def test_bundles_side_by_side_each_keep_their_own(bench: Any, bundle: Path) -> None:
    other = Path(shutil.copytree(bundle, bundle.with_name("other")))
    values = json.loads(bench(bundle, other, "--batch", "1", "--brief", *QUICK).out)
    report = ThroughputReport.from_dict(values)
    assert [row.graph for row in report.rows] == ["torch", "small/model.onnx", "other/model.onnx"]
    threads = report.rows[1].threads
    report = replace(
        report,
        warnings=("busy", *(f"{row.key} at batch 1: varies" for row in report.rows)),
        peaks=(
            Peak("onnxruntime", "fp32", threads, None, 1.0),
            Peak("x", "int8", threads, None, 2.0),
        ),
    )
    first = own_report(report, "small/model.onnx", with_baselines=True)
    second = own_report(report, "other/model.onnx", with_baselines=False)
    assert [row.graph for row in first.rows] == ["torch", "model.onnx"]
    assert [row.graph for row in second.rows] == ["model.onnx"]
    assert [(r.candidate, r.baseline) for r in first.ratios] == [
        ("onnxruntime:model.onnx", "pytorch:torch")
    ]
    assert second.ratios == ()
    assert second.warnings == ("busy", "onnxruntime:model.onnx at batch 1: varies")
    assert second.peaks == report.peaks[:1]


def test_tables_fit_eighty_columns(bench: Any, bundle: Path) -> None:
    out = bench(bundle, "--batch", "1", "--seconds", "0.02").out
    assert "Throughput, single-stream" in out
    assert "p99" in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--scenario", "server"), "--latency-bound"),
        (("--qps", "5"), "--scenario server"),
        (("--streams", "2"), "--scenario offline"),
        (("--threads", "two"), "--threads needs numbers"),
        (("--data", "x"), "--end-to-end"),
        (("--batch", "0"), "--batch needs sizes"),
        (("--seconds", "0"), "time to measure"),
    ],
)
def test_refusals_are_one_line(bench: Any, bundle: Path, options: Any, said: str) -> None:
    captured = bench(bundle, *options, code=2)
    (line,) = [text for text in captured.err.splitlines() if text.startswith("error:")]
    assert said in line
    assert captured.out == ""
