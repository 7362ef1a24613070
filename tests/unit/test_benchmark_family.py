"""The measurement of the family at native size: what it measures, and what it has recorded."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from small_graphs import build

from benchmarks.family import (
    BOUND,
    CLEAR,
    IMAGES,
    RESULTS,
    Row,
    centre_classifier,
    choices,
    measure,
)
from inception_deploy.artifact import FloatArray
from inception_deploy.dataset import Batch
from inception_deploy.networks import NETWORKS
from inception_deploy.random_weights import random_network


@pytest.fixture(scope="module")
def small() -> Row:
    return measure("googlenet", size=64)


def test_a_network_is_measured(small: Row) -> None:
    spec = NETWORKS.get("googlenet")
    assert (small.size, small.params) == (64, spec.params)
    assert 0 < small.macs < spec.macs
    assert 0 < small.fp32_error <= BOUND
    assert small.fp32_error < small.fp16_error <= small.fp16_bound
    assert small.worst_block in {name for name, _ in spec.build().blocks()}
    assert small.fp16.images == IMAGES
    assert small.fp16.clear_disagreeing == 0
    assert small.fp16.classes > IMAGES // 4
    assert small.problems == ()
    assert small.peak_gib > 0.1


def test_rows_survive_json(small: Row) -> None:
    row = replace(small, problems=("fp16: model.onnx is missing",))
    assert Row.from_dict(json.loads(json.dumps(asdict(row)))) == row


def batch(values: FloatArray) -> Batch:
    """Images (N, 4, 6, 6) whose channels are constant; their means are `values` (N, 4)."""
    images = np.broadcast_to(values[:, :, None, None], (*values.shape, 6, 6))
    names = tuple(map(str, range(len(values))))
    return Batch(np.ascontiguousarray(images), None, np.arange(len(values)), names)


def test_only_near_ties_may_change_the_first_choice() -> None:
    graph = build("mean = GlobalAveragePool(input)\n output = Flatten(mean)").SerializeToString()
    reference = np.array(
        [[4, 1, 0, 0], [0, 4, 1, 0], [0, 1.1, 1, 0], [0, 0, 1, 1.1], [0, 3, 1, 0]], np.float32
    )
    deployed = reference.copy()
    deployed[2] = [0, 1, 1.1, 0]  # a near tie that falls the other way
    deployed[4] = [3, 1, 0, 0]  # a clear answer that changes
    found = choices(lambda _: reference, graph, [batch(deployed)], margin=0.5)
    assert (found.images, found.classes, found.agreeing) == (5, 3, 3)
    assert (found.near_ties, found.clear_disagreeing) == (2, 1)
    assert found.error == pytest.approx(3 / 4, abs=1e-6)


def test_centred_logits_have_no_mean() -> None:
    spec = NETWORKS.get("googlenet")
    module = random_network(spec, 0, num_classes=9, width=0.125, image_size=64)
    images = torch.randn(20, 3, 64, 64)
    with torch.no_grad():
        assert float(module(images).mean(0).abs().max()) > 1e-3
        centre_classifier(module, spec.classifier, images)
        assert float(module(images).mean(0).abs().max()) < 1e-6


def test_recorded_rows_keep_every_promise() -> None:
    recorded = json.loads(RESULTS.read_text(encoding="utf-8"))
    rows = [Row.from_dict(row) for row in recorded["networks"]]
    assert [row.network for row in rows] == list(NETWORKS.names())
    assert sum(row.seconds for row in rows) < 20 * 60
    for row in rows:
        spec = NETWORKS.get(row.network)
        assert (row.size, row.params, row.macs) == (spec.input_size, spec.params, spec.macs)
        assert max(row.fp32_error, row.fp32_block_error) <= recorded["bound"] == BOUND
        assert row.fp16_error <= row.fp16_bound
        assert row.fp16.images - row.fp16.near_ties >= CLEAR
        assert row.fp16.clear_disagreeing == 0
        assert row.problems == ()
        assert row.peak_gib < 6
