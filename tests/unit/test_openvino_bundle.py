"""A bundle for OpenVINO: its own files are in it and hashed, and every convolution runs in int8."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from inception_deploy.bundle import Bundle, file_digest
from inception_deploy.compare import compare_bundle
from inception_deploy.deployed import open_deployed
from inception_deploy.engines.openvino import save_ir
from inception_deploy.errors import BundleError
from inception_deploy.gate import gate
from inception_deploy.locate import locate
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


def test_what_is_judged_are_the_files_that_are_shipped(tmp_path: Path) -> None:
    """model.onnx is right; OpenVINO's own files are of another graph, in a bundle that agrees."""
    recipe = Recipe(target="openvino", data_size=8, seconds=0.0)
    bundle = deploy(recipe, tmp_path / "bundle")
    right = onnx.load(bundle.model)
    bias = next(n for n in reversed(right.graph.node) if n.op_type == "Gemm").input[2]
    values = next(t for t in right.graph.initializer if t.name == bias)
    moved = numpy_helper.to_array(values) + np.float32([5.0, *[0.0] * (values.dims[0] - 1)])
    values.CopyFrom(numpy_helper.from_array(moved, bias))
    onnx.save(right, tmp_path / "wrong.onnx")
    xml, _ = save_ir(tmp_path / "wrong.onnx", bundle.path)
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    manifest["engine"]["sha256"] = file_digest(xml)
    wrong = Bundle.seal(bundle.path, manifest)
    assert compare_bundle(wrong, data_size=8).max_abs_error == pytest.approx(5.0, abs=0.01)
    verdict = gate(wrong, data_size=8)
    assert [check.name for check in verdict.failed] == ["deployed_graph", "as_exported"]
    assert locate(wrong).first.stage == "engine"
    with open_deployed(wrong) as session:
        assert session.inputs[0].shape[0] == "batch"
    (bundle.path / "openvino" / "model.bin").write_bytes(b"")
    with pytest.raises(BundleError, match=r"model\.bin is not the file that was exported"):
        open_deployed(wrong)
