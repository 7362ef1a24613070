"""A report of several bundles: compared first, told apart, and never too large."""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_pages import BUNDLES, NAMES, THIN, Page, bundle, changed

from inception_deploy import report
from inception_deploy.report import PICTURES, load_bundle, render
from inception_deploy.reporting.cells import Cell, merged


def test_comparison_comes_first_then_a_section_each() -> None:
    html = render([bundle(name) for name in NAMES[:3]])
    page = Page(html)
    assert "Comparison of 3 bundles" in page.text
    places = [html.index(f'id="{part}"') for part in ("comparison", "tradeoff-title", "b1", "b3")]
    assert places == sorted(places)
    for figure in ("3.21×", "5.16×", "10.50", "+8.62 to +12.51", f"961{THIN}kB", "871 of 1,000"):
        assert figure in page.text
    assert "Not shown: R2, 2 (no accuracy)." in page.text
    assert page.text.count("NOT TRAINED") >= 2


def test_bundles_of_one_network_are_told_apart_by_their_folders() -> None:
    def untrained(manifest: dict[str, Any]) -> None:
        manifest["weights"]["trained"] = False

    twins = [replace(bundle(), name=name) for name in ("before", "after")]
    twins[1] = changed(twins[1], "manifest", untrained)
    html = render(twins)
    assert '<a href="#b2">2. after</a>' in html  # in the banner
    for name in ("before", "after"):
        assert html.count(f"<b>{name}</b>") == 2  # in the table and above its section
    assert html.count('<a href="#comparison">back to the comparison</a>') == 2
    assert "back to the comparison" not in render(twins[:1])


def test_what_is_missing_for_one_reason_is_said_once() -> None:
    gap, other = Cell("not measured", "no labels", "missing"), Cell("not measured", "", "missing")
    found = merged("abcdefg", [gap, gap, gap, Cell("1"), other, gap, Cell("1")])
    assert [(heading, cell.span) for heading, cell in found] == [
        *(("a, b, c", 3), ("d", 1), ("e", 1), ("f", 1), ("g", 1)),
    ]
    alike = [Cell("1"), Cell("1")]
    assert [cell for _, cell in merged("ab", alike)] == alike


def test_different_machines_and_images_are_pointed_out() -> None:
    def moved(throughput: dict[str, Any]) -> None:
        throughput["machine"]["cpu"] = "another"

    def other(parity: dict[str, Any]) -> None:
        parity["data"]["digest"] = "0" * 64

    elsewhere = changed(changed(bundle(), "throughput", moved), "parity", other)
    alike, apart = render([bundle(), bundle()]), render([bundle(), elsewhere])
    for warning in ("compare ratios, not milliseconds", "compare drops, not accuracies"):
        assert warning in apart
        assert warning not in alike


def test_twenty_bundles_are_quick_and_small() -> None:
    many = [bundle(NAMES[n % 3]) for n in range(20)]
    started = time.perf_counter()
    html = render(many)
    assert time.perf_counter() - started < 5
    assert len(html.encode()) < 3_000_000
    Page(html)


def test_twenty_bundles_on_disk_share_their_pictures(tmp_path: Path) -> None:
    paths = []
    for number in range(20):
        paths.append(tmp_path / f"bundle{number}")
        shutil.copytree(BUNDLES / "googlenet_int8_bench", paths[-1])
    started = time.perf_counter()
    page = render([load_bundle(path) for path in paths])
    assert time.perf_counter() - started < 5
    assert len(page.encode()) < 3_000_000
    assert page.count("The first sample image after the step crop") == 1  # shown once
    samples = len(load_bundle(paths[0]).sample_records)
    assert page.count('<image id="p') == samples > 1
    assert page.count("<use href=") == 19 * samples  # and drawn again without its bytes
    assert page.count("data:image/") == samples + 4  # and the steps
    assert page.count("Pictures of each step: as for") == 19


def test_a_page_holds_so_many_pictures_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty bundles, each tried on images of its own: the first ones show theirs."""
    bundles = []
    for number in range(20):
        path = tmp_path / f"bundle{number}"
        shutil.copytree(BUNDLES / "googlenet_int8_bench", path)
        samples = path / "samples.json"
        samples.write_text(samples.read_text().replace("base64,", f"base64,{number:04}"))
        bundles.append(load_bundle(path))

    def pictures(page: str) -> set[str]:
        return set(re.findall(r'"(data:image/[^"]*)"', page))

    one = pictures(render(bundles[-1:]))
    size = sum(map(len, one))
    assert 2 * size < PICTURES, "the pictures of one bundle are small"
    monkeypatch.setattr(report, "PICTURES", 3 * size + size // 2)
    page = render(bundles)
    assert len(pictures(page)) == 3 * len(one)
    assert page.count("a report of this bundle alone shows them") == 17
    monkeypatch.setattr(report, "PICTURES", size // 2)
    page = render([bundles[-1], replace(bundles[-1], name="again")])
    assert pictures(page) == one, "one bundle keeps its own whatever they take, and lends them"
    assert "a report of this bundle alone" not in page
