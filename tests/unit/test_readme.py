"""The documents say what the result files say, and name things that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.readme import DOCUMENTS, render

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_figures_are_those_of_the_result_files(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "<!-- figures:" in text
    assert render(text) == text, "run `python -m benchmarks.readme`"


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_every_room_of_the_architecture_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for name in re.findall(r"^\| (`[^|]+`) \|", text, re.MULTILINE):
        for room in re.findall(r"`([^`]+)`", name):
            assert (ROOT / "inception_deploy" / room).exists(), room


def test_every_module_has_a_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    modules = {p.name for p in (ROOT / "inception_deploy").glob("*.py")} - {"__init__.py"}
    assert not {m for m in modules if f"`{m}`" not in text}
