"""The gate on bundles: clean ones, broken ones, and data that will not do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from inception_deploy.artifact import model_digest
from inception_deploy.bundle import Bundle, save_golden
from inception_deploy.cli.main import main
from inception_deploy.compare import compare_bundle, reference_of_bundle
from inception_deploy.dataset import Batch
from inception_deploy.errors import BadInput, DataError
from inception_deploy.gate import Bounds, GateVerdict, Timing, gate
from inception_deploy.gate.accuracy import _labels
from inception_deploy.gate.verdict import Check
from inception_deploy.images import choose_images
from inception_deploy.manifest import graph_facts
from inception_deploy.parity import Tally
from inception_deploy.parity.state import Resumable, state_path
from inception_deploy.reference import Reference

CLASSES = 24  # of the task that the embedded network solves


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The embedded network in INT8, made once."""
    path = tmp_path_factory.mktemp("bundles") / "embedded"
    few = ["--data-size", "24", "--calibration-size", "16", "--seconds", "0", "-q"]
    with pytest.raises(SystemExit) as stop:
        main(["export", "--int8", *few, "-o", str(path)])
    assert stop.value.code == 0
    return Bundle.open(path)


@pytest.fixture(scope="module")
def reference(bundle: Bundle) -> Reference:
    return reference_of_bundle(bundle)


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle.path, tmp_path / "copy"))


def resealed(path: Path, edit: Callable[[dict[str, Any]], None] | None = None) -> Bundle:
    """A bundle of the files that lie there now: as if the export itself had been wrong."""
    manifest = json.loads((path / "manifest.json").read_text())
    if edit is not None:
        edit(manifest)
    for role in ("graph", "reference"):
        manifest[role] = graph_facts(path / manifest[role]["file"])
    stages = manifest["stages"]
    stages[-1]["after"] = model_digest(onnx.load(path / "model.onnx"))
    old = stages[0]["after"]
    stages[0]["after"] = model_digest(onnx.load(path / "reference.onnx"))
    for stage in stages[1:]:  # those that changed nothing
        for end in ("before", "after"):
            stage[end] = stages[0]["after"] if stage[end] == old else stage[end]
    manifest.pop("files")
    Bundle.seal(path, manifest)
    return Bundle.open(path)


def with_graph(path: Path, name: str, edit: Callable[[onnx.ModelProto], None]) -> Bundle:
    model = onnx.load(path / name)
    edit(model)
    onnx.save(model, path / name)
    return resealed(path)


def with_preprocessing(path: Path, **changes: Any) -> Bundle:
    """Another preprocessing, in manifest and graphs alike."""

    def edit(manifest: dict[str, Any]) -> None:
        manifest["preprocessing"].update(changes)

    for name in ("model.onnx", "reference.onnx"):
        model = onnx.load(path / name)
        for entry in model.metadata_props:
            if entry.key == "inception_deploy.preprocessing":
                entry.value = json.dumps({**json.loads(entry.value), **changes})
        onnx.save(model, path / name)
    return resealed(path, edit)


def decided(verdict: GateVerdict, name: str) -> Check:
    (check,) = [check for check in verdict.checks if check.name == name]
    return check


def names(verdict: GateVerdict) -> list[str]:
    return [check.name for check in verdict.failed]


QUICK = {"data_size": 128, "pieces": False}


# ---------------------------------------------------------------- clean bundles


def test_clean_bundle_passes(bundle: Bundle, reference: Reference) -> None:
    verdict = gate(bundle, data_size=320, reference=reference)
    assert (verdict.outcome, verdict.exit_code) == ("PASS", 0), verdict.reason
    assert verdict.truth == "pytorch"
    assert {check.group for check in verdict.checks} == {"integrity", "fidelity", "accuracy"}
    # 320 images settle agreement, and leave half a point of accuracy open: nobody asked for it
    drop = decided(verdict, "top1_drop")
    assert (drop.outcome, drop.counts) == ("INCONCLUSIVE", False)
    assert drop.images_needed > 320
    assert json.loads(json.dumps(verdict.to_dict(), allow_nan=False))["outcome"] == "PASS"


def test_named_bound_leaves_it_undecided(bundle: Bundle, reference: Reference) -> None:
    bounds = Bounds.asked("int8", max_drop=0.5)
    verdict = gate(bundle, bounds, reference=reference, **QUICK)
    assert (verdict.outcome, verdict.exit_code) == ("INCONCLUSIVE", 4)
    assert "images would settle it" in verdict.reason
    assert (verdict.images, verdict.stopped_early) == (128, False)


