"""What every precision promises, on small graphs and on narrow networks."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import pytest
from small_graphs import build, observe_on, quarrels, useless_casts
from small_networks import exported

from inception_deploy.artifact import Artifact
from inception_deploy.engines._as_written import AsWritten
from inception_deploy.errors import StageError
from inception_deploy.fuse import fuse
from inception_deploy.fusions import FUSIONS
from inception_deploy.lower import lower
from inception_deploy.networks import NETWORKS
from inception_deploy.precisions import PRECISIONS
from inception_deploy.ranges import Ranges

pytestmark = pytest.mark.parametrize("name", PRECISIONS.names())

LARGEST_BOUND = {"fp32": 1e-3, "fp16": 0.1, "bf16": 0.4, "int8": 0.7, "fp8": 1.4}
"""What no bound of these small networks may exceed: 8 bits over 100 layers are that coarse."""

BODY = "a = Conv(input, w, b)\n output = Relu(a)"
SIZES = {"w": (3, 4, 3, 3), "b": (3,)}


@cache
def fused(network: str) -> Artifact:
    return fuse(exported(network), tuple(FUSIONS))


def ranges_for(name: str, artifact: Artifact) -> Ranges | None:
    if not PRECISIONS.get(name).needs_ranges:
        return None
    return observe_on(artifact.model, artifact.golden.inputs)


@pytest.mark.parametrize("network", NETWORKS.names())
def test_lowered_networks_stay_within_their_bound_and_keep_their_face(
    name: str, network: str
) -> None:
    before = fused(network)
    after = lower(before, PRECISIONS.get(name), ranges_for(name, before))
    record = after.records[-1]
    assert record.name == f"lower/{name}"
    assert record.error is not None
    assert record.bound is not None
    assert record.error <= record.bound < LARGEST_BOUND[name]
    assert list(quarrels(after.model)) == []
    assert list(useless_casts(after.model)) == []
    # input, output, metadata and every block's tensor are what they were
    assert [i.name for i in after.model.graph.input] == ["input"]
    assert after.model.graph.input == before.model.graph.input
    assert after.model.graph.output == before.model.graph.output
    assert after.model.metadata_props == before.model.metadata_props
    tensors = {name for node in after.model.graph.node for name in node.output}
    assert {*before.golden.blocks} - tensors <= {before.golden.output_name}
    # every node of the old graph is there, or the record says what became of it
    nodes = {node.name for node in after.model.graph.node}
    assert {node.name for node in before.model.graph.node} <= nodes


def test_any_batch_size_runs(name: str) -> None:
    before = fused("googlenet")
    after = lower(before, PRECISIONS.get(name), ranges_for(name, before))
    image = before.golden.inputs[:1]
    with AsWritten().session(after.model.SerializeToString()) as session:
        single = session.run(image)
        many = session.run(np.repeat(image, 7, axis=0))
    assert many.shape == (7, *single.shape[1:])
    assert np.abs(many - single).max() <= 1e-5 * np.abs(single).max()


def test_the_graph_given_is_left_alone(name: str) -> None:
    model = build(BODY, SIZES)
    before = model.SerializeToString(deterministic=True)
    PRECISIONS.get(name).lower(model, observe_on(model))
    assert model.SerializeToString(deterministic=True) == before


def test_lowering_is_deterministic(name: str) -> None:
    model = build(BODY, SIZES)
    first, second = (PRECISIONS.get(name).lower(model, observe_on(model)) for _ in range(2))
    assert first.model.SerializeToString() == second.model.SerializeToString()
    assert (first.applied, first.refused, first.bound) == (
        second.applied,
        second.refused,
        second.bound,
    )


def test_a_weight_that_is_not_finite_is_named(name: str) -> None:
    broken = np.ones((3, 4, 3, 3), np.float32)
    broken[1, 2, 0, 0] = np.nan
    model = build(BODY, {"w": broken, "b": (3,)})
    with pytest.raises(StageError, match="'w' holds NaN or infinity"):
        PRECISIONS.get(name).lower(model, Ranges({}, "m", "d", 1, "min_max"))


def test_a_precision_that_needs_ranges_says_so(name: str) -> None:
    precision = PRECISIONS.get(name)
    model = build(BODY, SIZES)
    if precision.needs_ranges:
        with pytest.raises(StageError, match="calibrate"):
            precision.lower(model, None)
    else:
        onnx.checker.check_model(precision.lower(model, None).model, full_check=True)
