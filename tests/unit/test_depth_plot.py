"""The plot of errors over depth, and its page."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from inception_deploy.errors import BundleError
from inception_deploy.reporting.depth_plot import (
    depth_plot,
    depth_table,
    located_section,
    write_page,
)


def row(name: str, own: float | None, depth: float | None, *, jumps: bool = False) -> Any:
    place = {"block": name.split(".")[0], "module": name, "node": name, "tensor": name}
    return {
        **{"stage": "lower/int8", "place": place, "own": own, "own_rms": own, "depth": depth},
        **{"depth_rms": depth, "allowed": 0.03, "jumps": jumps},
    }


def located(*rows: Any, findings: tuple[Any, ...] = ()) -> dict[str, Any]:
    return {
        **{"network": "n & m", "precision": "int8", "target": "onnxruntime", "images": 8},
        **{"rows": list(rows), "findings": list(findings)},
        "transitions": [{"between": "a → b", "skipped": "no <engine>"}],
    }


FOUND = located(
    row("stem", 0.001, 0.001),
    row("mixed.branch", 0.4, 0.4, jumps=True),
    row("fc", 0.0, None),
    findings=(
        {
            "stage": "lower/int8",
            "place": {"block": "mixed", "node": "mixed.branch"},
            "said": "adds <much>",
            "causes": ["a", "b"],
        },
    ),
)


def test_every_tensor_has_a_mark_and_the_jump_its_name() -> None:
    plot = depth_plot(FOUND, "lower/int8", "p")
    assert plot is not None
    root = ElementTree.fromstring(plot)
    texts = ["".join(e.itertext()) for e in root.iter() if e.tag.endswith("text")]
    titles = [e.text or "" for e in root.iter() if e.tag.endswith("title")]
    assert "mixed.branch" in texts
    assert {"stem", "fc"} <= set(texts)
    assert [t for t in titles if t.startswith(("stem:", "mixed.branch:", "fc:"))] == [
        "stem: 0.00100, allowed 0.0300",
        "mixed.branch: 0.400, allowed 0.0300",
        "fc: 0, allowed 0.0300",
    ]


def test_marks_are_inside_of_the_drawing() -> None:
    plot = depth_plot(located(row("a", 1e-30, 1e30), row("b", None, None)), "lower/int8", "p")
    assert plot is not None
    root = ElementTree.fromstring(plot)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for element in root.iter():
        if element.tag.endswith("circle"):
            assert 0 <= float(element.attrib["cx"]) <= width
            assert 0 <= float(element.attrib["cy"]) <= height


def test_a_stage_without_rows_has_no_plot() -> None:
    assert depth_plot(FOUND, "export", "p") is None
    assert located_section(None, "p") is None


def test_text_is_escaped() -> None:
    section = located_section(FOUND, "p")
    assert section is not None
    assert "adds &lt;much&gt;" in section
    assert "no &lt;engine&gt;" in section
    assert "a; b" in depth_table(FOUND)
    assert "Nothing found" in (located_section(located(row("a", 0.0, 0.0)), "p") or "")


def test_the_page_stands_alone(tmp_path: Path) -> None:
    page = write_page(FOUND, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "n &amp; m" in page
    assert "default-src 'none'" in page
    assert page.count("<svg") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(BundleError, match="cannot write"):
        write_page(FOUND, tmp_path / "nowhere" / "page.html")
