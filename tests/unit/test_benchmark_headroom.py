"""What exact rewrites gain in FP32: the arithmetic, and what is recorded of the family."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_graphs import build

from benchmarks.headroom import BATCHES, RESULTS, share_elsewhere, summary
from inception_deploy.networks import NETWORKS


def test_a_summary_has_geometric_means_and_the_least() -> None:
    rows = [
        {"network": "a", "batch": 1, "ratio": 1.0, "limit": 1.2},
        {"network": "a", "batch": 8, "ratio": 1.21, "limit": 1.2},
    ]
    assert summary(rows) == {
        "networks": 1,
        "ratio": {"geometric_mean": 1.1, "least": {"a batch 1": 1.0}},
        "limit": {"geometric_mean": 1.2, "least": {"a batch 1": 1.2}},
    }
    assert summary([]) == {}


@pytest.mark.parametrize(
    ("body", "low", "high"), [("Conv(input, w)", 0.0, 0.999), ("Sin(input)", 1, 1)]
)
def test_the_share_elsewhere_is_that_of_other_kernels(
    body: str, low: float, high: float, tmp_path: Path
) -> None:
    file = tmp_path / "graph.onnx"
    onnx.save(build(f"output = {body}", {"w": (64, 4, 3, 3)}, shape="batch, 4, 32, 32"), file)
    images = np.ones((4, 4, 32, 32), np.float32)
    assert low <= share_elsewhere(file, images) <= high


def test_the_recorded_family_gains_and_no_network_loses() -> None:
    recorded = json.loads(RESULTS.read_text(encoding="utf-8"))
    rows = recorded["rows"]
    assert [(r["network"], r["batch"]) for r in rows] == [
        (name, batch) for name in NETWORKS.names() for batch in BATCHES
    ]
    assert {key: recorded[key] for key in ("networks", "ratio", "limit")} == summary(rows)
    assert recorded["ratio"]["geometric_mean"] >= 1.03
    assert min(row["ratio"] for row in rows) >= 0.98
    for row in rows:
        assert row["limit"] == pytest.approx(1 / (1 - row["elsewhere"]))
        assert row["ratio"] == pytest.approx(row["plain_ms"] / row["rewritten_ms"], rel=0.15)
