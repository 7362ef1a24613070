"""Locate: a fault shows where it is and nowhere else, and rounding shows nowhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from benchmarks.faults import FAULTS, Planted
from benchmarks.faults.base import edited
from benchmarks.gardens import Garden, plant
from benchmarks.subjects import Subject
from inception_deploy.bundle import Bundle
from inception_deploy.cli.main import main
from inception_deploy.engines.onnxruntime import OnnxRuntime
from inception_deploy.errors import BadInput
from inception_deploy.locate import LocateReport, Place, locate
from inception_deploy.locate import walk as walking
from inception_deploy.locate.allowance import FLOAT32, allowance, cut_off, weights_explain
from inception_deploy.locate.anatomy import Anatomy, Grid
from inception_deploy.locate.cutting import CutGraph, shared_tensors
from inception_deploy.locate.truth import GraphTruth
from inception_deploy.locate.walk import Deviation, walk
from inception_deploy.recipe import PrecisionName


@pytest.fixture(scope="module")
def gardens(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Garden]:
    """A small GoogLeNet with a fitted classifier, in every precision."""
    subject = Subject("googlenet", tmp_path_factory.mktemp("subjects"))
    precisions: tuple[PrecisionName, ...] = ("fp32", "fp16", "int8")
    return {precision: Garden(subject, precision) for precision in precisions}


def planted(garden: Garden, fault: str, seed: int, folder: Path) -> tuple[Bundle, tuple[str, ...]]:
    """The bundle with a fault, and the names of the nodes that it is in."""
    found = FAULTS.get(fault).plant(garden.site, np.random.default_rng(seed))
    assert found is not None
    bundle, _ = plant(garden, found, seed, folder / "bundle")
    return bundle, found.nodes


def located(garden: Garden, bundle: Bundle) -> LocateReport:
    return locate(bundle, reference=garden.reference)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_correct_bundle_has_nothing_to_find(gardens: dict[str, Garden], precision: str) -> None:
    garden = gardens[precision]
    report = locate(garden.bundle)
    assert report.findings == ()
    assert [t.stage for t in report.transitions] == [
        *("preprocessing", "export", "labels", "fuse", f"lower/{precision}", "engine")
    ]
    assert not [t for t in report.transitions if t.skipped]
    assert {r.stage for r in report.rows} == {"export", "fuse", f"lower/{precision}"}
    assert not any(row.jumps for row in report.rows)


def test_a_fault_of_the_export_is_found_there_and_at_its_node_alone(
    gardens: dict[str, Garden], tmp_path: Path
) -> None:
    bundle, nodes = planted(gardens["fp32"], "relu_dropped", 0, tmp_path)
    report = located(gardens["fp32"], bundle)
    first = report.first
    assert first is not None
    assert (first.stage, first.place.tensor) == ("export", _output(gardens["fp32"], nodes[0]))
    assert len(report.findings) == 1
    assert "a ReLU is missing" in first.causes
    # the network behind it is wrong too, and is not blamed
    last = [row for row in report.rows if row.stage == "export"][-1]
    assert last.depth is not None
    assert last.depth > 100 * FLOAT32
    assert last.own is not None
    assert last.own <= last.allowed


def _output(garden: Garden, node: str) -> str:
    return next(str(n.output[0]) for n in garden.exported.graph.node if n.name == node)


@pytest.mark.parametrize(
    ("precision", "fault", "cause"),
    [
        ("fp16", "concat_swapped", "swapped concat branches"),
        ("int8", "concat_swapped", "another order"),
        ("int8", "range_clipped", "clipped range"),
        ("int8", "scale_mismatch", "scale mismatch"),
        ("int8", "weight_scale", "wrong weights"),
        ("fp16", "fp16_overflow", "FP16 overflow"),
        ("fp32", "nan_weight", "NaN"),
        ("fp16", "kernel_flipped", "wrong weights"),
    ],
)
def test_faults_of_the_deployed_graph_and_their_causes(
    gardens: dict[str, Garden], tmp_path: Path, precision: str, fault: str, cause: str
) -> None:
    garden = gardens[precision]
    bundle, nodes = planted(garden, fault, 1, tmp_path)
    first = located(garden, bundle).first
    assert first is not None
    assert first.stage == f"lower/{precision}"
    assert first.place.block in {Place.of(node, "", garden.blocks).block for node in nodes}
    assert any(cause in said for said in first.causes), first.causes


def test_an_overflow_says_what_the_node_was_given(
    gardens: dict[str, Garden], tmp_path: Path
) -> None:
    bundle, _ = planted(gardens["fp16"], "fp16_overflow", 1, tmp_path)
    report = located(gardens["fp16"], bundle)
    assert report.first is not None
    assert report.first.kind == "nonfinite"
    assert "given" in report.first.said
    assert "65504" in report.first.causes[0]
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["findings"]


def test_preprocessing_is_told_from_its_inputs(gardens: dict[str, Garden], tmp_path: Path) -> None:
    bundle, _ = planted(gardens["fp32"], "rgb_bgr", 1, tmp_path)
    first = located(gardens["fp32"], bundle).first
    assert first is not None
    assert first.stage == "preprocessing"
    assert "channels in RGB order" in first.causes


def test_preprocessing_that_everything_agrees_on_but_the_network(
    gardens: dict[str, Garden], tmp_path: Path
) -> None:
    """Manifest, graphs and golden made by the same wrong preprocessing (seed 0)."""
    garden = gardens["fp32"]
    bundle, _ = planted(garden, "rgb_bgr", 0, tmp_path)
    assert not np.array_equal(bundle.golden().inputs, garden.bundle.golden().inputs)
    first = located(garden, bundle).first
    assert first is not None
    assert (first.stage, first.place.block) == ("preprocessing", "input")
    assert first.causes == ("channel_order is BGR, the network's RGB",)


@pytest.mark.parametrize(
    ("precision", "seed", "stage"), [("fp32", 0, "export"), ("int8", 2, "lower/int8")]
)
def test_a_ceiling_that_no_image_reaches_is_one_all_the_same(
    gardens: dict[str, Garden], tmp_path: Path, precision: str, seed: int, stage: str
) -> None:
    garden = gardens[precision]
    edit = edited(garden.exported)
    node = next(edit.of_kind("Relu"))
    node.CopyFrom(
        helper.make_node("Clip", [*node.input, "zero", "high"], list(node.output), name=node.name)
    )
    limits = {"zero": 0.0, "high": 1e3}
    edit.model.graph.initializer.extend(
        numpy_helper.from_array(np.array(v, np.float32), k) for k, v in limits.items()
    )
    fault = Planted((str(node.name),), "a ceiling", reference=edit.done())
    bundle, _ = plant(garden, fault, seed, tmp_path / "bundle")
    first = located(garden, bundle).first
    assert first is not None
    assert (first.stage, first.place.node, first.measured) == (stage, node.name, None)
    assert "other images than these may reach" in first.said


def test_labels_off_by_one(gardens: dict[str, Garden], tmp_path: Path) -> None:
    garden = gardens["fp32"]
    fault = FAULTS.get("labels_off_by_one").plant(garden.site, np.random.default_rng(0))
    assert fault is not None
    bundle, data = plant(garden, fault, 0, tmp_path / "bundle")
    report = locate(bundle, data=data, reference=garden.reference)
    assert report.first is not None
    assert report.first.stage == "labels"
    assert "off by one" in report.first.causes[0]


def test_another_number_of_classes_is_a_shape(gardens: dict[str, Garden], tmp_path: Path) -> None:
    bundle, nodes = planted(gardens["fp32"], "background_row_kept", 0, tmp_path)
    first = located(gardens["fp32"], bundle).first
    assert first is not None
    assert (first.kind, first.place.node) == ("shape", nodes[0])


def test_without_weights_the_golden_takes_their_place(
    gardens: dict[str, Garden], tmp_path: Path
) -> None:
    path = tmp_path / "bundle"
    shutil.copytree(gardens["fp32"].bundle.path, path)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["recipe"]["weights"] = str(tmp_path / "gone.safetensors")
    report = locate(Bundle.seal(path, manifest))
    export = next(t for t in report.transitions if t.stage == "export")
    assert export.between == "golden → reference.onnx"
    assert export.tensors == 1
    assert report.findings == ()


def test_few_tensors_at_a_time(gardens: dict[str, Garden], monkeypatch: pytest.MonkeyPatch) -> None:
    """No session puts out more than it may, and values do not pile up."""
    counted: list[int] = []
    session = OnnxRuntime.session

    def counting(self: OnnxRuntime, model: Any, **options: Any) -> Any:
        if isinstance(model, bytes):
            counted.append(len(onnx.load_from_string(model).graph.output))
        return session(self, model, **options)

    monkeypatch.setattr(OnnxRuntime, "session", counting)
    monkeypatch.setattr(walking, "TENSORS_AT_ONCE", 5)
    graph = gardens["fp32"].exported
    images = gardens["fp32"].inputs[:2]
    before, after = CutGraph(graph, "before"), CutGraph(graph, "after")
    steps = walk(GraphTruth(before, images), after, images)
    held = [_held(steps.gi_frame.f_locals) for _ in steps]  # type: ignore[attr-defined]
    assert len(held) == len(shared_tensors(before, after)) > 100
    assert max(counted) == 5
    # what is still to be read, and the tensors of one turn: far from all of them
    assert max(held) < 20


def _held(variables: dict[str, Any]) -> int:
    return len(variables["want"])


def test_a_piece_is_given_what_was_there_before() -> None:
    """y = 2(x + 1), where the first node is off: the second adds no error of its own."""
    right, wrong = _two_nodes(1.0), _two_nodes(1.5)
    images = np.ones((1, 3), np.float32)
    truth = GraphTruth(CutGraph(right, "right"), images)
    first, second = walk(truth, CutGraph(wrong, "wrong"), images)
    assert Deviation.of(first.own, first.want).largest == pytest.approx(0.25)
    assert Deviation.of(second.own, second.want).largest == 0.0
    assert Deviation.of(second.have, second.want).largest == pytest.approx(0.25)


def _two_nodes(shift: float) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["input", "shift"], ["sum"], name="first"),
            helper.make_node("Mul", ["sum", "two"], ["out"], name="second"),
        ],
        "two",
        [value("input", onnx.TensorProto.FLOAT, ["batch", 3])],
        [value("out", onnx.TensorProto.FLOAT, ["batch", 3])],
        [
            numpy_helper.from_array(np.array([shift], np.float32), "shift"),
            numpy_helper.from_array(np.array([2.0], np.float32), "two"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_deviations_are_relative_to_what_was_expected() -> None:
    want = np.array([[4.0, 0.0]], np.float32)
    assert Deviation.of(want * 1.5, want).largest == 0.5
    assert Deviation.of(want, np.zeros_like(want)).largest == np.inf
    assert Deviation.of(np.zeros_like(want), np.zeros_like(want)).largest == 0.0
    assert not Deviation.of(np.array([[np.nan, 0.0]], np.float32), want).finite


def test_allowances_follow_the_roundings_of_a_piece() -> None:
    conv = helper.make_node("Conv", ["x", "w"], ["y"])
    there = helper.make_node("QuantizeLinear", ["y", "s"], ["q"])
    back = helper.make_node("DequantizeLinear", ["q", "s"], ["z"])
    plain = allowance([conv], 0.0, 8 / 255).largest
    integer = allowance([conv, there, back], 0.0, 8 / 255).largest
    assert plain == FLOAT32
    assert integer == pytest.approx(FLOAT32 + 8 / 255 * np.sqrt(2))
    assert (
        allowance([there, back], 0.5, 8 / 255).largest == 1.0
    )  # a grid shared with a wider tensor


def test_what_a_grid_cuts_off_is_told_from_its_rounding() -> None:
    want = np.linspace(0, 10, 1001, dtype=np.float32).reshape(1, -1)
    grid = Grid(5 / 255, 0.0, 5.0)
    own = np.clip(want, 0, 5)
    cut = cut_off(want, own, grid)
    assert cut.share == pytest.approx(0.5, abs=0.01)
    assert cut.inside < 1e-2
    assert cut.cost > 10
    whole = cut_off(want, want, Grid(10 / 255, 0.0, 10.0))
    assert (whole.share, whole.cost) == (0.0, 0.0)


def test_weights_are_read_as_the_floats_they_stand_for(gardens: dict[str, Garden]) -> None:
    plain = Anatomy(gardens["fp32"].deployed)
    for precision in ("fp16", "int8"):
        low = Anatomy(gardens[precision].deployed)
        name = next(n.name for n in plain.model.graph.node if n.op_type == "Conv")
        exact, rounded = plain.weights(plain.nodes[name])[1], low.weights(low.nodes[name])[1]
        error = np.abs(exact.values.astype(np.float64) - rounded.values)
        assert (error <= rounded.unit + rounded.reach).all()
        assert error.max() > 0


def test_products_of_integers_are_the_convolutions_that_they_were(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """InceptionNeXt's fc1: two roundings, of the input and of the weights; each weight is known."""
    garden = Garden(Subject("inception_next_atto", tmp_path_factory.mktemp("next")), "int8")
    assert locate(garden.bundle, reference=garden.reference).findings == ()
    edit = edited(garden.deployed)
    product = next(edit.of_kind("MatMulInteger"))
    columns = edit.constant(product.input[1])
    assert columns is not None
    # where products cancel, as in any convolution: eight standard deviations of x·u/√3
    anatomy = Anatomy(garden.deployed)
    unit = anatomy.weights(product)[1].unit
    given = np.ones((1, columns.shape[0], 1, 1), np.float32)
    expected = 8 * np.sqrt((np.square(unit) / 3).sum(axis=1).max())
    assert weights_explain(product, anatomy, given) == pytest.approx(expected)
    columns[:, 2] //= 2
    edit.own_constant(product, 1, columns)
    fault = Planted((str(product.name),), "a channel", lowered=edit.done())
    bundle, _ = plant(garden, fault, 2, tmp_path / "bundle")
    first = located(garden, bundle).first
    assert first is not None
    assert first.place.node.startswith(product.name)
    assert first.causes[0].startswith("wrong weights: channel 2 of")