def test_sure_answers_come_early(bundle: Bundle, reference: Reference) -> None:
    bounds = Bounds.asked("int8", defaults=False, max_drop=30.0, min_agreement=50.0)
    verdict = gate(bundle, bounds, data_size=2000, pieces=False, reference=reference)
    assert verdict.outcome == "PASS"
    assert verdict.stopped_early
    assert verdict.images <= 128


def test_without_weights_the_plain_export_is_the_truth(copy: Path) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        manifest["weights"]["source"] = "module:mine"

    verdict = gate(resealed(copy, edit), **QUICK)
    assert verdict.outcome == "PASS", verdict.reason
    assert verdict.truth == "reference.onnx"
    assert "made from a module in memory" in verdict.warnings[0]


# ---------------------------------------------------------------- broken bundles


def test_changed_file(copy: Path) -> None:
    (copy / "samples.json").write_text("[]")
    verdict = gate(Bundle.open(copy))
    assert (verdict.outcome, names(verdict), verdict.images) == ("FAIL", ["files"], 0)
    assert verdict.truth == "nothing"
    assert "samples.json sha256 differs" in verdict.reason


def test_graph_that_no_stage_put_out(copy: Path) -> None:
    model = onnx.load(copy / "model.onnx")
    model.doc_string = "edited"
    onnx.save(model, copy / "model.onnx")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["graph"] = graph_facts(copy / "model.onnx")
    manifest.pop("files")
    Bundle.seal(copy, manifest)
    assert names(gate(Bundle.open(copy))) == ["history"]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}, "mean"),
        ({"channel_order": "BGR"}, "channel_order"),
        ({"interpolation": "nearest"}, "interpolation"),
        ({"resize": 128}, "resize"),
    ],
)
def test_preprocessing_that_is_not_the_networks(
    copy: Path, reference: Reference, changes: dict[str, Any], word: str
) -> None:
    verdict = gate(with_preprocessing(copy, **changes), reference=reference)
    assert "preprocessing" in names(verdict)
    assert word in decided(verdict, "preprocessing").reason
    assert verdict.images == 0  # no image need be looked at


def test_manifest_and_graph_that_disagree(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["preprocessing"]["mean"] = [0.1, 0.1, 0.1]
    manifest.pop("files")
    Bundle.seal(copy, manifest)
    verdict = gate(Bundle.open(copy))
    assert names(verdict) == ["files"]
    assert "preprocessing in the graph's metadata differs" in verdict.reason


def test_recipe_that_overrides_what_the_weights_were_trained_with(
    copy: Path, bundle: Bundle
) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        manifest["recipe"]["mean"] = [0.4, 0.4, 0.4]
        manifest["preprocessing"]["mean"] = [0.4, 0.4, 0.4]

    with_preprocessing(copy, mean=[0.4, 0.4, 0.4])
    verdict = gate(resealed(copy, edit))
    assert names(verdict)[0] == "preprocessing"
    assert "export without --mean" in verdict.reason


def test_golden_inputs_of_other_images(copy: Path, bundle: Bundle, reference: Reference) -> None:
    golden = bundle.golden()
    save_golden(copy / "golden.npz", replace(golden, inputs=golden.inputs[:, ::-1].copy()))
    verdict = gate(resealed(copy), reference=reference)
    assert names(verdict)[0] == "golden_inputs"


def test_golden_of_other_weights(copy: Path, bundle: Bundle, reference: Reference) -> None:
    golden = bundle.golden()
    save_golden(copy / "golden.npz", replace(golden, outputs=golden.outputs * np.float32(1.01)))
    verdict = gate(resealed(copy), reference=reference, pieces=False)
    assert names(verdict) == ["golden"]


def test_class_names_in_another_order(copy: Path, reference: Reference) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        manifest["class_names"] = manifest["class_names"][::-1]
        for name in ("model.onnx", "reference.onnx"):
            model = onnx.load(copy / name)
            for entry in model.metadata_props:
                if entry.key == "inception_deploy.class_names":
                    entry.value = json.dumps(manifest["class_names"])
            onnx.save(model, copy / name)

    verdict = gate(resealed(copy, edit), reference=reference)
    assert names(verdict) == ["classes"]
    assert "class 0 is called" in verdict.reason


def test_stale_range_table(copy: Path, reference: Reference) -> None:
    table = json.loads((copy / "calibration.json").read_text())
    table["model"] = "0" * 64
    (copy / "calibration.json").write_text(json.dumps(table))
    verdict = gate(resealed(copy), reference=reference)
    assert names(verdict) == ["calibration"]
    assert "made for another graph" in verdict.reason


def test_grid_narrower_than_its_range(copy: Path, reference: Reference) -> None:
    table = json.loads((copy / "calibration.json").read_text())
    table["tensors"]["conv2"]["maximum"] *= 2
    (copy / "calibration.json").write_text(json.dumps(table))
    verdict = gate(resealed(copy), reference=reference)
    assert names(verdict) == ["calibration"]
    assert "'conv2' has a grid" in verdict.reason


def test_plain_export_of_other_weights(copy: Path, reference: Reference) -> None:
    def edit(model: onnx.ModelProto) -> None:
        weight = max(model.graph.initializer, key=lambda t: len(t.raw_data))
        values = numpy_helper.to_array(weight) * np.float32(1.02)
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))

    verdict = gate(with_graph(copy, "reference.onnx", edit), reference=reference)
    assert "reference_graph" in names(verdict)


