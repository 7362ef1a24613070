"""The lower stage: records, proofs, and what it refuses to hand on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest
from small_graphs import build, noise, observe_on, op_types, types_of
from small_networks import CLASSES, exported, images, small_network

from inception_deploy.artifact import Artifact, FloatArray, Golden, model_digest
from inception_deploy.engines import ENGINES
from inception_deploy.errors import StageError
from inception_deploy.export import export
from inception_deploy.fuse import fuse
from inception_deploy.fusions import FUSIONS
from inception_deploy.golden import record_golden
from inception_deploy.lower import lower
from inception_deploy.networks import NETWORKS
from inception_deploy.networks.base import Head
from inception_deploy.precisions import PRECISIONS, Lowering, Precision
from inception_deploy.ranges import Ranges

FP16, FP32 = PRECISIONS.get("fp16"), PRECISIONS.get("fp32")
BODY = "a = Conv(input, w)\n r = Relu(a)\n output = Conv(r, v)"
SIZES = {"w": (4, 4, 1, 1), "v": (3, 4, 1, 1)}


def artifact(model: onnx.ModelProto, images: FloatArray | None = None) -> Artifact:
    """`model` with itself, as FP32, for a golden."""
    images = noise(model) if images is None else images
    with ENGINES.get("onnxruntime").session(model.SerializeToString()) as session:
        outputs = session.run(images)
    return Artifact(model, Golden(images, outputs, "output", {}, 0))


@dataclass(frozen=True)
class Broken(Precision):
    """Doubles a weight, and says that it does nothing."""

    name = "broken"
    needs_ranges = False

    def lower(self, model: onnx.ModelProto, ranges: Ranges | None) -> Lowering:
        copy = onnx.ModelProto.FromString(model.SerializeToString())
        values = 2 * onnx.numpy_helper.to_array(copy.graph.initializer[0])
        copy.graph.initializer[0].CopyFrom(
            onnx.numpy_helper.from_array(values, copy.graph.initializer[0].name)
        )
        return Lowering(copy, bound=1e-4)


def test_a_network_in_fp16() -> None:
    before = fuse(exported("googlenet"), tuple(FUSIONS))
    after = lower(before, FP16, observe_on(before.model, before.golden.inputs))
    record = after.records[-1]
    assert record.name == "lower/fp16"
    assert (record.before, record.after) == (before.digest, model_digest(after.model))
    assert record.refused == ()
    assert [a.node for a in record.applied if a.rewrite == "cast"] == [
        "input.to_fp16",
        "logits.to_fp32",
    ]
    assert record.error is not None
    assert record.bound is not None
    assert record.error == max(record.facts["error_here"], record.facts["error_rounded"])
    assert 1e-5 < record.error < record.bound
    kinds = types_of(after.model)
    for block in before.golden.blocks:
        assert kinds[block] == "FLOAT16"
    assert {kinds[t.name] for t in after.model.graph.initializer} <= {"FLOAT16", "INT64"}
    assert len(after.model.SerializeToString()) < 0.65 * len(before.model.SerializeToString())


@pytest.mark.parametrize("head", ["probabilities", "features"])
def test_other_heads_in_fp16(head: Head) -> None:
    module = small_network("googlenet")
    module.head = head
    exported_head = export(
        module,
        record_golden(module, images("googlenet")),
        network="googlenet",
        preprocessing=NETWORKS.get("googlenet").preprocessing,
        class_names=CLASSES,
    )
    before = fuse(exported_head, tuple(FUSIONS))
    after = lower(before, FP16, observe_on(before.model, before.golden.inputs))
    kept = [refusal.node for refusal in after.records[-1].refused]
    assert (len(kept) == 1) is (head == "probabilities")
    assert op_types(after.model).count("Cast") == 2


def test_fp32_is_the_same_graph_with_a_proof() -> None:
    before = artifact(build(BODY, SIZES))
    record = lower(before, FP32, None).records[-1]
    assert record.name == "lower/fp32"
    assert record.error is not None
    assert record.error <= 1e-6
    assert record.bound == 1e-4
    assert "error_rounded" not in record.facts


def test_a_graph_that_stays_fp32_throughout_is_fine() -> None:
    huge = np.full((4, 4, 1, 1), 1e6, np.float32)
    before = artifact(build("a = Conv(input, w)\n output = Relu(a)", {"w": huge}))
    after = lower(before, FP16, observe_on(before.model))
    assert [refusal.node for refusal in after.records[-1].refused] == ["node.a", "node.output"]
    assert op_types(after.model) == ["Conv", "Relu"]


def test_ranges_of_another_graph_are_refused() -> None:
    before = artifact(build(BODY, SIZES))
    ranges = replace(observe_on(before.model), model="0" * 64)
    with pytest.raises(StageError, match=r"taken on another graph \(000000000000…"):
        lower(before, FP16, ranges)


def test_a_graph_that_moved_beyond_its_bound_is_an_error() -> None:
    with pytest.raises(StageError, match=r"lower/broken: 'output' is off by .* allowed are 1e-04"):
        lower(artifact(build(BODY, SIZES)), Broken(), None)


def test_an_overflow_on_golden_images_names_tensor_and_node() -> None:
    model = build(BODY, SIZES)
    before = artifact(model, noise(model, scale=2e4))
    with pytest.raises(StageError, match=r"'a' \(node\.a\) overflows on a golden image"):
        lower(before, FP16, observe_on(model))


def test_what_rounding_alone_breaks_is_an_error() -> None:
    """Cancellation beyond the rules' sight: the CPU computes it in FP32, a device would not."""
    model = build(
        "a = Conv(input, w)\n d = Sub(a, input)\n output = Mul(d, k)",
        {
            "w": np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1) * np.float32(1 + 2**-9),
            "k": np.full(1, 100.0, np.float32),
        },
    )
    images = noise(model)
    before = artifact(model, images)
    with pytest.raises(StageError, match="as a device rounds: 'output' is off by"):
        lower(before, FP16, observe_on(model, images))
