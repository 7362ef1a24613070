"""The plot of a mixing: which choices it shows, and when there is none."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

from inception_deploy.reporting.mixing_plot import mixing_plot


def point(kept: list[str], **fields: Any) -> dict[str, Any]:
    plain = {"sqnr_db": None, "predicted_sqnr_db": None, "top1_drop": None, "exact": False}
    return {**plain, "kept_float": kept, "measured": False, "front": True, **fields}


MIXING: dict[str, Any] = {
    "met": True,
    "reason": "1 of 3 blocks stays in float",
    "kept_float": ["<b>"],
    "sensitivity": [{"block": "<b>", "nodes": 1, "noise": 1.0, "extra_ms": 0.1}],
    "pareto": [
        point([], predicted_ms=1.0, sqnr_db=20.0, measured=True),
        point(["<b>"], predicted_ms=1.1, sqnr_db=35.0, measured=True),
        point(["<b>", "c"], predicted_ms=1.5, predicted_sqnr_db=41.0),
        point(["c"], predicted_ms=1.4, predicted_sqnr_db=21.0, front=False),
        point(["<b>", "c", "d"], predicted_ms=2.0),
    ],
}


def test_one_dot_per_choice_worth_having() -> None:
    chart = mixing_plot(MIXING)
    assert chart is not None
    dots = [e for e in ET.fromstring(chart).iter() if e.tag.endswith("circle")]
    assert len(dots) == 3
    tips = {"".join(dot.itertext()) for dot in dots}
    assert "1 blocks in float (<b>): 35.0 dB measured, 1.1 ms" in tips
    assert "2 blocks in float (<b>, c): 41.0 dB predicted, 1.5 ms" in tips
    assert sum("hollow" in dot.attrib["class"] for dot in dots) == 1
    assert sum("s1" in dot.attrib["class"].split() for dot in dots) == 1


def test_without_a_choice_there_is_no_plot() -> None:
    assert mixing_plot(None) is None
    assert mixing_plot({**MIXING, "sensitivity": []}) is None
    assert mixing_plot({**MIXING, "pareto": MIXING["pareto"][-1:]}) is None
