"""`inception-deploy gate` as a user meets it: exit codes, files, one line per error."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import junitparser
import numpy as np
import pytest
from command_line import Outcome, invoked

from inception_deploy.cli.main import main


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)

    return partial(invoked, capfd)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small FP16 bundle of random weights, made once."""
    path = tmp_path_factory.mktemp("bundles") / "small"
    small = ["--weights", "random:0", "--num-classes", "5", "--image-size", "64", "--seconds", "0"]
    with pytest.raises(SystemExit) as stop:
        main(["export", "googlenet", *small, "--fp16", "--data-size", "8", "-o", str(path), "-q"])
    assert stop.value.code == 0
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Forty noisy images of five classes."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (40, 64, 64, 3), np.uint8)
    np.savez(tmp_path / "photos.npz", images=pixels, labels=np.arange(40) % 5)
    return tmp_path / "photos.npz"


def error_line(outcome: Outcome, code: int = 2) -> str:
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("error:")]
    assert outcome.code == code, outcome.err
    assert "Traceback" not in outcome.err
    return line


def test_pass_prints_a_table_and_writes_what_is_asked(
    run: Any, bundle: Path, tmp_path: Path
) -> None:
    files = ["--junit", tmp_path / "gate.xml", "--summary", tmp_path / "gate.md"]
    outcome = run("gate", bundle, "--data-size", "16", *files, "-q")
    assert outcome.code == 0, outcome.out
    assert "verdict  PASS" in outcome.out
    assert "held to pytorch" in outcome.out
    assert "::" not in outcome.out  # nobody from GitHub listens
    assert junitparser.JUnitXml.fromfile(str(tmp_path / "gate.xml")).failures == 0
    assert (tmp_path / "gate.md").read_text().startswith("### ✅ PASS: googlenet fp16")


def test_fail_is_exit_code_1_and_an_annotation(
    run: Any, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "step.md"))
    options = ["--data-size", "8", "--max-size", "1kB", "--no-pieces", "-q"]
    outcome = run("gate", bundle, *options)
    assert outcome.code == 1
    assert "::error title=gate%3A size (googlenet fp16)::" in outcome.out
    assert "FAIL" in (tmp_path / "step.md").read_text()
    whole = run("gate", bundle, *options, "--json")
    assert whole.json["outcome"] == "FAIL"  # stdout is one document, annotations are elsewhere
    assert "::error" in whole.err


def test_inconclusive_is_exit_code_4(run: Any, bundle: Path, photos: Path) -> None:
    outcome = run("gate", bundle, "--data", photos, "--max-drop", "0.5", "--no-pieces", "-q")
    assert outcome.code == 4, outcome.out
    assert "images would settle it" in " ".join(outcome.out.split())
    again = run("gate", bundle, "--data", photos, "--no-pieces", "-q")
    assert again.code == 0  # nobody asked


def test_baseline_is_written_held_and_refused(
    run: Any, bundle: Path, photos: Path, tmp_path: Path
) -> None:
    common = ["gate", bundle, "--data", photos, "--no-pieces", "--seconds", "0.05"]
    written = tmp_path / "main.json"
    assert run(*common, "--update-baseline", written, "-q").code == 0
    first = json.loads(written.read_text())
    assert (first["network"], first["images"]) == ("googlenet", 40)
    assert set(first["speedups"]) == {"1"}
    held = run(*common, "--baseline", written, "--json", "-q")
    names = {check["name"] for check in held.json["checks"]}
    assert {"size_against_baseline", "sqnr_against_baseline", "top1_against_baseline"} <= names
    assert held.code in (0, 1), held.err  # the speed-up of a test run may be anything
    other = run("gate", bundle, "--baseline", written, "--no-pieces", "-q")
    assert "another data set" in error_line(other)
    written.write_text(json.dumps({**first, "network": "xception"}))
    assert "another network (xception" in error_line(run(*common, "--baseline", written, "-q"))
    refused = run(*common, "--max-size", "1kB", "--update-baseline", written)
    assert "is left as it was: the verdict is FAIL" in " ".join(refused.err.split())
    assert json.loads(written.read_text())["network"] == "xception"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--max-drop", "-1"], "--max-drop must be 0 to 100"),
        (["--min-agreement", "101"], "--min-agreement"),
        (["--max-size", "big"], "--max-size needs a size"),
        (["--batch", "0"], "--batch needs sizes"),
        (["--max-drop", "1"], "needs labelled images"),
        (["--data", "nowhere"], "nowhere"),
        (["--baseline", "none.json"], "cannot read the baseline none.json"),
    ],
)
def test_bad_input_is_one_line(run: Any, bundle: Path, options: list[str], word: str) -> None:
    assert word in error_line(run("gate", bundle, *options, "--no-pieces", "-q"))


def test_no_bundle(run: Any, tmp_path: Path) -> None:
    assert "is not a bundle" in error_line(run("gate", tmp_path, "-q"))


def test_compare_between_two_forms(run: Any, bundle: Path, photos: Path) -> None:
    common = ["compare", bundle, "--data", photos, "--data-size", "20", "-q"]
    found = run(*common, "--between", "model", "reference", "--json")
    assert (found.json["reference"], found.json["candidate"]) == ("reference.onnx", "model.onnx")
    assert {c["images"] for c in found.json["classes"]} == {4}
    table = run(*common).out
    for words in ("McNemar", "calibration error", "near ties (lead ≤", "weakest of"):
        assert words in table
    wrong = run(*common, "--between", "model", "engine", "--write")
    assert "leave out --between" in error_line(wrong)