def scale_of(model: onnx.ModelProto, node: str) -> onnx.TensorProto:
    found = next(n for n in model.graph.node if n.op_type == "QuantizeLinear" and node in n.input)
    return next(t for t in model.graph.initializer if t.name == found.input[1])


def test_scale_of_one_channel_is_seen_in_its_piece(copy: Path, reference: Reference) -> None:
    def edit(model: onnx.ModelProto) -> None:
        scales = [t for t in model.graph.initializer if len(t.dims) == 1 and t.dims[0] > 8]
        scale = next(t for t in scales if "inception4c" in t.name and "scale" in t.name)
        values = numpy_helper.to_array(scale).copy()
        values[3] *= 2
        scale.CopyFrom(numpy_helper.from_array(values, scale.name))

    verdict = gate(with_graph(copy, "model.onnx", edit), reference=reference, data_size=64)
    assert verdict.outcome == "FAIL"
    assert verdict.failed[0].group == "fidelity"
    assert "inception4" in (verdict.failed[0].block or "")


def test_graph_that_puts_out_noise(copy: Path, reference: Reference) -> None:
    def edit(model: onnx.ModelProto) -> None:
        last = model.graph.node[-1]
        model.graph.initializer.append(
            numpy_helper.from_array(np.float32([np.nan]).reshape(()), "nan")
        )
        model.graph.node.append(
            onnx.helper.make_node("Add", ["spoiled", "nan"], [last.output[0]], name="spoil")
        )
        last.output[0] = "spoiled"

    verdict = gate(with_graph(copy, "model.onnx", edit), reference=reference)
    assert names(verdict) == ["deployed_graph"]
    assert "NaN" in verdict.reason


# ---------------------------------------------------------------- images and labels


def npz(path: Path, images: np.ndarray, labels: np.ndarray | None) -> str:
    arrays = {"images": images} if labels is None else {"images": images, "labels": labels}
    np.savez(path, **arrays)
    return str(path)


@pytest.fixture(scope="module")
def shown(bundle: Bundle) -> Batch:
    """Images of the built-in task, with their labels."""
    images = choose_images(
        "shapes", bundle.preprocessing, count=96, seed=0, skip_bad=False, num_classes=CLASSES
    )
    (batch,) = images.batches(96)
    assert batch.pixels is not None
    return batch


def test_labels_counted_from_one(
    bundle: Bundle, reference: Reference, shown: Batch, tmp_path: Path
) -> None:
    keep = shown.labels < CLASSES - 1
    data = npz(tmp_path / "d.npz", shown.pixels[keep], shown.labels[keep] + 1)
    verdict = gate(bundle, data=data, pieces=False, reference=reference)
    assert names(verdict) == ["labels"]
    assert "every label were one less" in verdict.reason


def test_labels_in_another_order(
    bundle: Bundle, reference: Reference, shown: Batch, tmp_path: Path
) -> None:
    order = np.random.default_rng(0).permutation(CLASSES)
    data = npz(tmp_path / "d.npz", shown.pixels, order[shown.labels])
    verdict = gate(bundle, data=data, pieces=False, reference=reference)
    assert names(verdict) == ["labels"]
    assert "numbered in another order" in verdict.reason


