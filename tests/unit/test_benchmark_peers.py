"""The peers' table: how rows become means, and what the recorded figures hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_graphs import build

from benchmarks.native import cycled, geometric_mean, kept_rows, noise_images
from benchmarks.peer_graphs import FLOAT, MODELOPT, STOCK, STOCK_LANES, candidates, opened
from benchmarks.peers import summary
from inception_deploy.engines.onnxruntime import OnnxRuntimeSession
from inception_deploy.networks import NETWORKS


def row(network: str, ratio: float, *, weights: str = "random:0") -> dict[str, Any]:
    return {
        **{"network": network, "weights": weights},
        "sqnr_db": {"onnxruntime:ours": 33.5, STOCK: 30.0},
        "median_ms": {"1": {"onnxruntime:ours": 10.0, STOCK: 10.0 * ratio, "onnxruntime:fp32": 1}},
        "ratios": [
            {"batch": 1, "ours": "onnxruntime:ours", "to": STOCK, "ratio": ratio, "ci95": [1, 2]},
            {"batch": 1, "ours": "onnxruntime:ours", "to": "onnxruntime:fp32", "ratio": 0.1},
        ],
    }


def test_ours_is_compared_with_the_peer_on_the_same_engine() -> None:
    found = summary([row("googlenet", 1.2), row("xception", 2.7)])["onnxruntime"]
    assert found["peer"] == STOCK
    assert found["geometric_mean"] == pytest.approx(1.8)
    assert found["worst"] == {"googlenet, batch 1": 1.2}
    assert found["sqnr_gain_db"] == {"googlenet, random:0": 3.5, "xception, random:0": 3.5}


def test_sqnr_is_compared_with_the_best_of_several_peers() -> None:
    both = dict.fromkeys(MODELOPT.values(), 30.0) | {MODELOPT["max"]: 32.0}
    shown = {**row("googlenet", 1.2), "sqnr_db": {"tensorrt:ours": 33.5, **both}}
    assert summary([shown])["tensorrt"]["sqnr_gain_db"] == {"googlenet, random:0": 1.5}


def test_fp32_is_no_peer() -> None:
    best = summary([row("googlenet", 1.2)])["best of ours to best of the peers"]
    assert best == {"geometric_mean": 1.2, "ratios": {"googlenet, batch 1": 1.2}}


def in_lanes(row: dict[str, Any], ratio: float) -> dict[str, Any]:
    """The row with the peer's graph in lanes, too, faster than all others."""
    medians = {batch: {**ms, STOCK_LANES: 0.1} for batch, ms in row["median_ms"].items()}
    to = {"batch": 1, "ours": "onnxruntime:ours", "to": STOCK_LANES, "ratio": ratio, "ci95": [1, 2]}
    return {**row, "median_ms": medians, "ratios": [*row["ratios"], to]}


def test_graphs_are_compared_apart_where_the_peer_ran_in_lanes_and_count_as_no_peer() -> None:
    rows = [row("googlenet", 1.2), row("xception", 2.7)]
    without = summary(rows)
    assert "graph_against_graph" not in without["onnxruntime"]
    found = summary([rows[0], in_lanes(rows[1], 2.5)])  # an older row beside a new one
    graphs = found["onnxruntime"].pop("graph_against_graph")
    assert graphs == {"geometric_mean": 2.5, "ratios": {"xception, batch 1": 2.5}}
    assert found == without


def test_peers_run_as_their_users_run_them_and_ours_as_ours_do(tmp_path: Path) -> None:
    bundle = tmp_path / "ours-onnxruntime"
    bundle.mkdir()
    graph = build("output = Relu(input)").SerializeToString()
    for file in (bundle / "model.onnx", bundle / "reference.onnx"):
        file.write_bytes(graph)
    (tmp_path / "quantize_static.onnx").write_bytes(graph)
    cut = {}
    for key, (engine, file) in candidates(tmp_path).items():
        session = opened(key, engine, file)
        if isinstance(session, OnnxRuntimeSession):
            cut[key] = session._may_lane
    assert cut == {"onnxruntime:ours": True, STOCK: False, STOCK_LANES: True, FLOAT: False}


def test_networks_beside_the_table_are_not_in_its_means() -> None:
    assert summary([row("bn_inception", 5.0)]) == {}


def test_a_row_without_times_has_its_sqnr_only() -> None:
    untimed = {
        k: v for k, v in row("googlenet", 9.0, weights="embedded").items() if k != "median_ms"
    }
    del untimed["ratios"]
    timed = row("googlenet", 1.5)
    found = summary([timed, {**untimed, "sqnr_db": timed["sqnr_db"]}])["onnxruntime"]
    assert found["geometric_mean"] == 1.5
    assert set(found["sqnr_gain_db"]) == {"googlenet, random:0", "googlenet, embedded"}


def test_rows_of_other_versions_are_dropped() -> None:
    now = {"machine": {"cpu": "a"}, "versions": {"onnx": "1"}}
    rows = [row("googlenet", 1.2)]
    assert kept_rows({**now, "rows": rows}, now) == rows
    assert kept_rows({**now, "versions": {"onnx": "2"}, "rows": rows}, now) == []
    assert kept_rows({}, now) == []


def test_noise_is_seeded_and_leaves_the_generator_alone() -> None:
    preprocessing = NETWORKS.get("googlenet").preprocessing.with_size(64)
    first = noise_images(preprocessing, 2)
    assert first.shape == (2, 3, 64, 64)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, noise_images(preprocessing, 2))
    assert np.abs(first - noise_images(preprocessing, 2, seed=2)).max() > 0.1


def test_batches_begin_again_where_images_run_out() -> None:
    images = np.arange(3, dtype=np.float32)
    np.testing.assert_array_equal(cycled(images)(5), [0, 1, 2, 0, 1])


def test_the_geometric_mean_of_inverse_ratios_is_one() -> None:
    assert geometric_mean([4.0, 0.25]) == pytest.approx(1.0)
