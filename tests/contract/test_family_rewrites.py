"""Every rewrite on every network of the family, at an eighth of the width."""

from __future__ import annotations

import json
from collections import Counter

import onnx
import pytest
from family_rewrites import GOLDEN, counts, folded, rewritten
from small_networks import exported

from inception_deploy.artifact import Artifact, StageRecord
from inception_deploy.fuse import rewrite
from inception_deploy.fusions import FUSIONS, Phase
from inception_deploy.networks import NETWORKS

each_network = pytest.mark.parametrize("name", NETWORKS.names())

one_of_each_kind = pytest.mark.parametrize(
    "name",
    [
        *("bn_inception", "googlenet_lrn", "inception_next_atto", "inception_resnet_v1"),
        *("inception_v3", "inception_v4", "xception", "xception41p"),
    ],
)

NOISE = 1e-5
"""Of the largest golden value: every rewrite is exact but for float32."""

EXPECTED = json.loads(GOLDEN.read_text(encoding="utf-8"))


@each_network
def test_operators_are_those_of_the_golden_file(name: str) -> None:
    """A difference is meant or it is a bug: `python tests/family_rewrites.py` accepts it."""
    assert counts(name) == EXPECTED[name]


def test_the_golden_file_knows_the_family() -> None:
    assert set(EXPECTED) == set(NETWORKS.names())


@each_network
def test_adds_no_more_than_float32_noise(name: str) -> None:
    for record in rewritten(name).records[1:]:
        if record.applied:
            assert record.error is not None
            assert record.error <= NOISE, record.name
            assert record.facts["block_error"] <= NOISE, record.name


@each_network
def test_never_more_multiply_adds_and_fewer_nodes_when_folded(name: str) -> None:
    found = counts(name)
    work, operators = found["multiply_adds"], found["operators"]
    assert work["folded"] <= work["exported"]
    if not any(FUSIONS.get(rewrite).grows for rewrite in found["applied"]):
        assert work["rewritten"] <= work["folded"]
    assert sum(operators["folded"].values()) <= sum(operators["exported"].values())


@one_of_each_kind
def test_one_run_leaves_nothing_to_do(name: str) -> None:
    model = rewritten(name).model
    for fusion in FUSIONS:
        again, applied, _ = rewrite(model, fusion)
        assert again is model, applied


@one_of_each_kind
def test_order_within_a_phase_gives_the_same_operators(name: str) -> None:
    model = exported(name).model
    keep = exported(name).golden.blocks
    backwards = list(FUSIONS)[::-1]
    for fusion in sorted(backwards, key=lambda fusion: fusion.phase):
        model, _, _ = rewrite(model, fusion, keep=keep)
    assert _operators(model) == _operators(rewritten(name).model)


@each_network
def test_new_nodes_are_named_after_their_block(name: str) -> None:
    before = {node.name for node in exported(name).model.graph.node}
    blocks = exported(name).golden.blocks
    for node in rewritten(name).model.graph.node:
        if node.name not in before:
            block = node.name.rpartition(".")[0]
            assert any(f"{block}.".startswith(f"{known}.") for known in blocks), node.name


@each_network
def test_asymmetric_pairs_have_an_activation_between(name: str) -> None:
    """1×7 and 7×1, 1×3 and 3×1: where one follows the other at once, both could be composed."""
    graph = folded(name).model.graph
    kernels = {node.output[0]: _kernel(node) for node in graph.node if node.op_type == "Conv"}
    for node in graph.node:
        if node.op_type == "Conv" and node.input[0] in kernels:
            first, second = kernels[node.input[0]], _kernel(node)
            assert 1 in (max(first), max(second)), f"{first} and {second} at '{node.name}'"


@each_network
def test_chains_without_activation_are_separable_convolutions(name: str) -> None:
    record = _record(folded(name), "linear_chain")
    assert not record.applied
    reasons = [entry.reason for entry in record.refused]
    kept = [r for r in reasons if "separable" in r or "an output of the graph or of a block" in r]
    assert reasons == kept
    assert bool(reasons) == name.startswith("xception")


@pytest.mark.parametrize("name", [n for n in NETWORKS.names() if n.startswith("inception_next")])
def test_inception_next_keeps_neither_norms_nor_scales(name: str) -> None:
    before, after = _operators(exported(name).model), _operators(folded(name).model)
    assert after == before - Counter(BatchNormalization=10**6, Mul=10**6)
    assert len(_record(folded(name), "residual_scale").applied) == before["Mul"]
    assert len(_record(folded(name), "norm_forward").applied) == before["BatchNormalization"] - 1


def test_the_embedding_takes_its_norm_in() -> None:
    assert [entry.node for entry in _record(folded("inception_resnet_v1"), "linear_norm").applied]
    assert not _operators(folded("inception_resnet_v1").model)["BatchNormalization"]


@pytest.mark.parametrize("name", ["xception41p", "xception65p"])
def test_pre_activation_norms_stay_and_say_why(name: str) -> None:
    """Each is followed by a Relu, and most by the skip connection too."""
    refused = _record(folded(name), "norm_forward").refused
    assert len(refused) == _operators(folded(name).model)["BatchNormalization"] > 0
    assert all("a Relu: it does not commute" in entry.reason for entry in refused)


@pytest.mark.parametrize(
    ("name", "pools"), [("inception_v3", 9), ("inception_v4", 14), ("inception_resnet_v2", 1)]
)
def test_every_average_pool_changes_places_with_its_projection(name: str, pools: int) -> None:
    exchange = [fusion for fusion in FUSIONS if fusion.name == "pool_projection"]
    model, applied, refused = rewrite(folded(name).model, exchange[0])
    assert len(applied) == pools
    assert not refused
    makers = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.op_type == "AveragePool":
            assert _kernel(makers[node.input[0]]) == (1, 1)


def test_every_phase_is_at_work_somewhere() -> None:
    used = {fusion for found in EXPECTED.values() for fusion in found["applied"]}
    assert {FUSIONS.get(name).phase for name in used} >= {Phase.FOLD, Phase.EXCHANGE, Phase.MERGE}


def _operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def _kernel(node: onnx.NodeProto) -> tuple[int, ...]:
    return next(tuple(a.ints) for a in node.attribute if a.name == "kernel_shape")


def _record(artifact: Artifact, fusion: str) -> StageRecord:
    return next(r for r in artifact.records if r.name == f"fuse/{fusion}")
