"""Channels made alike: factors, weights, what the graph says of itself, and what may go wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from small_graphs import build, noise, weights_of

from inception_deploy.bundle import Bundle
from inception_deploy.channel_scales import KEY, STEPS, ChannelScales
from inception_deploy.engines import ENGINES
from inception_deploy.equalise import choose_scales, with_scales
from inception_deploy.errors import RecipeError, StageError
from inception_deploy.gate.fidelity import of_graphs, of_pieces
from inception_deploy.graphs import set_metadata
from inception_deploy.locate import locate
from inception_deploy.pipeline import deploy
from inception_deploy.progress import SilentProgress
from inception_deploy.recipe import Recipe

TWO = "a = Conv(input, w, b)\n r = Relu(a)\n output = Conv(r, v)"
SHAPES = {"w": (3, 4, 1, 1), "b": (3,), "v": (2, 3, 1, 1)}


def exponents(*octaves: float) -> NDArray[np.uint8]:
    return np.array([STEPS * octave for octave in octaves], np.uint8)


def run(model: onnx.ModelProto, images: NDArray[np.float32]) -> NDArray[np.float32]:
    with ENGINES.get("onnxruntime").session(model.SerializeToString(), optimise=False) as session:
        return session.run(images)


# factors


def test_factors_go_half_of_the_way_to_the_widest_channel() -> None:
    scales = choose_scales(build(TWO, SHAPES), {"r": np.array([8.0, 2.0, 0.5])})
    for tensor in ("a", "r"):
        factors = scales.factors(tensor)
        assert factors is not None
        assert factors.tolist() == [1.0, 2.0, 4.0]
    assert scales.factors("output") is None


def test_a_channel_without_values_stays_and_one_with_hardly_any_gets_sixteen() -> None:
    scales = choose_scales(build(TWO, SHAPES), {"r": np.array([8.0, 0.0, 1e-9])})
    factors = scales.factors("r")
    assert factors is not None
    assert factors.tolist() == [1.0, 1.0, 16.0]


def test_summed_tensors_share_the_factors_that_the_wider_needs() -> None:
    body = "a = Conv(input, w, b)\n d = Conv(input, u)\n s = Add(a, d)\n output = Conv(s, v)"
    model = build(body, {**SHAPES, "u": (3, 4, 1, 1)})
    widest = {"a": np.array([4.0, 1.0, 1.0]), "d": np.array([1.0, 4.0, 1.0])}
    scales = choose_scales(model, {**widest, "s": np.array([4.0, 4.0, 1.0])})
    found = [scales.factors(name) for name in ("a", "d", "s")]
    assert all(f is not None and f.tolist() == [1.0, 1.0, 2.0] for f in found)


def test_nothing_is_scaled_where_nothing_is_free() -> None:
    model = build("output = Conv(input, w, b)", SHAPES)
    scales = choose_scales(model, {"output": np.array([8.0, 1.0, 1.0])})
    assert not scales
    assert with_scales(model, scales) is model


# weights


def test_weights_and_biases_take_factors_in_and_out() -> None:
    model = build(TWO, SHAPES)
    given = weights_of(model)
    scaled = with_scales(model, ChannelScales(dict.fromkeys(("a", "r"), exponents(0, 1, 2))))
    found = weights_of(scaled)
    each = np.array([1, 2, 4], np.float32)
    assert np.array_equal(found["w"], given["w"] * each[:, None, None, None])
    assert np.array_equal(found["b"], given["b"] * each)
    assert np.array_equal(found["v"], given["v"] / each[None, :, None, None])
    assert np.array_equal(run(scaled, noise(model)), run(model, noise(model)))


def test_groups_of_a_convolution_read_their_own_channels() -> None:
    body = "a = Conv(input, w)\n d = Conv<group = 2>(a, g)\n output = Conv(d, v)"
    model = build(body, {"w": (6, 4, 1, 1), "g": (4, 3, 1, 1), "v": (2, 4, 1, 1)})
    scales = ChannelScales({"a": exponents(0, 1, 2, 3, 1, 0), "d": exponents(2, 0, 1, 1)})
    scaled = with_scales(model, scales)
    assert np.array_equal(run(scaled, noise(model)), run(model, noise(model)))
    assert not np.array_equal(weights_of(scaled)["g"], weights_of(model)["g"])


@pytest.mark.parametrize(("turned", "shape"), [(1, (5, 3)), (0, (3, 5))])
def test_a_linear_layer_takes_factors_out(turned: int, shape: tuple[int, int]) -> None:
    body = (
        "a = Conv(input, w, b)\n p = GlobalAveragePool(a)\n f = Flatten(p)\n"
        f"output = Gemm<transB = {turned}>(f, g)"
    )
    model = build(body, {**SHAPES, "g": shape})
    factors = exponents(0, 1, 2)
    scaled = with_scales(model, ChannelScales(dict.fromkeys("apf", factors)))
    assert np.array_equal(run(scaled, noise(model)), run(model, noise(model)))


def test_weights_that_two_layers_share_are_parted() -> None:
    body = "a = Conv(input, w, b)\n d = Conv(input, w, b)\n e = Conv(a, v)\n h = Conv(d, v)\n"
    body += "output = Add(e, h)"
    model = build(body, SHAPES)
    scaled = with_scales(model, ChannelScales({"a": exponents(0, 1, 2)}))
    assert np.array_equal(run(scaled, noise(model)), run(model, noise(model)))


def test_weights_beyond_float32_are_refused() -> None:
    model = build(TWO, {**SHAPES, "w": np.full((3, 4, 1, 1), 3e38, np.float32)})
    with pytest.raises(StageError, match=r"'w' of 'node\.a' leaves float32's range"):
        with_scales(model, ChannelScales(dict.fromkeys("ar", exponents(0, 1, 2))))


@pytest.mark.parametrize(
    ("scales", "said"),
    [
        ({"a": (0, 1), "r": (0, 1)}, "'a' has 3 channels, but 2 factors"),
        ({"a": (0, 1, 2)}, "'r' has another factor than what it is computed from"),
        ({"output": (0, 1)}, "'output' has another factor"),
        ({"b4": (0, 1)}, "there is no tensor 'b4' to scale"),
    ],
)
def test_factors_that_cannot_be_taken_out_are_refused(
    scales: dict[str, tuple[int, ...]], said: str
) -> None:
    asked = ChannelScales({name: exponents(*octaves) for name, octaves in scales.items()})
    with pytest.raises(StageError, match=said):
        with_scales(build(TWO, SHAPES), asked)


# what the graph says


def test_the_metadata_holds_every_factor_and_equal_ones_once() -> None:
    scales = ChannelScales({"a": exponents(0, 1, 2), "r": exponents(0, 1, 2), "z": exponents(3)})
    model = build(TWO, SHAPES)
    set_metadata(model, {"inception_deploy.network": "googlenet"})
    scales.write(model)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    assert set(entries) == {KEY, "inception_deploy.network"}
    assert len(json.loads(entries[KEY])["vectors"]) == 2
    again = ChannelScales.of(onnx.load_from_string(model.SerializeToString()))
    assert {name: k.tolist() for name, k in again.exponents.items()} == {
        name: k.tolist() for name, k in scales.exponents.items()
    }
    assert not ChannelScales.of(build(TWO, SHAPES))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"steps": 8}',
        '{"steps": 4, "vectors": [], "tensors": {}}',
        '{"steps": 8, "vectors": ["!"], "tensors": {"a": 0}}',
        '{"steps": 8, "vectors": [], "tensors": {"a": 0}}',
        '{"steps": 8, "vectors": ["AAgQ"], "tensors": ["a"]}',
    ],
)
def test_metadata_that_makes_no_sense_is_named(text: str) -> None:
    model = build(TWO, SHAPES)
    set_metadata(model, {KEY: text})
    with pytest.raises(StageError, match="channel_scales' cannot be read"):
        ChannelScales.of(model)


def test_values_are_the_networks_again_in_any_rank() -> None:
    scales = ChannelScales({"a": exponents(0, 1, 2)})
    values = np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2)
    each = np.array([1, 2, 4], np.float32)
    assert np.array_equal(scales.restored("a", values * each[:, None, None]), values)
    assert np.array_equal(scales.restored("a", values[:, :, 0, 0] * each), values[:, :, 0, 0])
    assert scales.restored("other", values) is values
    with pytest.raises(StageError, match="metadata scales 3 channels"):
        scales.restored("a", values[:, :2])


# the whole way


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Bundle]:
    """The trained Inception-ResNet v2 as it is, and with its channels made alike."""
    folder = tmp_path_factory.mktemp("equalised")
    recipe = Recipe(
        network="inception_resnet_v2",
        weights="embedded",
        precision="int8",
        data_size=512,
        seconds=0.0,
    )
    return {
        asked: deploy(recipe.but(equalise=asked), folder / str(asked)) for asked in (False, True)
    }


def sqnr_of_blocks(bundle: Bundle) -> dict[str, float]:
    report = bundle.read_json("parity.json")
    return {block["name"]: block["sqnr_db"] for block in report["blocks"]}


def test_every_block_but_the_last_gains(bundles: dict[bool, Bundle]) -> None:
    """Blocks are compared in the network's own values: scaled ones would have no SQNR at all."""
    plain, alike = (sqnr_of_blocks(bundles[asked]) for asked in (False, True))
    assert plain.keys() == alike.keys()
    gains = [alike[name] - plain[name] for name in plain]
    assert np.mean(gains) > 0.8
    assert min(gains[:-1]) > 0
    before, after = (bundles[a].read_json("parity.json")["sqnr_db"] for a in (False, True))
    assert after > before + 0.5