@pytest.mark.parametrize("recorded", [None, 40.0])
@pytest.mark.parametrize("shares", [(0.7, 0.3), (0.1, 0.6, 0.2, 0.1)])
def test_a_network_that_always_says_the_same_has_its_labels(
    shares: tuple[float, ...], recorded: float | None
) -> None:
    """Of unbalanced classes, one next to its answer explains many images: by chance."""
    labels = np.repeat(np.arange(len(shares)), (np.array(shares) * 400).astype(int))
    for answer in range(len(shares)):
        tally = Tally(len(shares), chooses=True, labelled=True, probabilities=False)
        outputs = np.eye(len(shares), dtype=np.float32)[np.full(400, answer)]
        tally.add(outputs, outputs, labels)
        assert _labels(tally, trained=True, recorded=recorded).outcome == "PASS"


@pytest.mark.parametrize("recorded", [None, 96.0])
def test_two_classes_in_the_other_order(recorded: float | None) -> None:
    labels = np.arange(40) % 2
    outputs = np.eye(2, dtype=np.float32)[1 - labels]
    tally = Tally(2, chooses=True, labelled=True, probabilities=False)
    tally.add(outputs, outputs, labels)
    assert _labels(tally, trained=True, recorded=recorded).outcome == "FAIL"
    assert _labels(tally, trained=False, recorded=None).outcome == "PASS"  # it never knew


def test_images_that_are_merely_harder(
    bundle: Bundle, reference: Reference, shown: Batch, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).normal(scale=70, size=shown.pixels.shape)
    pixels = np.clip(shown.pixels + noise, 0, 255).astype(np.uint8)
    data = npz(tmp_path / "d.npz", pixels, shown.labels)
    verdict = gate(bundle, Bounds.asked("int8", min_agreement=10.0), data=data, pieces=False,
                   reference=reference)  # fmt: skip
    assert verdict.parity.top1_reference < 60  # 96 at export
    assert decided(verdict, "labels").outcome == "PASS"


def test_labels_out_of_range(
    bundle: Bundle, reference: Reference, shown: Batch, tmp_path: Path
) -> None:
    data = npz(tmp_path / "d.npz", shown.pixels, shown.labels + 1)
    with pytest.raises(DataError, match="24"):
        gate(bundle, data=data, pieces=False, reference=reference)


def test_one_class(bundle: Bundle, reference: Reference, shown: Batch, tmp_path: Path) -> None:
    data = npz(tmp_path / "d.npz", shown.pixels, np.full(len(shown.pixels), 3))
    with pytest.raises(DataError, match=r"all 96 images of .* are of class 3"):
        gate(bundle, data=data, pieces=False, reference=reference)


def test_drop_without_labels(
    bundle: Bundle, reference: Reference, shown: Batch, tmp_path: Path
) -> None:
    data = npz(tmp_path / "d.npz", shown.pixels, None)
    with pytest.raises(DataError, match="needs labelled images"):
        gate(bundle, Bounds.asked("int8", max_drop=1.0), data=data, reference=reference)
    verdict = gate(bundle, data=data, pieces=False, reference=reference)  # a default is no wish
    assert "top1_drop" not in {check.name for check in verdict.checks}
    assert verdict.outcome == "PASS"


def test_empty_data(bundle: Bundle, reference: Reference, tmp_path: Path) -> None:
    size = bundle.preprocessing.size
    data = npz(tmp_path / "d.npz", np.zeros((0, size, size, 3), np.uint8), np.zeros(0, np.int64))
    with pytest.raises(DataError):
        gate(bundle, data=data, pieces=False, reference=reference)


# ---------------------------------------------------------------- speed and size


def test_size_and_speed_are_held(bundle: Bundle, reference: Reference) -> None:
    bounds = Bounds.asked("int8", defaults=False, max_size=1000, min_speedup=0.01, max_p99_ms=1e6)
    verdict = gate(
        bundle, bounds, reference=reference, timing=Timing(batches=(1,), seconds=0.05), **QUICK
    )
    assert names(verdict) == ["size"]
    assert decided(verdict, "speedup_batch_1").outcome == "PASS"
    assert decided(verdict, "latency_p99_batch_1").outcome == "PASS"


# ---------------------------------------------------------------- going on


