"""The recorded build matrix: everything was built, ran as asked, and the summary is of its rows."""

from __future__ import annotations

import json
from typing import Any

from small_graphs import build

from benchmarks.build_matrix import FORMATS, NETWORKS, RESULTS, pooled_values, summary

RECORDED: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))


def test_every_engine_was_built() -> None:
    rows = RECORDED["rows"]
    assert all(row["ok"] for row in rows)
    assert {row["network"] for row in rows} >= set(NETWORKS)
    assert {row["precision"] for row in rows} == set(FORMATS)
    assert not RECORDED["executed"]


def test_the_summary_is_that_of_the_rows() -> None:
    assert RECORDED["summary"] == summary(RECORDED["rows"])
    for name in ("int8", "fp8"):
        assert RECORDED["summary"][name]["ran as asked"] == RECORDED["summary"][name]["asked"]


def test_the_rewrite_that_runs_leaves_the_pools_less() -> None:
    counted = RECORDED["pool_projection"]
    assert counted["inception_v3"]["after"] < counted["inception_v3"]["before"] / 4
    assert all(counts["after"] <= counts["before"] for counts in counted.values())


def test_what_pools_read() -> None:
    model = build(
        "p = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(input)\n"
        "r = Relu(p)\n output = GlobalAveragePool(r)"
    )
    model.graph.value_info.append(model.graph.input[0])
    assert pooled_values(model) == 4 * 6 * 6