def test_the_manifest_names_the_stage_and_its_error(bundles: dict[bool, Bundle]) -> None:
    names = [stage["name"] for stage in bundles[True].manifest["stages"]]
    assert names[-2:] == ["equalise", "lower/int8"]
    stage = bundles[True].manifest["stages"][-2]
    assert 0 < stage["error"] < 1e-5
    assert stage["facts"]["largest_factor"] > 4
    assert {applied["detail"] for applied in stage["applied"]} == {"Conv", "Gemm"}
    assert len(stage["applied"]) > 50
    assert "equalise" not in [s["name"] for s in bundles[False].manifest["stages"]]


def test_locate_and_gate_find_nothing(bundles: dict[bool, Bundle]) -> None:
    report = locate(bundles[True])
    assert not report.findings
    lowered = [row for row in report.rows if row.stage == "lower/int8"]
    assert len(lowered) > 100
    progress = SilentProgress()
    checks = [*of_graphs(bundles[True], None, progress)]
    checks += of_pieces(bundles[True], None, report, progress)
    assert {check.outcome for check in checks} == {"PASS"}


def resealed(bundle: Bundle, folder: Path, model: onnx.ModelProto) -> Bundle:
    """A copy of `bundle` with another graph, hashes and all."""
    shutil.copytree(bundle.path, folder)
    onnx.save(model, folder / "model.onnx")
    return Bundle.seal(folder, dict(bundle.manifest))