def test_a_place_is_the_innermost_block() -> None:
    blocks = ("Mixed_6c", "features")
    place = Place.of("Mixed_6c.branch7x7dbl_3.conv", "t", blocks)
    assert (place.block, place.module) == ("Mixed_6c", "Mixed_6c.branch7x7dbl_3")
    assert Place.of("fc", "logits", blocks).block == "fc"
    assert Place.of("last.linear", "t", blocks).block == "last"


def test_a_report_can_be_read_back(gardens: dict[str, Garden], tmp_path: Path) -> None:
    bundle, _ = planted(gardens["int8"], "zero_point", 2, tmp_path)
    report = located(gardens["int8"], bundle)
    text = json.dumps(report.to_dict(), allow_nan=False)
    assert LocateReport.from_dict(json.loads(text)).findings == report.findings


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    assert isinstance(stop.value.code, int)
    return stop.value.code


def test_command(
    gardens: dict[str, Garden], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean = gardens["fp32"].bundle.path
    assert run("locate", clean, "-q") == 0
    assert "nothing found" in capsys.readouterr().out
    bundle, nodes = planted(gardens["fp32"], "bn_beta_zero", 0, tmp_path)
    page = tmp_path / "page.html"
    assert run("locate", bundle.path, "-q", "--report", page, "--write") == 1
    printed = capsys.readouterr().out
    assert nodes[0] in printed
    assert "PyTorch" in printed or "bias" in printed
    assert "<svg" in page.read_text()
    assert nodes[0] in page.read_text()
    assert "<script" not in page.read_text()
    kept = Bundle.open(bundle.path).read_json("locate.json")
    assert kept["findings"][0]["place"]["node"] == nodes[0]
    assert run("locate", clean, "-q", "--json") == 0
    assert json.loads(capsys.readouterr().out)["findings"] == []


def test_command_errors_are_one_line(
    gardens: dict[str, Garden], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("locate", tmp_path / "nothing", "-q") == BadInput.exit_code
    path = tmp_path / "bundle"
    shutil.copytree(gardens["fp32"].bundle.path, path)
    (path / "model.onnx").write_bytes(b"no graph")
    capsys.readouterr()
    assert run("locate", path, "-q") == BadInput.exit_code
    said = capsys.readouterr().err.strip()
    assert said.startswith("error:")
    assert "\n" not in said
