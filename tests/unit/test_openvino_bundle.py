"""A bundle for OpenVINO: its own files are in it and hashed, and every convolution runs in int8."""

from __future__ import annotations

from pathlib import Path

import pytest

from inception_deploy.compare import compare_bundle
from inception_deploy.pipeline import deploy
from inception_deploy.recipe import Recipe
from inception_deploy.verify import verify

pytest.importorskip("openvino", reason="the extra openvino is not installed")


def test_int8_for_openvino(tmp_path: Path) -> None:
    recipe = Recipe(
        precision="int8", target="openvino", data_size=32, calibration_size=32, seconds=0.0
    )
    bundle = deploy(recipe, tmp_path / "bundle")
    manifest = bundle.manifest
    assert manifest["engine"]["file"] == "openvino/model.xml"
    assert {"openvino/model.xml", "openvino/model.bin"} <= manifest["files"].keys()
    lowered = next(s for s in manifest["stages"] if s["name"] == "lower/int8")
    asked = {a["node"] for a in lowered["applied"] if a["detail"] in ("Conv", "Gemm")}
    assert len(asked) == 58
    assert {manifest["executed"].get(node) for node in asked} == {"int8"}
    assert manifest["parity"]["sqnr_db"] > 30
    assert all(check.ok for check in verify(bundle))
    assert compare_bundle(bundle, data_size=16).to_dict()["sqnr_db"] > 30
