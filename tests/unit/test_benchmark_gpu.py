"""The benchmark of a card, without one: rehearsed on the CPU; its budget and the card are fakes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from benchmarks import gpu, gpu_bundles, gpu_card, gpu_contest
from benchmarks.gpu import Plan
from benchmarks.gpu_bundles import Job, Made, Shape, build_apart, prepare
from benchmarks.gpu_card import card_facts, card_state
from benchmarks.gpu_table import gpu_table
from inception_deploy.errors import InceptionDeployError
from inception_deploy.recipe import BatchProfile
from inception_deploy.throughput import Candidate
from inception_deploy.throughput.product import ProductRunner

SHAPE = Shape(BatchProfile(1, 2, 2), 0.125, 75)
NARROW = ("--device", "cpu", "--width", "0.125", "--image-size", "75", "--batch", "2")


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(gpu.main, arguments)


@pytest.mark.parametrize("lacks", ["driver", "cuda"])
def test_without_a_card_it_ends_before_it_begins(
    lacks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: object, **__: object) -> Any:
        raise AssertionError("something was done")

    problem = "no NVIDIA driver on this machine" if lacks == "driver" else None
    monkeypatch.setattr(gpu_card, "driver_problem", lambda: problem)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu, "run", work)
    done = invoke()
    assert done.exit_code == 3
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: nothing to measure: ")
    assert ("--device cpu" if lacks == "driver" else "the CUDA build") in line
    assert done.stdout == ""


def test_narrow_networks_are_no_figures_of_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "require_card", lambda: None)
    done = invoke("--width", "0.5")
    assert done.exit_code == 2
    assert "narrow ones are for --device cpu" in done.stderr


@pytest.fixture
def rehearsal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command on the CPU; bundles are made in this process."""

    def here(job: Job, path: Path, shape: Shape, seconds: float, *, threads: int) -> Any:
        assert seconds > 0
        assert threads > 0
        try:
            gpu_bundles.build(job, path, shape)
        except InceptionDeployError as error:
            return error.exit_code, str(error)
        return 0, ""

    monkeypatch.setattr(gpu, "build_apart", here)
    place = ["--bundles", str(tmp_path / "b"), "--out", str(tmp_path / "gpu.json")]

    def run(*arguments: str) -> Result:
        short = ("--seconds", "0.01", "--network", "inception_v3", "--precision", "fp16")
        return invoke(*NARROW, *short, *place, *arguments)

    return run


