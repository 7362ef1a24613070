"""The whole way, on the embedded networks: accuracy that is real."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from inception_deploy.bundle import Bundle
from inception_deploy.embedded import EMBEDDED_DIR
from inception_deploy.engines import ENGINES
from inception_deploy.errors import BundleError, StageError
from inception_deploy.pipeline import deploy
from inception_deploy.recipe import Recipe
from inception_deploy.reference import embedded_networks
from inception_deploy.verify import verify

QUICK: dict[str, Any] = {"data_size": 240, "calibration_size": 48, "seconds": 0.0}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """Every embedded network, lowered to FP16."""
    folder = tmp_path_factory.mktemp("embedded")
    return {
        name: deploy(
            Recipe(network=name, weights="embedded", precision="fp16", max_drop=5.0, **QUICK),
            folder / name,
        )
        for name in embedded_networks()
    }


def test_the_embedded_networks_are_accurate_and_stay_so(bundles: dict[str, Bundle]) -> None:
    assert {"googlenet", "inception_resnet_v2"} <= set(bundles)
    for name, bundle in bundles.items():
        parity = bundle.read_json("parity.json")
        recorded = json.loads((EMBEDDED_DIR / f"{name}.json").read_text())["top1"]
        deviation = 100 * math.sqrt(recorded / 100 * (1 - recorded / 100) / QUICK["data_size"])
        assert abs(parity["top1_reference"] - recorded) < 3 * deviation, name
        assert parity["verdict"] == "PASS", (name, parity["verdict_reason"])
        assert parity["sqnr_db"] > 50, name
        clear = parity["data"]["images"] - parity["near_ties"]["images"]
        assert parity["top1_agreement"] >= 100 * clear / parity["data"]["images"], name


def test_every_batch_norm_and_residual_scale_is_folded(bundles: dict[str, Bundle]) -> None:
    for name, bundle in bundles.items():
        stages = {s["name"]: s for s in bundle.manifest["stages"]}
        before = onnx.load(bundle.reference).graph
        after = onnx.load(bundle.model).graph
        norms = sum(n.op_type == "BatchNormalization" for n in before.node)
        assert len(stages["fuse/conv_bn"]["applied"]) == norms > 0, name
        assert not [n.name for n in after.node if n.op_type in ("BatchNormalization", "Mul")], name
        assert not stages["fuse/conv_bn"]["refused"], name
        assert not stages["fuse/residual_scale"]["refused"], name


def test_history_is_a_chain_from_the_exported_graph(bundles: dict[str, Bundle]) -> None:
    for bundle in bundles.values():
        stages = bundle.manifest["stages"]
        assert stages[0]["after"] == bundle.manifest["reference"]["sha256"]
        for earlier, later in itertools.pairwise(stages):
            assert later["before"] == earlier["after"]
        assert stages[-1]["after"] == bundle.manifest["graph"]["sha256"]


def test_any_batch_gives_the_same_answers(bundles: dict[str, Bundle]) -> None:
    for bundle in bundles.values():
        images = bundle.golden().inputs
        with ENGINES.get("onnxruntime").session(bundle.model) as session:
            together = session.run(images)
            alone = np.concatenate([session.run(images[i : i + 1]) for i in range(len(images))])
        np.testing.assert_allclose(together, alone, atol=1e-2 * np.abs(together).max())


def test_exported_bundles_verify(bundles: dict[str, Bundle]) -> None:
    for bundle in bundles.values():
        assert all(check.ok for check in verify(bundle))


def test_a_bound_that_does_not_hold_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph whose classes are rotated is wrong on every image the network had right."""
    from inception_deploy import pipeline

    saved = pipeline._save

    def sabotage(directory: Path, *artifacts: object) -> None:
        saved(directory, *artifacts)  # type: ignore[arg-type]
        model = onnx.load(directory / "model.onnx")
        for tensor in model.graph.initializer:
            if tensor.name in ("fc.weight", "fc.bias"):
                rolled = np.roll(onnx.numpy_helper.to_array(tensor), 1, axis=0)
                tensor.CopyFrom(onnx.numpy_helper.from_array(rolled, tensor.name))
        onnx.save(model, directory / "model.onnx")

    monkeypatch.setattr(pipeline, "_save", sabotage)
    bundle = deploy(Recipe(max_drop=1.0, **QUICK), tmp_path / "bad")
    parity = bundle.read_json("parity.json")
    assert parity["verdict"] == "FAIL"
    assert parity["flips"]["harmful"] > 200


def test_features_have_no_classes(tmp_path: Path) -> None:
    bundle = deploy(Recipe(head="features", precision="fp16", **QUICK), tmp_path / "features")
    parity = bundle.read_json("parity.json")
    assert parity["top1_agreement"] is None
    assert parity["cosine"] > 0.999
    assert bundle.manifest["graph"]["outputs"][0]["name"] == "features"


def test_probabilities_sum_to_one(tmp_path: Path) -> None:
    bundle = deploy(Recipe(head="probabilities", **QUICK), tmp_path / "probabilities")
    with ENGINES.get("onnxruntime").session(bundle.model) as session:
        outputs = session.run(bundle.golden().inputs)
    np.testing.assert_allclose(outputs.sum(axis=1), 1, atol=1e-5)


def test_a_stage_that_breaks_its_promise_leaves_no_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inception_deploy.export.BOUND", 0.0)
    with pytest.raises(StageError, match="export"):
        deploy(Recipe(**QUICK), tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("tamper", "subject"),
    [
        (lambda b: (b / "golden.npz").unlink(), "golden.npz"),
        (lambda b: (b / "extra.bin").write_bytes(b"?"), "extra.bin"),
        (lambda b: (b / "model.onnx").write_bytes(b"not a graph"), "model.onnx: valid ONNX"),
        (lambda b: _edit(b, ["graph", "opset"], 7), "model.onnx: opset"),
        (lambda b: _edit(b, ["preprocessing", "mean"], [0, 0, 0]), "preprocessing in the graph"),
        (lambda b: _edit(b, ["parity", "top1_deployed"], 99.9), "parity figures"),
    ],
    ids=["missing", "foreign", "damaged", "opset", "preprocessing", "figures"],
)
def test_verify_finds_what_was_changed(
    bundles: dict[str, Bundle], tmp_path: Path, tamper: object, subject: str
) -> None:
    path = tmp_path / "copy"
    shutil.copytree(bundles["googlenet"].path, path)
    assert callable(tamper)
    tamper(path)
    failed = [check.subject for check in verify(Bundle.open(path)) if not check.ok]
    assert any(name.startswith(subject) for name in failed), failed


def _edit(bundle: Path, keys: list[str], value: object) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    inner = manifest
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_features_cannot_be_predicted(tmp_path: Path) -> None:
    from inception_deploy.predict import predict
    from inception_deploy.progress import SilentProgress

    bundle = deploy(Recipe(head="features", **QUICK), tmp_path / "features")
    with pytest.raises(BundleError, match="returns features"):
        predict(bundle, [tmp_path], top=1, skip_bad=False, progress=SilentProgress())