def test_an_interrupted_comparison_goes_on(bundle: Bundle, tmp_path: Path, reference: Reference):
    images = choose_images(
        "shapes", bundle.preprocessing, count=64, seed=0, skip_bad=False, num_classes=CLASSES
    )
    seen: list[int] = []

    def compare(
        tally: Tally | None, batches: Any, total: int, after: Any, stop: int | None = None
    ) -> Any:
        tally = tally or Tally(4, chooses=True, labelled=True, probabilities=False)
        for batch in batches:
            if stop is not None and tally.images >= stop:
                raise KeyboardInterrupt
            seen.extend(batch.indices.tolist())
            values = np.eye(4, dtype=np.float32)[batch.indices % 4]
            tally.add(values, values, batch.indices % 4)
            if after(tally, batch):
                break
        return tally.images

    state = Resumable(tmp_path / "b.gate.json", {"bundle": "one"})
    progress = Notes()
    with pytest.raises(KeyboardInterrupt):
        state.run(lambda *a: compare(*a, stop=32), images, progress=progress)
    assert (tmp_path / "b.gate.json").exists()
    found = Resumable(tmp_path / "b.gate.json", {"bundle": "one"}).run(
        compare, images, progress=progress
    )
    assert (found.tally.images, found.resumed, seen) == (64, 32, images.indices.tolist())
    assert "remembers 32 images" in progress.notes[-1]
    assert not (tmp_path / "b.gate.json").exists()

    with pytest.raises(KeyboardInterrupt):
        state.run(lambda *a: compare(*a, stop=32), images, progress=progress)
    other = Resumable(tmp_path / "b.gate.json", {"bundle": "two"})
    assert other.run(compare, images, progress=progress).resumed == 0
    assert "is of another bundle" in progress.notes[-1]

    (tmp_path / "b.gate.json").write_text("{")
    assert state.run(compare, images, progress=progress).resumed == 0
    assert "is no state file" in progress.notes[-1]


class Notes:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def track(self, items: Any, description: str, total: int) -> Any:
        yield from items

    def stage(self, description: str) -> Any:
        raise AssertionError(description)

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_state_file_lies_beside_the_bundle() -> None:
    assert state_path(Path("/a/b"), "gate") == Path("/a/b.gate.json")


# ---------------------------------------------------------------- compare


@pytest.mark.parametrize(
    ("pair", "sides", "floor"),
    [
        (("pytorch", "reference"), ("pytorch", "reference.onnx"), 100),
        (("model", "reference"), ("reference.onnx", "model.onnx"), 25),
        (("engine", "model"), ("model.onnx", "onnxruntime"), 25),
        (("model", "pytorch"), ("pytorch", "model.onnx"), 25),
    ],
)
def test_any_two_forms(bundle: Bundle, pair: Any, sides: tuple[str, str], floor: float) -> None:
    report = compare_bundle(bundle, between=pair, data_size=24)
    assert (report.reference, report.candidate) == sides
    assert report.sqnr_db is None or report.sqnr_db > floor
    assert report.calibration is not None
    assert sum(c.images for c in report.classes) == 24
    blocks = [block for block in report.blocks if block.reason is None]
    assert bool(blocks) == (pair != ("engine", "model"))
    assert all(b.exact or b.sqnr_db > 20 for b in blocks)


class Impatient(Notes):
    """A listener that gives up after two batches."""

    def track(self, items: Any, description: str, total: int) -> Any:
        for number, item in enumerate(items):
            if number == 2:
                raise KeyboardInterrupt
            yield item


def test_interrupted_compare_ends_in_the_same_report(copy: Path) -> None:
    asked = {"between": ("reference", "model"), "data_size": 60, "resume": True}
    with pytest.raises(KeyboardInterrupt):
        compare_bundle(Bundle.open(copy), progress=Impatient(), **asked)
    assert json.loads((copy.parent / "copy.compare.json").read_text())["done"] == 32
    resumed = compare_bundle(Bundle.open(copy), **asked)
    assert not (copy.parent / "copy.compare.json").exists()
    assert resumed == compare_bundle(Bundle.open(copy), **asked)
    assert resumed.data.images == 60


def test_forms_that_cannot_be_compared(bundle: Bundle) -> None:
    with pytest.raises(BadInput, match="compared with itself"):
        compare_bundle(bundle, between=("model", "model"))
    with pytest.raises(BadInput, match="no 'onnx'"):
        compare_bundle(bundle, between=("onnx", "model"))  # type: ignore[arg-type]
