"""A bundle for TensorRT-RTX made without a GPU: an engine that was built, and says it never ran."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from damage import assert_not_opened_when_changed

from inception_deploy.bundle import Bundle
from inception_deploy.cli.main import main
from inception_deploy.deployed import open_deployed, runner
from inception_deploy.engines._trt_cache import VARIABLE
from inception_deploy.engines._trt_library import driver_problem
from inception_deploy.locate import locate
from inception_deploy.pipeline import deploy
from inception_deploy.recipe import BatchProfile, BuildOptions, Recipe
from inception_deploy.verify import verify

pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-rtx is not installed")
pytestmark = pytest.mark.skipif(
    driver_problem() is None, reason="this machine has an NVIDIA GPU: tests/device looks at it"
)


def exit_code(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return int(caught.value.code or 0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("rtx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(folder / "cache"))
        recipe = Recipe(
            precision="int8",
            target="tensorrt-rtx",
            batch=BatchProfile(1, 4, 16),
            build=BuildOptions(sm=(89, 120), profiles=(BatchProfile(32, 32, 64),)),
            data_size=32,
            calibration_size=32,
        )
        return deploy(recipe, folder / "bundle")


def test_the_manifest_says_what_was_built_and_that_it_did_not_run(bundle: Bundle) -> None:
    facts = bundle.manifest["engine"]
    assert facts["file"] == "model.engine"
    assert facts["sm"] == [89, 120]
    assert facts["batches"] == ["1:4:16", "32:32:64"]
    assert "no NVIDIA driver" in facts["not_executed"]
    assert facts["kernels"] > 50
    assert all(check.ok for check in verify(bundle))
    parity = bundle.read_json("parity.json")
    assert parity["candidate"] == "onnxruntime, as written"
    assert parity["sqnr_db"] > 25
    assert bundle.read_json("throughput.json") is None


def test_every_node_that_was_asked_was_built_in_int8(bundle: Bundle) -> None:
    lowered = next(s for s in bundle.manifest["stages"] if s["name"] == "lower/int8")
    asked = {a["node"] for a in lowered["applied"] if a["rewrite"] == "int8"}
    assert len(asked) == 54
    assert {bundle.manifest["executed"].get(node) for node in asked} == {"int8"}
    narrow = [r for r in lowered["refused"] if "channels; below 16" in r["reason"]]
    assert len(narrow) == 17  # of the embedded network, which has two fifths of the width


def test_every_error_of_the_graph_is_explained_by_rounding(bundle: Bundle) -> None:
    """Also of tensors that are stored moved, each compared as what it means."""
    moved = next(s for s in bundle.manifest["stages"] if s["name"] == "lower/int8")
    assert moved["facts"]["moved_tensors"] == 10  # the block inputs, and the first stem
    report = locate(bundle)
    assert report.findings == ()
    compared = {row.place.tensor for row in report.rows if row.stage == "lower/int8"}
    assert {"conv1", "inception3a", "inception4e", "inception5b"} <= compared


def test_the_report_says_so(bundle: Bundle) -> None:
    page = (bundle.path / "report.html").read_text(encoding="utf-8")
    assert "not executed" in page.lower()


def test_a_recipe_that_was_recorded_is_the_one_that_was_asked(bundle: Bundle) -> None:
    recipe = Recipe.from_dict(dict(bundle.manifest["recipe"]))
    assert recipe.build == BuildOptions(sm=(89, 120), profiles=(BatchProfile(32, 32, 64),))


def test_a_stand_in_runs_it_and_is_named(bundle: Bundle) -> None:
    assert runner("tensorrt-rtx").name == "onnxruntime, as written"
    assert runner("onnxruntime").name == "onnxruntime"
    with open_deployed(bundle) as session:
        assert session.run(bundle.golden().inputs[:2]).shape[0] == 2


def test_a_changed_engine_is_not_opened(bundle: Bundle) -> None:
    assert_not_opened_when_changed(bundle, "model.engine")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--target", "tensorrt-rtx"], 2, "--sm 89"),
        (["--target", "tensorrt-rtx", "--sm", "90"], 2, "75, 80, 86, 89, 120, 121, not 90"),
        (["--target", "tensorrt-rtx", "--sm", "ada"], 2, "--sm needs numbers"),
        (["--target", "tensorrt-rtx", "--sm", "89,89"], 2, "names 89 twice"),
        (
            ["--target", "tensorrt-rtx", "--sm", "86", "--fp8"],
            2,
            "FP8 needs compute capability 8.9",
        ),
        (
            ["--target", "tensorrt-rtx", "--sm", "75", "--bf16"],
            2,
            "BF16 needs compute capability 8",
        ),
        (["--target", "tensorrt-rtx", "--sm", "89", "--timing-cache", "t"], 2, "leave out"),
        (["--target", "tensorrt-rtx", "--sm", "89", "--profile", "8:1"], 2, "MIN:OPT:MAX"),
        (["--target", "tensorrt", "--sm", "89"], 2, "--sm is for --target tensorrt-rtx"),
        (["--sm", "89"], 2, "sm is for tensorrt and tensorrt-rtx"),
        (["--fp8"], 2, "fp8 is for tensorrt and tensorrt-rtx"),
        (["--builder-level", "9", "--target", "tensorrt-rtx"], 2, "0<=x<=5"),
        (["--target", "tensorrt"], 3, "pip install tensorrt"),
    ],
)
def test_bad_requests(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_code(["export", *arguments, "-o", str(tmp_path / "bundle")]) == code
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_other_precisions_from_the_command_line(
    precision: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    options = ["--target", "tensorrt-rtx", "--sm", "89,120", "--data-size", "16", "--json"]
    options += ["--calibration-size", "16", f"--{precision}", "-o", str(tmp_path / "bundle")]
    assert exit_code(["export", *options]) == 0
    manifest = json.loads(capsys.readouterr().out)
    ran = "fp8" if precision == "fp8" else "bfloat16"
    assert list(manifest["executed"].values()).count(ran) > 30
    assert manifest["parity"]["sqnr_db"] > 15