def test_a_rehearsal_runs_all_but_the_card(
    rehearsal: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = ("--engine", "onnxruntime", "--engine", "tensorrt-rtx")
    why = {"tensorrt-rtx": "no NVIDIA driver on this machine"}
    monkeypatch.setattr(gpu, "missing", lambda device: why)
    done = rehearsal(*engines)
    assert done.exit_code == 0, done.output
    assert "unavailable: tensorrt-rtx: no NVIDIA driver on this machine" in done.stdout
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert (found["device"], found["card"], found["left_out"]) == ("cpu", None, [])
    assert found["unavailable"] == why
    assert [(row["batch"], row["image_size"]) for row in found["rows"]] == [(2, 75)]
    for row in found["rows"]:
        names = [f"{f['engine']}:{f['name']}" for f in row["figures"]]
        assert names == ["pytorch:eager fp16", "onnxruntime:fp16"]
        assert [r["of"] for r in row["ratios"]] == ["onnxruntime:fp16"]
        assert row["peaks_tflops"].keys() == {"fp16"}
        for f in row["figures"]:
            assert f["share_of_own_peak"] == f["share_of_fp16_peak"] > 0
            assert f["p99_ms"] >= f["p50_ms"] > 0

    # and once more: nothing is left to do, unless it is asked for
    def measured(*_: object) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(gpu, "row_of", measured)
    done = rehearsal(*engines)
    assert done.exit_code == 0, done.output
    assert done.stdout.rstrip().endswith("gpu.json: 1")
    assert str(rehearsal(*engines, "--again").exception) == "measured again"


# The budget.

JOBS = [Job("inception_v3", "onnxruntime", p) for p in ("fp16", "fp32")]


def made(
    folder: Path, build: Callable[..., tuple[int, str]], *, minutes: float = 10.0
) -> tuple[Made, list[str]]:
    now, said = [0.0], list[str]()

    def timed(job: Job, path: Path, shape: Shape, seconds: float) -> tuple[int, str]:
        now[0] += 50
        code, line = build(job, seconds)
        if code == 0:
            path.mkdir()
            (path / "manifest.json").touch()
        return code, line

    found = prepare(
        JOBS,
        folder,
        SHAPE,
        until=60 * minutes,
        limit=240,
        workers=1,
        build=timed,
        tell=said.append,
        clock=lambda: now[0],
    )
    return found, said


def test_what_is_made_stays_and_a_refusal_too(tmp_path: Path) -> None:
    tried: list[str] = []

    def build(job: Job, seconds: float) -> tuple[int, str]:
        tried.append(job.precision)
        return (1, "a bound does not hold") if job.precision == "fp32" else (0, "")

    for _ in range(2):
        found, said = made(tmp_path, build)
        assert list(found.bundles) == JOBS[:1]
        assert found.refused == {JOBS[1]: "a bound does not hold"}
        assert found.late == {}
    assert tried == ["fp16", "fp32"]
    assert said == []


@pytest.mark.parametrize(
    ("code", "line", "reason"),
    [
        (-1, "", "left out: not done within 240 s"),
        (3, "its process ended with code -11", "its process ended with code -11"),
    ],
)
def test_what_ran_out_of_time_is_tried_again(
    tmp_path: Path, code: int, line: str, reason: str
) -> None:
    found, said = made(tmp_path, lambda job, seconds: (code, line))
    assert set(found.late.values()) == {reason}
    assert f"inception_v3 onnxruntime:fp16: {reason}" in said
    found, _ = made(tmp_path, lambda job, seconds: (0, ""))
    assert list(found.bundles) == JOBS


def test_a_bundle_has_no_more_time_than_is_left(tmp_path: Path) -> None:
    given: list[float] = []

    def build(job: Job, seconds: float) -> tuple[int, str]:
        given.append(seconds)
        return 0, ""

    found, _ = made(tmp_path, build, minutes=0.75)
    assert given == [45]
    assert found.late == {JOBS[1]: "left out: the time for compiling was up before its turn"}


def test_a_process_that_does_not_end_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = tmp_path / "pid"
    program = tmp_path / "python"
    half = tmp_path / ".b.half"
    program.write_text(f"#!/bin/sh\nmkdir {half}\nsleep 60 &\necho $! > {pid}\nwait\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    started = time.monotonic()
    assert build_apart(JOBS[0], tmp_path / "b", SHAPE, 1.0) == (-1, "")
    assert time.monotonic() - started < 10
    assert not half.exists()
    ended = Path("/proc") / pid.read_text().strip() / "stat"
    for _ in range(100):  # its compilers go with it; the system may take a moment to bury them
        if not ended.exists() or ended.read_text().split()[2] == "Z":
            break
        time.sleep(0.01)
    else:
        pytest.fail("the process that it started goes on")


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    job = Job("inception_v3", "onnxruntime", "fp8")
    code, line = build_apart(job, tmp_path / "b", SHAPE, 60.0)
    assert code == 2
    assert line.startswith("fp8 is for tensorrt and tensorrt-rtx")
    assert "\n" not in line


class Contest:
    """Measures nothing."""

    def __init__(self, _stack: Any, network: str, _shape: Shape, bundles: Any, device: str) -> None:
        self.network, self.candidates = network, [None] * (1 + len(bundles))


def test_what_the_minutes_do_not_suffice_for_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now = [0.0]
    kept: list[int] = []

    def row(contest: Contest, batch: int, seconds: float) -> dict[str, Any]:
        now[0] += 20.0
        figures = [{"engine": "onnxruntime", "name": p} for p in ("fp16", "fp32")]
        row = {"network": contest.network, "batch": batch}
        return {**row, "figures": figures[:1], "failed": {"onnxruntime:fp32": "no memory"}}

    monkeypatch.setattr(gpu, "Contest", Contest)
    monkeypatch.setattr(gpu, "row_of", row)
    monkeypatch.setattr(gpu, "missing", lambda _device: {})
    monkeypatch.setattr(gpu, "_lines", lambda _row: [])
    asked: list[Job] = []

    def make(jobs: Any) -> Made:
        asked.extend(jobs)
        return Made(dict.fromkeys(jobs, tmp_path), {}, {})

    def once(stored: Any, minutes: float) -> dict[str, Any]:
        now[0] = 0.0
        return gpu.run(
            ["inception_v4", "inception_v3"],
            {"onnxruntime": ["fp32", "fp16"]},
            SHAPE,
            Plan("cpu", 1.0, minutes, [1, 2], clock=lambda: now[0]),
            tmp_path,
            stored,
            again=False,
            make=make,
            keep=lambda results: kept.append(len(results["rows"])),
            tell=lambda _line: None,
        )

    found = once({}, 0.8)  # 48 s: rows take 20, and 7.5 are set aside for the next
    assert [(row["network"], row["batch"]) for row in found["rows"]] == [
        ("inception_v4", 1),
        ("inception_v4", 2),
        ("inception_v3", 1),
    ]
    assert found["left_out"] == ["inception_v3, batch 2: the minutes were up"]
    assert kept == [0, 1, 2, 3, 3]
    assert [job.precision for job in asked] == ["fp16", "fp16", "fp32", "fp32"]
    found = once(found, 0.8)
    assert len(found["rows"]) == 4
    assert found["left_out"] == []
    assert now[0] == 20.0


class Loaded(gpu_contest.Contest):
    """Of candidates that are given."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.network, self.macs = "googlenet", 1000
        self.inputs = np.zeros((1, 3, 2, 2), np.float32)
        self.candidates, self.failed = list(candidates), {"tensorrt:fp16": "of another version"}
        self.gauges = {gpu_contest.gauge_key(p): self.product(p) for p in ("bf16", "fp16")}

    @staticmethod
    def product(precision: str) -> Candidate:
        runner = ProductRunner(precision, "cpu", side=8)
        return Candidate("card", f"gemm {precision}", precision, runner, macs=runner.macs)


def candidate(engine: str, name: str, precision: str, largest: int) -> Candidate:
    def run(images: np.ndarray[Any, Any]) -> None:
        if len(images) > largest:
            raise RuntimeError("out of memory\nand much more")

    return Candidate(
        *(engine, name, precision, run, 0.5),
        macs=lambda images: 1000 * images,
        gauge=gpu_contest.gauge_key(precision),
    )


def test_what_fails_is_left_out_and_named() -> None:
    """A gauge that nobody is measured by goes with it: it would be taken for a candidate."""
    able = candidate("pytorch", "eager fp16", "fp16", 8)
    contest = Loaded([able, candidate("torch-inductor", "bf16", "bf16", 2)])
    found, first, failed = contest.able(2)
    assert [c.key for c in found] == [
        *("pytorch:eager fp16", "torch-inductor:bf16", "card:gemm bf16", "card:gemm fp16"),
    ]
    assert first.keys() == {"pytorch:eager fp16", "torch-inductor:bf16"}
    assert failed == {"tensorrt:fp16": "of another version"}
    row = gpu_contest.row_of(contest, 4, 0.01)
    assert [(f["name"], f["load_seconds"]) for f in row["figures"]] == [("eager fp16", 0.5)]
    assert row["peaks_tflops"].keys() == {"fp16"}
    assert row["failed"]["torch-inductor:bf16"].startswith(
        "torch-inductor:bf16 failed at batch 4: out of memory; try a smaller batch"
    )
    row = gpu_contest.row_of(contest, 16, 0.01)
    assert row["figures"] == row["ratios"] == []
    assert row["failed"].keys() == {"tensorrt:fp16", "torch-inductor:bf16", "pytorch:eager fp16"}


# The card.


def test_what_nvidia_smi_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def answer(command: list[str], **_: Any) -> Any:
        asked.append(command)
        query = command[-1].partition("=")[2].split(",")
        known = {"driver_version": "580.159", "clocks.sm": "1980", "power.draw": "[N/A]"}
        return SimpleNamespace(stdout=", ".join(known.get(name, "7.5") for name in query) + "\n")

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _index: SimpleNamespace(uuid="ab-c")
    )
    monkeypatch.setattr("benchmarks.gpu_card.subprocess.run", answer)
    facts, state = card_facts(), card_state()
    assert (facts["name"], facts["sm"], facts["driver"]) == ("NVIDIA H200", 90, "580.159")
    assert facts["power_limit_w"] == 7.5
    assert state["sm_mhz"] == 1980
    assert "power_w" not in state
    assert all("--id=GPU-ab-c" in command for command in asked)
    assert "ab-c" not in json.dumps([facts, state])

    def absent(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError

    monkeypatch.setattr("benchmarks.gpu_card.subprocess.run", absent)
    assert card_state() == {"nvidia_smi": "does not answer: FileNotFoundError"}


def test_shares_are_of_the_kernels_where_their_time_is_told() -> None:
    latency = SimpleNamespace(p50=10.0, p99=12.0, median=10.0)
    row: Any = SimpleNamespace(
        **{"engine": "torch-inductor", "graph": "bf16", "precision": "bf16", "batch": 32},
        **{"latency_ms": latency, "images_per_second": 3200.0, "runs": 5, "cov": 0.01},
        parts_ms={"h2d": 5.0, "compute": 4.0, "d2h": 1.0},
    )
    peaks = {"fp16": 1e12, "bf16": 5e11}
    told = gpu_contest._figure(row, 10**9, peaks)
    assert told["share_of"] == "kernels"
    assert told["kernel_images_per_second"] == 8000.0
    assert told["share_of_fp16_peak"] == pytest.approx(0.25)
    assert told["share_of_own_peak"] == pytest.approx(0.5)
    row.parts_ms, row.precision = {"engine": 9.0}, "int8"
    other = gpu_contest._figure(row, 10**9, peaks)
    assert (other["share_of"], other["share_of_own_peak"]) == ("query", None)
    assert other["share_of_fp16_peak"] == pytest.approx(0.1)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_products_are_computed_where_they_lie(precision: str) -> None:
    runner = ProductRunner(precision, "cpu", side=16)
    runner(np.zeros((1, 3, 2, 2), np.float32))
    left, right = runner._left, runner._right
    assert left.dtype == right.dtype == runner._result.dtype
    wanted = left.double() @ right.double()
    assert (runner._result.double() - wanted).abs().max() < 0.05
    assert runner._result.float().std() == pytest.approx(1.0, rel=0.3)
    assert runner.macs(1) == runner.macs(256) == 4 * 16**3


def test_the_table_says_what_the_file_says() -> None:
    def figure(engine: str, name: str, rate: float, kernels: float | None) -> dict[str, Any]:
        shares = {"kernel_images_per_second": kernels, "share_of_fp16_peak": 0.3142}
        return {"engine": engine, "name": name, "images_per_second": rate, **shares}

    peer = figure("pytorch", "eager fp16", 1234.4, 2000.0)
    row = {
        **{"network": "inception_v3", "batch": 32, "peaks_tflops": {"fp16": 780.4}},
        "failed": {"tensorrt:int8": "of another version"},
        "figures": [peer, figure("tensorrt", "fp16", 5000.0, None)],
        "ratios": [{"of": "tensorrt:fp16", "to": "pytorch:eager fp16", "ratio": 4.0506}],
    }
    other = {
        **{"network": "inception_v3", "batch": 256, "peaks_tflops": {"fp16": 791.6}},
        **{"failed": {}, "ratios": []},
        "figures": [peer, figure("tensorrt", "int8", 9000.0, None)],
    }
    nothing = {"network": "inception_v4", "batch": 1, "failed": {"a": "b"}, "figures": []}
    table = gpu_table(
        {
            "rows": [row, other, nothing],
            "card": {"name": "NVIDIA H200", "sm": 90, "driver": "580.1", "cuda": "13.0"},
            "versions": {"torch": "2.11.0", "tensorrt": "11.4", "numpy": "2"},
        }
    )
    assert "| network, batch | pytorch eager fp16 | tensorrt fp16 | tensorrt int8 |" in table
    first = "| inception_v3, 32 | 1,234, kernels 2,000, 31 % | 5,000 (4.05×), 31 % | failed |"
    assert first in table
    assert "| inception_v3, 256 | 1,234, kernels 2,000, 31 % | – | 9,000, 31 % |" in table
    assert "inception_v4" not in table
    assert "780 to 792 TFLOP/s" in table
    assert "On one NVIDIA H200 (SM90), driver 580.1, CUDA 13.0; torch 2.11.0, tensorrt" in table
