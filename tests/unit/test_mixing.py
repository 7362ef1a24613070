"""Which blocks go back to float: the planted one, none where none has to, the same ones again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from inception_deploy import mixing
from inception_deploy.artifact import Artifact, FloatArray
from inception_deploy.calibrate import calibrate, observe_histograms
from inception_deploy.calibrators import calibrator
from inception_deploy.engines import ENGINES
from inception_deploy.export import export
from inception_deploy.fuse import fuse
from inception_deploy.golden import record_golden
from inception_deploy.images import ImageSet, choose_images
from inception_deploy.mixing.blocks import (
    block_nodes,
    block_of,
    block_owners,
    completed,
    kept_float,
)
from inception_deploy.mixing.sensitivity import BlockMeter
from inception_deploy.mixing.state import State, key_of
from inception_deploy.mixing.trial import Validation
from inception_deploy.placements import PLACEMENTS
from inception_deploy.precisions import PRECISIONS
from inception_deploy.precisions.int8 import Int8
from inception_deploy.progress import SilentProgress
from inception_deploy.quantisation import QuantisedWeights
from inception_deploy.ranges import Ranges, TensorRange
from inception_deploy.reference import Reference, load_reference
from inception_deploy.targets import TARGETS
from inception_deploy.trials import torch_predictor
from inception_deploy.weight_rounding import RoundedWeights

ENGINE = ENGINES.get("onnxruntime")
SILENT = SilentProgress()


@dataclass(frozen=True)
class Case:
    """The embedded GoogLeNet, calibrated."""

    reference: Reference
    artifact: Artifact
    precision: Int8
    ranges: Ranges
    validation: ImageSet
    seen: tuple[FloatArray, ...]


@cache
def case() -> Case:
    reference = load_reference("googlenet", "embedded")
    parity, calibration = (
        choose_images(
            "shapes",
            reference.preprocessing,
            count=48,
            seed=0,
            skip_bad=False,
            num_classes=24,
            split=split,
        )
        for split in ("val", "train")
    )
    golden = record_golden(reference.module, next(parity.batches(8)).inputs)
    exported = export(
        reference.module,
        golden,
        network=reference.name,
        preprocessing=reference.preprocessing,
        class_names=reference.class_names or (),
    )
    target = TARGETS.get("onnxruntime")
    artifact = fuse(exported, target.rewrites("int8"))
    precision = PRECISIONS.get("int8").at(target.placement)
    assert isinstance(precision, Int8)
    batches = tuple(batch.inputs for batch in calibration.batches())
    watched = precision.watched(artifact.model)
    histograms = observe_histograms(
        artifact.model,
        batches,
        tensors=tuple(watched),
        engine=ENGINE,
        data_digest="shapes",
        total=len(batches),
    )
    ranges = calibrate(histograms, calibrator("min_max"), precision.grid, watched)
    return Case(reference, artifact, precision, ranges, parity, batches)


def clipped(ranges: Ranges, block: str, part: float = 0.2) -> Ranges:
    """The tensors inside a block cut to a part of their range, as a bad calibration would."""
    tensors = {
        name: TensorRange(part * seen.minimum, part * seen.maximum)
        if name.startswith(f"{block}.branch")
        else seen
        for name, seen in ranges.tensors.items()
    }
    assert tensors != ranges.tensors
    return replace(ranges, tensors=tensors)


def run(
    bounds: mixing.Bounds,
    ranges: Ranges | None = None,
    state: Path | None = None,
    precision: Int8 | None = None,
) -> mixing.Mixed:
    given = case()
    key = {"graph": given.artifact.digest}
    return mixing.mixed(
        given.artifact,
        precision or given.precision,
        ranges or given.ranges,
        bounds,
        validation=Validation(
            torch_predictor(given.reference.module),
            given.validation,
            "logits",
            ENGINE,
            None,
            SILENT,
        ),
        batches=lambda: given.seen[:2],
        timed=given.seen[0][:1],
        state=lambda: known() if ranges is None else State.load(state, key, SILENT),
        progress=SILENT,
    )


def meter() -> BlockMeter:
    given = case()
    owners = block_owners(given.artifact.model, given.artifact.golden.blocks)
    plan = given.precision.placement.plan(given.artifact.model)
    groups = block_nodes(plan.nodes, owners)
    return BlockMeter(
        given.artifact.model,
        given.precision,
        given.ranges,
        owners,
        groups,
        ENGINE,
        SILENT,
    )


@cache
def known() -> State:
    """What is measured of the blocks, calibrated well."""
    state, given = State(None, {}), case()
    meter().measure(given.seen[:2], given.seen[0][:1], state)
    return state


def test_what_was_measured_holds_for_one_rounding_of_the_weights() -> None:
    given = case()
    weights = QuantisedWeights(np.zeros((1, 1, 1, 1), np.int8), np.ones(1, np.float32), 0)
    other = replace(given.precision, rounding={"fc": RoundedWeights(weights, np.zeros(1))})
    keys = [
        key_of("graph", precision, given.ranges, given.validation, ENGINE, 1)
        for precision in (given.precision, other)
    ]
    assert {name for name in keys[0] if keys[0][name] != keys[1][name]} == {"quantisation"}


def test_blocks_by_name() -> None:
    blocks = {"repeat.0", "repeat", "conv1"}
    assert block_of("repeat.0.branch.conv", blocks) == "repeat.0"
    assert block_of("repeat.1.conv", blocks) == "repeat"
    assert block_of("conv1", blocks) == "conv1"
    assert block_of("fc", blocks) == "fc"
    assert block_of("conv10.relu", blocks) == "conv10"


def test_pools_go_with_the_block_before_them() -> None:
    given = case()
    owners = block_owners(given.artifact.model, given.artifact.golden.blocks)
    assert set(owners) == {node.name for node in given.artifact.model.graph.node}
    assert set(owners.values()) == {*given.artifact.golden.blocks, "fc"}
    assert owners["maxpool3"] == "inception3b"
    assert owners["avgpool"] == owners["Flatten"] == "inception5b"


def test_nothing_is_measured_where_integers_are_good_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("there was nothing to choose")

    monkeypatch.setattr(BlockMeter, "measure", forbidden)
    found = run(mixing.Bounds(min_sqnr=20.0), state=tmp_path / "state.json")
    assert found.met
    assert found.chosen.kept_float == ()
    assert found.trials == 1
    assert found.chosen.sqnr_db is not None
    assert found.chosen.sqnr_db > 20
    assert not list(tmp_path.iterdir())


def test_a_planted_bad_block_goes_back_to_float() -> None:
    block = "inception4d"
    bad = clipped(case().ranges, block)
    healthy = run(mixing.Bounds(min_sqnr=0.0)).chosen.sqnr_db
    assert healthy is not None
    found = run(mixing.Bounds(min_sqnr=healthy - 3), bad)
    assert found.met
    assert found.chosen.kept_float == (block,)
    assert found.chosen.sqnr_db is not None
    assert found.chosen.sqnr_db >= healthy - 3
    assert found.sensitivity[0].block == block
    assert found.trials <= 4  # all integers, the prediction, and one below it


def test_a_drop_of_top1_is_mended() -> None:
    bad = clipped(case().ranges, "inception3a", 0.05)
    assert (run(mixing.Bounds(max_drop=100.0), bad).chosen.top1_drop or 0) > 2
    found = run(mixing.Bounds(max_drop=0.0), bad)
    assert found.met
    assert found.chosen.top1_drop is not None
    assert found.chosen.top1_drop <= 0
    assert "inception3a" in found.chosen.kept_float
    assert len(found.chosen.kept_float) <= 2


def test_the_noise_of_blocks_adds_up() -> None:
    """Of all, and of parts of the network, up to twice: a tensor between two blocks has both."""
    measured, state, given = meter(), known(), case()
    blocks = list(measured.groups)
    wanted = outputs(given.artifact.model.SerializeToString(), given.seen[:2])
    for floats in ([], blocks[::2], blocks[1::2], blocks[:6], blocks[6:]):
        have = outputs(measured.lowered(floats), given.seen[:2])
        predicted = sum(state.noise[block] for block in measured.standing(floats))
        actual = float(np.mean((have - wanted) ** 2))
        assert 0.75 * actual < predicted < 2 * actual, floats


def test_every_block_has_noise_of_its_own_and_a_time() -> None:
    state = known()
    assert list(state.noise) == [*case().artifact.golden.blocks, "fc"] == list(state.extra_ms)
    assert all(noise > 0 for noise in state.noise.values())
    assert state.int8_ms is not None
    assert state.int8_ms > 0
    assert sum(state.extra_ms.values()) != 0


def test_a_resumed_run_measures_the_rest_and_decides_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, bad = tmp_path / "state.json", clipped(case().ranges, "inception4b")
    bounds = mixing.Bounds(min_sqnr=30.0)
    first = run(bounds, bad, path)
    values = json.loads(path.read_text())
    forgotten = sorted(values["noise"])[:3]
    for block in forgotten:
        del values["noise"][block]
    path.write_text(json.dumps(values))
    measured: list[str] = []
    real = BlockMeter._alone

    def counted(self: BlockMeter, block: str) -> bytes:
        measured.append(block)
        return real(self, block)

    monkeypatch.setattr(BlockMeter, "_alone", counted)
    again = run(bounds, bad, path)
    assert sorted(measured) == forgotten
    assert again == first
    assert run(bounds, bad, path) == first
    assert sorted(measured) == forgotten


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text[: len(text) // 2], "is no state file"),
        (lambda text: "[]", "is no state file"),
        (lambda text: text.replace('"schema": 1', '"schema": 99'), "is no state file"),
        (lambda text: text.replace('"graph": "', '"graph": "0'), "is of another graph"),
    ],
    ids=["cut", "list", "schema", "graph"],
)
def test_stale_and_damaged_state_files_are_left_aside(
    damage: Callable[[str], str], words: str, tmp_path: Path
) -> None:
    class Listener(SilentProgress):
        notes: list[str]

        def note(self, message: str) -> None:
            self.notes.append(message)

    path, listener = tmp_path / "state.json", Listener()
    listener.notes = []
    state = State(path, {"graph": "abc"}, 1.0, {"a": 0.5}, 0.5, {"a": 0.1}, 2.0)
    state.save()
    assert State.load(path, {"graph": "abc"}, listener) == state
    path.write_text(damage(path.read_text()))
    listener.notes.clear()
    assert State.load(path, {"graph": "abc"}, listener).noise == {}
    assert len(listener.notes) == 1
    assert words in listener.notes[0]


def test_a_bound_beyond_float_is_not_met_and_the_best_is_kept() -> None:
    found = run(mixing.Bounds(min_sqnr=500.0))
    assert not found.met
    assert "no choice of blocks" in found.reason
    assert len(found.chosen.kept_float) == len(found.sensitivity)
    assert found.chosen.sqnr_db is not None
    assert found.chosen.sqnr_db > 80
    assert found.to_dict()["met"] is False
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_pareto_set_runs_from_integers_to_float() -> None:
    found = run(mixing.Bounds(min_sqnr=46.0))
    assert found.met
    sizes = [len(point.kept_float) for point in found.pareto]
    assert {0, len(found.sensitivity)} <= set(sizes)
    front = [point for point in found.pareto if point.front]
    times = [point.predicted_ms or 0.0 for point in front]
    assert times == sorted(times)
    qualities = [point.quality for point in front]
    assert qualities == sorted(qualities)
    assert found.chosen in [replace(point, front=found.chosen.front) for point in found.pareto]


def test_moved_tensors_get_the_range_of_what_comes_in() -> None:
    """OpenVINO's placement quantises before pools, which may come to stand after a float block."""
    given = case()
    placement = PLACEMENTS.get("openvino")
    precision = given.precision.at("openvino")
    owners = block_owners(given.artifact.model, given.artifact.golden.blocks)
    watched = precision.watched(given.artifact.model)
    few = {name: given.ranges.tensors[name] for name in watched if name in given.ranges.tensors}
    whole = completed(replace(given.ranges, tensors=few), given.artifact.model, placement)
    for block in set(owners.values()):
        floats = kept_float(precision, owners, [block])
        groups = floats.watched(given.artifact.model)
        assert set(groups) <= set(whole.tensors), block


def outputs(model: bytes, images: Sequence[NDArray[Any]]) -> NDArray[Any]:
    with ENGINE.session(model) as session:
        return np.concatenate([session.run(batch) for batch in images])


def test_all_blocks_in_float_are_the_float_graph() -> None:
    given, measured = case(), meter()
    have = outputs(measured.lowered(list(measured.groups)), given.seen[:1])
    want = outputs(given.artifact.model.SerializeToString(), given.seen[:1])
    np.testing.assert_array_equal(have, want)
