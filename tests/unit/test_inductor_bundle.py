"""A bundle with a package of PyTorch's compiler: made, opened, timed, and refused when changed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import assert_not_opened_when_changed
from torch import Tensor, nn

from inception_deploy.bench import BenchOptions, bench_bundles
from inception_deploy.bundle import Bundle
from inception_deploy.cli.main import main
from inception_deploy.engines import ENGINES
from inception_deploy.pipeline import deploy
from inception_deploy.progress import SilentProgress
from inception_deploy.recipe import BatchProfile, Recipe
from inception_deploy.verify import verify

AVAILABLE = ENGINES.get("torch-inductor").availability()
pytestmark = pytest.mark.skipif(AVAILABLE.remedy is not None, reason=AVAILABLE.detail)


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        conv = nn.Conv2d(3, 16, 3, stride=2, bias=False)
        self.stem = nn.Sequential(conv, nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Linear(16, 24)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.head(self.stem(images).mean((2, 3)))
        return found


def exit_code(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return int(caught.value.code or 0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A module of the user's own that takes pixels, which has few kernels to compile."""
    recipe = Recipe(
        target="torch-inductor",
        precision="bf16",
        input="uint8",
        layout="NHWC",
        batch=BatchProfile(1, 2, 4),
        image_size=32,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        data="shapes",
        data_size=16,
        seconds=0.1,
    )
    path = tmp_path_factory.mktemp("inductor") / "bundle"
    return deploy(recipe, path, module=Classifier().eval())


def test_the_manifest_says_what_was_compiled_for_what(bundle: Bundle) -> None:
    facts = bundle.manifest["engine"]
    assert facts["file"] == "model.pt2"
    assert facts["sha256"] == bundle.manifest["files"]["model.pt2"]
    assert facts["version"] == torch.__version__
    assert facts["batches"] == ["1:2:4"]
    assert facts["precision"] == "bf16"
    assert all(check.ok for check in verify(bundle))


def test_parity_is_the_packages(bundle: Bundle) -> None:
    parity = bundle.read_json("parity.json")
    assert parity["candidate"] == "torch-inductor"
    assert 35 < parity["sqnr_db"] < 70
    timed = bundle.read_json("throughput.json")
    assert {row["engine"] for row in timed["rows"]} == {"pytorch", "torch-inductor"}


def test_the_blocks_are_those_of_the_graph(bundle: Bundle) -> None:
    blocks = {block["name"]: block for block in bundle.read_json("parity.json")["blocks"]}
    assert blocks["stem"]["sqnr_db"] > 35


def test_bench_runs_it_beside_the_plain_export(bundle: Bundle) -> None:
    options = BenchOptions(
        batches=(2,), seconds=0.1, with_pytorch=False, with_reference=True, thorough=False
    )
    report = bench_bundles([bundle], options, SilentProgress())
    assert {(r.engine, r.graph) for r in report.rows} == {
        ("onnxruntime", "reference.onnx"),
        ("torch-inductor", "model.onnx"),
    }


def test_predict_takes_it(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    Image.fromarray(np.full((40, 40, 3), 90, np.uint8)).save(tmp_path / "a.png")
    assert exit_code(["predict", str(bundle.path), str(tmp_path / "a.png"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_a_changed_package_is_not_opened(bundle: Bundle) -> None:
    assert_not_opened_when_changed(bundle, "model.pt2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--int8"], "int8 is for onnxruntime"),
        (["--onnx", "a.onnx"], "an ONNX file holds none"),
        (["--builder-level", "3", "--stripped"], "leave it out for torch-inductor"),
    ],
)
def test_bad_requests(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--target", "torch-inductor", *arguments, "-o", str(tmp_path / "bundle")]
    assert exit_code(["export", *options]) == 2
    assert message in capsys.readouterr().err


def test_without_a_compiler_nothing_is_begun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    options = ["--target", "torch-inductor", "-o", str(tmp_path / "bundle")]
    assert exit_code(["export", *options]) == 3
    assert "apt-get install g++" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()
