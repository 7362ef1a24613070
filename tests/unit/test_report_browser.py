"""The report laid out by a real browser: nothing wider than the window, the style not blocked."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from inception_deploy.report import load_bundle, render

BUNDLES = Path(__file__).parents[1] / "golden" / "report_bundle"
NAMES = (
    *("googlenet_fp16", "inception_v3_fp32_random", "googlenet_int8_fail"),
    "googlenet_int8_bench",
)
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")

# The frame has the width under test: a window of a headless browser has a minimum of its own.
WRAPPER = """<!DOCTYPE html><meta charset="utf-8"><body>
<iframe style="width:{width}px;height:2000px;border:0" srcdoc="{page}"></iframe>
<script>
addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument;
  const root = page.documentElement;
  for (const details of page.querySelectorAll("details")) details.open = true;
  const inside = (e) => e.closest(".scroller, pre, .unseen, .stack thead");
  const wide = [...page.body.querySelectorAll("*")]
    .filter((e) => !inside(e) && e.getBoundingClientRect().right > root.clientWidth + 1)
    .map((e) => e.tagName + "." + e.getAttribute("class"));
  const narrow = [...page.querySelectorAll("caption, p, li, figcaption")]
    .filter((e) => !inside(e) && e.textContent.trim().length > 20)
    .filter((e) => e.getBoundingClientRect().width < 100)
    .map((e) => e.tagName + ": " + e.textContent);
  const style = getComputedStyle(page.body);
  const texts = [...page.querySelectorAll(".chart text")].map((e) => {{
    const text = e.getBoundingClientRect();
    const chart = e.closest("svg").getBoundingClientRect();
    const out = Math.max(chart.left - text.left, text.right - chart.right);
    return [e.textContent, out, text.height];
  }});
  document.body.textContent = JSON.stringify({{
    scroll: root.scrollWidth, client: root.clientWidth, wide, narrow, margin: style.margin, texts,
  }});
}});
</script>"""


def browser(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Headless, with what pages write to the console on stderr."""
    command = [
        *(str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *("--disable-dev-shm-usage", "--disable-background-networking", "--no-first-run"),
        *("--disable-component-update", "--enable-logging=stderr"),
        f"--user-data-dir={tmp_path / 'profile'}",
        *arguments,
    ]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)


def measured(names: tuple[str, ...], width: int, tmp_path: Path) -> dict[str, Any]:
    page = render([load_bundle(BUNDLES / name) for name in names])
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(WRAPPER.format(width=width, page=html.escape(page)), encoding="utf-8")
    done = browser(tmp_path, "--virtual-time-budget=5000", "--dump-dom", wrapper.as_uri())
    found = re.search(r"<body>(.*)</body>", done.stdout, re.DOTALL)
    assert found, done.stdout[-500:]
    return dict(json.loads(html.unescape(found.group(1))))


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("names", [NAMES[:1], NAMES[3:], NAMES], ids=["one", "benched", "four"])
def test_fits_the_window(names: tuple[str, ...], width: int, tmp_path: Path) -> None:
    layout = measured(names, width, tmp_path)
    assert layout["client"] == width
    assert layout["wide"] == []
    assert layout["narrow"] == []  # nothing printed one letter below the other
    assert layout["scroll"] <= width
    assert layout["margin"] == "0px"  # the style sheet passed the page's own policy
    cut = [text for text, beyond, _ in layout["texts"] if beyond > 2]
    assert cut == []  # no chart label sticks out of its chart
    assert min(height for *_, height in layout["texts"]) > 9  # readable, also on the phone


def test_console_stays_silent_and_paper_is_a4(tmp_path: Path) -> None:
    page, paper = tmp_path / "report.html", tmp_path / "report.pdf"
    page.write_text(render([load_bundle(BUNDLES / name) for name in NAMES]), encoding="utf-8")
    done = browser(tmp_path, f"--print-to-pdf={paper}", "--no-pdf-header-footer", page.as_uri())
    assert "CONSOLE" not in done.stderr
    boxes = re.findall(rb"/MediaBox\s*\[\s*0 0 ([\d.]+) ([\d.]+)\s*\]", paper.read_bytes())
    assert len(boxes) > 4
    for width, height in boxes:  # points of 1/72 inch
        assert abs(float(width) - 595.3) < 1.5
        assert abs(float(height) - 841.9) < 1.5


def test_the_console_would_be_heard(tmp_path: Path) -> None:
    page = tmp_path / "loud.html"
    page.write_text("<script>console.error('heard')</script>", encoding="utf-8")
    assert "CONSOLE" in browser(tmp_path, "--dump-dom", page.as_uri()).stderr
