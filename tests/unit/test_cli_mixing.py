"""`export --int8` with a bound: what it prints, what the manifest holds, and its exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inception_deploy.cli.main import main
from inception_deploy.mixing.state import state_path

FEW = ["--data-size", "48", "--calibration-size", "32", "--seconds", "0"]


def export(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["export", *(str(a) for a in arguments), *FEW])
    assert isinstance(stop.value.code, int)
    return stop.value.code


def manifest(bundle: Path) -> Any:
    return json.loads((bundle / "manifest.json").read_text())


def test_blocks_go_back_to_float_until_the_sqnr_is_reached(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "b"
    assert export("--int8", "--min-sqnr", "48", "-o", bundle) == 0
    shown = capfd.readouterr().out
    found = manifest(bundle)["mixing"]
    assert found["met"] is True
    assert 0 < len(found["kept_float"]) < len(found["sensitivity"])
    assert manifest(bundle)["parity"]["sqnr_db"] >= 48
    lowered = manifest(bundle)["stages"][-1]
    kept = [r["node"] for r in lowered["refused"] if r["reason"] == "kept in float on request"]
    assert {node.split(".")[0] for node in kept} >= set(found["kept_float"])
    assert "Blocks in float" in shown
    assert "→" in shown
    assert found["reason"].split(" (")[0] in " ".join(shown.split())
    remembered = json.loads(state_path(bundle).read_text())
    assert set(remembered["noise"]) == {b["block"] for b in found["sensitivity"]}

    assert export("--int8", "--min-sqnr", "48", "-o", bundle, "--force", "-q") == 0
    assert manifest(bundle)["mixing"] == found  # nothing was measured again

    assert export("--int8", "--min-sqnr", "500", "-o", bundle, "--force", "-q") == 1
    best = manifest(bundle)["mixing"]
    assert best["met"] is False
    assert len(best["kept_float"]) == len(best["sensitivity"])
    assert manifest(bundle)["parity"]["sqnr_db"] > 80


def test_min_sqnr_is_for_int8(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert export("--fp16", "--min-sqnr", "30", "-o", tmp_path / "b", "-q") == 2
    assert "ask for precision int8" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())
