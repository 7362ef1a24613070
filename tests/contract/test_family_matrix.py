"""The way to a deployed graph, network by network, narrow and small: FP32 and FP16 on the engine.

What single stages promise is tested with them. Here the target's own choice of rewrites runs, the
engine optimises what comes out, and random weights are calibrated, so that first choices mean
something: `benchmarks.family` states the margin rule. `tests/full` is the same at native size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from first_choices import Batch

from benchmarks.family import BOUND, CLEAR, IMAGES, Choices, centre_classifier, choices
from inception_deploy.artifact import Artifact
from inception_deploy.calibrate import observe
from inception_deploy.engines import ENGINES
from inception_deploy.export import export
from inception_deploy.fuse import fuse
from inception_deploy.golden import record_golden
from inception_deploy.lower import lower
from inception_deploy.networks import NETWORKS
from inception_deploy.precisions import PRECISIONS
from inception_deploy.random_weights import octave_noise, pixel_spread, random_network
from inception_deploy.recipe import PrecisionName
from inception_deploy.targets import TARGETS
from inception_deploy.trials import torch_predictor

pytestmark = pytest.mark.parametrize("name", NETWORKS.names())

TARGET = TARGETS.get("onnxruntime")
PRECISION_NAMES: tuple[PrecisionName, ...] = ("fp32", "fp16")
CLASSES, WIDTH = 12, 0.125
GOLDEN, SEEN = 2, 8

BLOCK_NOISE = 1e-5
"""Of the largest value of a block: ten times less than is promised."""


@dataclass(frozen=True)
class Outcome:
    """A network after everything, and the first choices of its two graphs."""

    graphs: dict[PrecisionName, Artifact]
    chosen: dict[PrecisionName, Choices]


def side(name: str) -> int:
    """Pixels: where the least is 75, the last maps of that hold one position and average nothing.

    Rounding errors of such maps come through to the logits undamped, and near ties abound.
    """
    least = NETWORKS.get(name).min_size
    return 64 if least <= 64 else 107


@cache
def outcome(name: str) -> Outcome:
    spec, size = NETWORKS.get(name), side(name)
    module = random_network(spec, 0, num_classes=CLASSES, width=WIDTH, image_size=size)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(5)
        images = octave_noise(IMAGES + GOLDEN + SEEN, size) * pixel_spread(spec.preprocessing)
    compared, golden_inputs = images[:IMAGES], images[IMAGES : IMAGES + GOLDEN]
    seen = images[IMAGES + GOLDEN :]
    centre_classifier(module, spec.classifier, seen)
    outputs = torch_predictor(module)(compared.numpy())
    golden = record_golden(module, golden_inputs.numpy())
    exported = export(
        module,
        golden,
        network=name,
        preprocessing=spec.preprocessing.with_size(size),
        class_names=(),
    )
    fused = {p: TARGET.rewrites(p) for p in PRECISION_NAMES}
    graphs: dict[PrecisionName, Artifact] = {"fp32": fuse(exported, fused["fp32"])}
    before = graphs["fp32"] if fused["fp16"] == fused["fp32"] else fuse(exported, fused["fp16"])
    engine = ENGINES.get(TARGET.engine)
    ranges = observe(before.model, [seen.numpy()], engine=engine, data_digest="", total=1)
    graphs["fp16"] = lower(before, PRECISIONS.get("fp16"), ranges)
    graphs["fp32"] = lower(graphs["fp32"], PRECISIONS.get("fp32"), None)
    scale = float(np.abs(golden.outputs).max())
    chosen = {}
    for precision, artifact in graphs.items():
        error = artifact.records[-1].facts["error_here"]
        chosen[precision] = choices(
            lambda _: outputs,
            artifact.model.SerializeToString(),
            [Batch(compared.numpy())],
            margin=2 * error * scale,
        )
    return Outcome(graphs, chosen)


def test_fp32_is_pytorch_but_for_noise(name: str) -> None:
    found = outcome(name)
    assert found.chosen["fp32"].error <= BOUND
    for record in found.graphs["fp32"].records:
        assert (record.error or 0.0) <= BOUND, record.name
        assert record.facts.get("block_error", 0.0) <= BLOCK_NOISE, record.name


def test_fp32_changes_no_first_choice(name: str) -> None:
    chosen = outcome(name).chosen["fp32"]
    assert chosen.agreeing == chosen.images == IMAGES


def test_fp16_changes_no_first_choice_but_of_near_ties(name: str) -> None:
    chosen = outcome(name).chosen["fp16"]
    assert chosen.images == IMAGES
    assert chosen.near_ties <= IMAGES - CLEAR
    assert chosen.clear_disagreeing == 0


def test_fp16_stays_within_its_bound_on_images_it_has_not_seen(name: str) -> None:
    record = outcome(name).graphs["fp16"].records[-1]
    assert record.bound is not None
    assert outcome(name).chosen["fp16"].error <= record.bound


def test_images_do_not_all_get_one_class(name: str) -> None:
    assert outcome(name).chosen["fp32"].classes >= CLASSES // 2
