"""Bundles that take raw pixels, beside bundles of the same network that take normalised floats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from inception_deploy.artifact import Golden
from inception_deploy.bench import BenchOptions, bench_bundles
from inception_deploy.bundle import Bundle, load_golden, save_golden
from inception_deploy.cli.main import main
from inception_deploy.compare import compare_bundle
from inception_deploy.dataset import batches, open_dataset
from inception_deploy.engines import ENGINES
from inception_deploy.engines.base import Array
from inception_deploy.errors import DataError, RecipeError
from inception_deploy.images import choose_images
from inception_deploy.pipeline import deploy
from inception_deploy.pixels import fed
from inception_deploy.predict import predict
from inception_deploy.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from inception_deploy.progress import SilentProgress
from inception_deploy.recipe import Layout, PrecisionName, Recipe
from inception_deploy.verify import verify

QUICK: dict[str, Any] = {"data_size": 64, "calibration_size": 32, "seconds": 0.0}
CASES: tuple[tuple[PrecisionName, Layout], ...] = (
    ("fp32", "NCHW"),
    ("fp16", "NHWC"),
    ("int8", "NCHW"),
    ("int8", "NHWC"),
)
each_case = pytest.mark.parametrize(("precision", "layout"), CASES)
each_layout = pytest.mark.parametrize("layout", ["NCHW", "NHWC"])


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, Layout | None], Bundle]:
    """The embedded GoogLeNet in every precision, for floats and for pixels."""
    folder = tmp_path_factory.mktemp("pixels")
    made: dict[tuple[str, Layout | None], Bundle] = {}
    for precision, layout in CASES:
        floats = Recipe(precision=precision, **QUICK)
        if (precision, None) not in made:
            made[precision, None] = deploy(floats, folder / precision)
        recipe = floats.but(input="uint8", layout=layout)
        made[precision, layout] = deploy(recipe, folder / f"{precision}-{layout}")
    return made


def outputs(bundle: Bundle) -> Array:
    """What the deployed graph makes of 64 labelled images."""
    images = choose_images("shapes", bundle.preprocessing, count=64, seed=7, skip_bad=False)
    with ENGINES.get("onnxruntime").session(bundle.model) as session:
        parts = [session.run(fed(batch, bundle.pixel_layout)) for batch in images.batches()]
    return np.concatenate(parts)


@each_case
def test_pixels_give_what_floats_give(
    bundles: dict[tuple[str, Layout | None], Bundle], precision: PrecisionName, layout: Layout
) -> None:
    floats, pixels = bundles[precision, None], bundles[precision, layout]
    want, have = outputs(floats), outputs(pixels)
    spare = 1 if precision == "int8" else 0  # eight bits may turn a near tie
    assert (have.argmax(1) != want.argmax(1)).sum() <= spare
    one, other = (b.read_json("parity.json") for b in (floats, pixels))
    assert other["top1_reference"] == one["top1_reference"] > 85
    assert abs(other["top1_deployed"] - one["top1_deployed"]) <= 100 * spare / 64
    assert other["sqnr_db"] > {"fp32": 110, "fp16": 60, "int8": 25}[precision]
    assert other["golden"]["images"] == 8
    assert not [block for block in other["blocks"] if block["reason"]]


@each_layout
def test_the_bundle_says_what_it_takes(
    bundles: dict[tuple[str, Layout | None], Bundle], layout: Layout
) -> None:
    bundle = bundles["int8", layout]
    shape = ["batch", 3, 96, 96] if layout == "NCHW" else ["batch", 96, 96, 3]
    (taken,) = bundle.manifest["graph"]["inputs"]
    assert taken == {"name": "input", "dtype": "uint8", "shape": shape}
    assert bundle.manifest["reference"]["inputs"][0]["dtype"] == "float32"
    assert bundle.manifest["input"] == {"dtype": "uint8", "layout": layout}
    metadata = {p.key: p.value for p in onnx.load(bundle.model).metadata_props}
    assert json.loads(metadata["inception_deploy.input"]) == {"dtype": "uint8", "layout": layout}
    names = [stage["name"] for stage in bundle.manifest["stages"]]
    assert names[:2] == ["export", "pixels"]
    stage = bundle.manifest["stages"][1]
    assert stage["error"] <= stage["bound"]
    assert stage["applied"]
    assert all(check.ok for check in verify(bundle))
    golden = bundle.golden()
    assert golden.pixels is not None
    assert list(golden.pixels.shape) == [8, *shape[1:]]
    assert golden.feed is golden.pixels
    channels_last = golden.pixels if layout == "NHWC" else np.moveaxis(golden.pixels, 1, -1)
    np.testing.assert_array_equal(bundle.preprocessing.normalise(channels_last), golden.inputs)


def test_the_golden_of_a_float_graph_feeds_floats(tmp_path: Path) -> None:
    inputs = np.ones((2, 3, 4, 4), np.float32)
    given = Golden(inputs, np.ones((2, 5), np.float32), "logits", {}, 0)
    save_golden(tmp_path / "golden.npz", given)
    golden = load_golden(tmp_path / "golden.npz", "logits")
    assert golden.pixels is None
    assert golden.feed is golden.inputs


def test_unpadded_networks_quantise_pixels_without_loss(tmp_path: Path) -> None:
    """The whole normalisation is in the first convolution; its input grid is 0…255 itself."""
    recipe = Recipe("inception_resnet_v2", weights="embedded", precision="int8", input="uint8")
    bundle = deploy(
        recipe.but(layout="NHWC", calibrator="percentile:99.9", **QUICK), tmp_path / "b"
    )
    graph = onnx.load(bundle.model).graph
    assert [node.op_type for node in graph.node[:3]] == ["Cast", "Transpose", "QuantizeLinear"]
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    scale, zero = (constants[name] for name in graph.node[2].input[1:])
    assert (float(scale), int(zero), zero.dtype.name) == (1.0, 0, "uint8")
    assert bundle.read_json("parity.json")["top1_deployed"] > 85


def test_compare_and_bench_feed_every_graph_its_own_kind(
    bundles: dict[tuple[str, Layout | None], Bundle],
) -> None:
    bundle = bundles["fp16", "NHWC"]
    report = compare_bundle(bundle, data_size=16)
    assert report.top1_agreement == 100
    assert report.blocks
    report = compare_bundle(bundle, data_size=16, against="reference.onnx")
    assert report.top1_agreement == 100
    timed = bench_bundles(
        [bundles["fp32", None], bundle],
        BenchOptions(batches=(2,), seconds=0.01, threads=(1,), with_reference=True, thorough=False),
        SilentProgress(),
    )
    assert len(timed.rows) == 4


@pytest.mark.parametrize(("precision", "layout"), CASES[:2])
def test_predict_takes_image_files(
    bundles: dict[tuple[str, Layout | None], Bundle],
    tmp_path: Path,
    precision: PrecisionName,
    layout: Layout,
) -> None:
    floats, pixels = bundles[precision, None], bundles[precision, layout]
    files = []
    for index, sample in enumerate(map(open_dataset("shapes").__getitem__, (3, 700))):
        assert sample.image is not None
        files.append(tmp_path / f"{index}.png")
        sample.image.resize((150, 120), Image.Resampling.BICUBIC).save(files[-1])
    want, have = (
        predict(bundle, files, top=2, skip_bad=False, progress=SilentProgress())
        for bundle in (floats, pixels)
    )
    for one, other in zip(want, have, strict=True):
        assert [c.name for c in one.classes] == [c.name for c in other.classes]
        assert one.classes[0].probability == pytest.approx(other.classes[0].probability, abs=1e-2)


def test_preprocessed_input_has_no_pixels(
    bundles: dict[tuple[str, Layout | None], Bundle], tmp_path: Path
) -> None:
    data = tmp_path / "floats.npz"
    np.savez(data, input=np.zeros((3, 3, 96, 96), np.float32))
    recipe = Recipe(input="uint8", data=str(data), **QUICK)
    with pytest.raises(DataError, match=r"floats.npz.* has no pixels for a uint8 input; give"):
        deploy(recipe, tmp_path / "b")
    assert not (tmp_path / "b").exists()
    with pytest.raises(DataError, match="has no pixels"):
        compare_bundle(bundles["fp32", "NCHW"], data=str(data), against="reference.onnx")


def test_batches_carry_the_pixels_they_were_normalised_from() -> None:
    images = choose_images(
        "shapes",
        Preprocessing(32, 32, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        count=3,
        seed=0,
        skip_bad=False,
    )
    (batch,) = batches(images.dataset, images.preprocessing, 4, indices=images.indices)
    assert batch.pixels is not None
    assert batch.pixels.shape == (3, 32, 32, 3)
    np.testing.assert_array_equal(images.preprocessing.normalise(batch.pixels), batch.inputs)
    assert fed(batch, None) is batch.inputs
    np.testing.assert_array_equal(fed(batch, "NHWC"), batch.pixels)
    assert fed(batch, "NCHW").shape == (3, 3, 32, 32)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layout": "NHWC"}, "layout NHWC is for pixels; ask for input uint8"),
        ({"input": "uint8", "layout": "CHWN"}, "layout must be one of NCHW, NHWC, not 'CHWN'"),
        ({"input": "int8"}, "input must be one of float32, uint8, not 'int8'"),
    ],
)
def test_recipes_refuse_what_makes_no_sense(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.from_dict(fields)


def test_layout_of_a_recipe() -> None:
    assert Recipe().pixel_layout is None
    assert Recipe(input="uint8").pixel_layout == "NCHW"
    assert Recipe(input="uint8", layout="NHWC").pixel_layout == "NHWC"


def test_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        said = capfd.readouterr()
        assert isinstance(stop.value.code, int)
        return stop.value.code, said.out, said.err

    small = ("--weights", "random:0", "--num-classes", "5", "--image-size", "64", "--seconds", "0")
    few = ("--data-size", "8", "--calibration-size", "4", "-q", "--json")
    path, picture = str(tmp_path / "b"), str(tmp_path / "a.png")
    Image.new("RGB", (80, 70), (200, 100, 50)).save(picture)
    code, out, err = run(
        *("export", "googlenet", *small, *few, "--fp16", "-o", path),
        *("--input", "uint8", "--layout", "NHWC"),
    )
    assert code == 0, err
    assert json.loads(out)["input"] == {"dtype": "uint8", "layout": "NHWC"}
    code, out, err = run("predict", path, picture, "--json", "-q")
    assert code == 0, err
    assert len(json.loads(out)) == 1
    code, out, err = run("export", *small, *few, "--layout", "NHWC", "-o", f"{path}2")
    assert code == 2
    assert err.strip().startswith("error: layout NHWC is for pixels")
    assert len(err.strip().splitlines()) == 1