def test_a_scale_that_is_wrong_is_located(bundles: dict[bool, Bundle], tmp_path: Path) -> None:
    model = onnx.load(bundles[True].model)
    node = next(n for n in model.graph.node if n.name == "repeat_1.0.branch0.conv")
    scale = f"{node.input[1].rpartition(':')[0]}:scale"
    names = {tensor.name: tensor for tensor in model.graph.initializer}
    assert scale in names, sorted(n for n in names if "repeat_1.0.branch0" in n)
    values = onnx.numpy_helper.to_array(names[scale]).copy()
    values[3] *= 1.5
    names[scale].CopyFrom(onnx.numpy_helper.from_array(values, scale))
    report = locate(resealed(bundles[True], tmp_path / "b", model))
    assert report.first is not None
    assert report.first.place.module == "repeat_1.0.branch0"


@pytest.mark.parametrize("text", ["nothing", None])
def test_metadata_that_lies_is_found(
    text: str | None, bundles: dict[bool, Bundle], tmp_path: Path
) -> None:
    model = onnx.load(bundles[True].model)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    del entries[KEY]
    set_metadata(model, entries if text is None else {**entries, KEY: text})
    report = locate(resealed(bundles[True], tmp_path / "b", model))
    assert report.first is not None
    assert report.first.stage == "lower/int8"


def test_it_is_for_int8_only() -> None:
    with pytest.raises(RecipeError, match="equalise is for an INT8 graph; ask for precision int8"):
        Recipe(precision="fp16", equalise=True)
