"""The report as a page: well-formed, self-contained, complete, safe, and honest about gaps."""

from __future__ import annotations

import base64
import hashlib
import itertools
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from report_pages import BUNDLES, NAMES, THIN, Page, bundle, changed, single

from inception_deploy.errors import BundleError
from inception_deploy.report import BundleData, render, write_report


@pytest.fixture(params=[*((name,) for name in NAMES), NAMES], ids="+".join)
def html(request: pytest.FixtureRequest) -> str:
    return render([bundle(name) for name in request.param])


# -- the page as such


def test_is_well_formed_with_unique_resolving_ids(html: str) -> None:
    page = Page(html)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    wanted = [i for _, a in page.elements for i in (a.get("aria-labelledby") or "").split()]
    wanted += [(a["href"] or "").removeprefix("#") for a in page.all("a")]
    assert set(wanted) <= set(ids)


def test_loads_nothing_from_elsewhere(html: str) -> None:
    page = Page(html)
    assert not page.all("script", "iframe", "object", "embed", "form", "base")
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "poster", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, name, value)
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
    without_pictures = re.sub(r"base64,[^\"]*", "", html)
    assert not re.search(r"https?:|//\w|@import|url\(", without_pictures)


def test_policy_allows_only_its_own_style(html: str) -> None:
    page = Page(html)
    (policy,) = (
        str(a["content"])
        for a in page.all("meta")
        if a.get("http-equiv") == "Content-Security-Policy"
    )
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"style-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_every_svg_is_named(html: str) -> None:
    page = Page(html)
    drawings = [n for n, (tag, _) in enumerate(page.elements) if tag == "svg"]
    assert len(drawings) >= 5
    for number in drawings:
        attributes = page.elements[number][1]
        assert attributes["role"] == "img"
        assert page.children[number][0] == "title"
        if attributes["class"] == "chart":
            assert page.children[number][1] == "desc"
    assert not re.search(r"<title[^>]*>\s*</title>|<desc[^>]*>\s*</desc>", html)


def test_headings_descend_one_at_a_time(html: str) -> None:
    levels = [int(tag[1]) for tag, _ in Page(html).elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))


def test_tables_have_captions_and_scoped_headings(html: str) -> None:
    page = Page(html)
    for number, (tag, _) in enumerate(page.elements):
        if tag == "table":
            assert page.children[number][0] == "caption"
    assert all(a.get("scope") in ("col", "row") for a in page.all("th"))
    assert all(a.get("alt") for a in page.all("img"))


def test_is_the_same_each_time() -> None:
    assert render([bundle(name) for name in NAMES]) == render([bundle(name) for name in NAMES])


def test_the_folders_name_does_not_show_in_a_single_report() -> None:
    data = bundle()
    moved = BundleData(".demo.x7f3", data.manifest, data.parity, data.throughput, data.samples)
    assert render([moved]) == render([data])


def test_the_pages_own_hash_is_left_out() -> None:
    data = changed(bundle(), "manifest", lambda m: m["files"].update({"report.html": "0" * 64}))
    assert render([data]) == render([bundle()])


# -- what it says


def test_given_figures_appear() -> None:
    text = single().text
    for figure in (
        "FP16 → ONNX Runtime",
        "agrees with PyTorch on 999 of 1,000 images; 3.2× faster at batch 1; 2.0× smaller.",
        f"96.40{THIN}%",
        f"96.30{THIN}%",
        "drop 0.10 points",
        f"95{THIN}% interval −0.28 to +0.56",
        f"99.90{THIN}%",
        "8.31×10⁻⁴",
        f"67.4{THIN}dB",
        f"3.07 / 3.31{THIN}ms",
        "319 images/s",
        "3.21× as fast",
        f"95{THIN}% interval 3.12 to 3.29",
        f"3.60{THIN}MB",
        f"1.81{THIN}MB",
        "1 harmful, 0 beneficial",
        "inception4e",
        "9.10×10⁻⁴",
        "57 applied",
        "3 refused",
        "kept in FP32: sums 9 values up to 31,200, beyond 65,504",
        "Resize the shorter side to 96 px",
        "AMD EPYC 9B14",
        "2.13.0+cpu",
        "inception-deploy export --fp16 --max-drop 1 -o build/demo",
        "2026-05-04T09:30:00+00:00",
        "other work on the machine?",
    ):
        assert figure in text, figure
    for digest in bundle().manifest["files"].values():
        assert digest in text


def test_sections_come_in_order() -> None:
    html = render([bundle()])
    titles = re.findall(r"<h2[^>]*>(.*?)</h2>", html)
    assert titles == [
        "Summary",
        "Speed and error",
        "Rewrites",
        "Precision asked and run",
        "Stages",
        "Sample images",
        "Preprocessing contract",
        "Environment",
        "Hashes",
        "How to reproduce",
    ]


def test_samples_tell_what_changed() -> None:
    page = single()
    assert len(page.all("img")) == 8
    assert "prediction changed, right to wrong" in page.text
    assert "wrong in both" in page.text
    assert f"48.12{THIN}%" in page.text


@pytest.mark.parametrize(
    ("verdict", "shown"),
    [
        ("PASS", "PASS"),
        ("FAIL", "FAIL"),
        ("INCONCLUSIVE", "INCONCLUSIVE"),
        ("NOT_ASKED", "No bound asked"),
    ],
)
def test_verdict_badge(verdict: str, shown: str) -> None:
    html = render([changed(bundle(), "parity", lambda p: p.update(verdict=verdict))])
    badges = re.findall(r'<span class="badge ([^"]*)">([^<]*)</span>', html)
    assert badges == [(verdict.lower(), shown)]


@pytest.mark.parametrize("name", NAMES)
def test_not_trained_is_loud(name: str) -> None:
    page = single(name)
    random = name == "inception_v3_fp32_random"
    assert ("banner" in page.classes()) == random
    assert ("NOT TRAINED" in page.text) == random


def test_slower_is_called_slower() -> None:
    def slow(throughput: dict[str, Any]) -> None:
        throughput["ratios"][0] |= {"ratio": 0.8, "ci95": [0.78, 0.82]}

    assert "1.2× slower at batch 1" in Page(render([changed(bundle(), "throughput", slow)])).text


def test_an_interval_that_holds_one_claims_nothing() -> None:
    text = single("inception_v3_fp32_random").text
    assert "64 of 64 images; about as fast at batch 1; the same size." in text


def test_a_stage_beyond_its_bound_alarms() -> None:
    def broken(manifest: dict[str, Any]) -> None:
        manifest["stages"][1]["error"] = 0.5

    page = Page(render([changed(bundle(), "manifest", broken)]))
    assert "beyond the bound" in page.text
    assert "alarm" in page.classes()
    assert "alarm" not in single().classes()


def test_without_a_command_the_recipe_reproduces() -> None:
    page = Page(render([changed(bundle(), "manifest", lambda m: m.update(command=None))]))
    assert "inception-deploy export --recipe recipe.toml -o DIR" in page.text


# -- hostile and missing input


HOSTILE = '<script>alert("1")</script>\'"><img src=x onerror=alert(1)>'


def _everywhere(value: Any, key: str = "") -> Any:
    """Every string of a JSON value made hostile, except those that are read as codes."""
    if isinstance(value, dict):
        return {name: _everywhere(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_everywhere(item, key) for item in value]
    kept = key in ("verdict", "image", "channel_order")
    return HOSTILE if isinstance(value, str) and not kept else value


def test_hostile_text_stays_text() -> None:
    data = bundle()
    names = {**_everywhere(data.manifest)}
    names["files"] = {HOSTILE: "x"}
    names["versions"] = {HOSTILE: HOSTILE}
    hostile = BundleData(
        HOSTILE,
        names,
        _everywhere(data.parity),
        _everywhere(data.throughput),
        _everywhere(list(data.samples or [])),
    )
    for html in (render([hostile]), render([hostile, data])):
        page = Page(html)
        assert "<script" not in html
        assert not page.all("script")
        assert all((a["src"] or "").startswith("data:image/") for a in page.all("img"))
        assert HOSTILE in page.text


def test_a_hostile_class_name_is_escaped() -> None:
    def rename(samples: list[dict[str, Any]]) -> None:
        samples[0]["label"] = samples[0]["reference"][0][0] = "<script>alert(1)</script>"

    html = render([changed(bundle(), "samples", rename)])
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


@pytest.mark.parametrize(
    "image",
    [
        "https://example.org/a.png",
        "data:text/html;base64,AAAA",
        'data:image/png;base64,AA" x="',
        "",
    ],
)
def test_a_picture_that_is_not_inline_is_refused(image: str) -> None:
    with pytest.raises(BundleError, match="not an inline JPEG or PNG"):
        changed(bundle(), "samples", lambda samples: samples[0].update(image=image))


def numbers(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every number that may be missing."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(pairs):
        if isinstance(item, dict | list):
            yield from numbers(item)
        elif type(item) in (int, float) and key not in ("schema", "batch", "size", "resize"):
            yield value, key


def _set_all(value: float | None, keep: tuple[str, ...] = ()) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for container, key in numbers(document):
            if key not in keep:
                container[key] = value

    return change


@pytest.mark.parametrize("file", ["parity", "throughput", "samples"])
@pytest.mark.parametrize("name", NAMES[::2])
def test_null_figures_are_not_measured(file: str, name: str) -> None:
    page = Page(render([changed(bundle(name), file, _set_all(None))]))
    assert "not measured" in page.text
    assert "None" not in page.text


@pytest.mark.parametrize("file", ["parity", "throughput", "samples"])
def test_nan_is_shown_as_nan(file: str) -> None:
    broken = changed(bundle(), file, _set_all(math.nan, keep=("images",)))
    page = Page(render([broken, bundle()]))
    assert "NaN" in page.text
    assert "nan" not in re.sub(r"<text[^>]*>", "", render([broken]))
    assert not [v for _, a in page.elements for v in a.values() if v and v.lower() == "nan"]


@pytest.mark.parametrize("value", [0, 0.0, 5e-324, 1e300, math.inf])
@pytest.mark.parametrize("file", ["parity", "throughput"])
def test_extreme_figures_draw(file: str, value: float) -> None:
    percentages = ("top1_agreement", "top5_agreement", "top1_reference", "top1_deployed", "images")
    page = Page(render([changed(bundle(), file, _set_all(value, keep=percentages))]))
    coordinates = " ".join(str(v) for tag, a in page.elements for v in a.values() if tag == "rect")
    assert not re.search(r"nan|inf\b", coordinates)


def test_a_bare_manifest_says_what_is_missing_and_why() -> None:
    page = Page(render([BundleData("bare", bundle().manifest)]))
    for reason in (
        "agreement with PyTorch was not measured",
        "there is no parity.json",
        "there is no throughput.json",
        "there is no samples.json",
        "Not measured",
    ):
        assert reason in page.text
    assert len([a for a in page.all("svg") if a["class"] == "chart"]) == 0


def test_unlabelled_and_exact_and_unmeasured_blocks_say_so() -> None:
    text = single("inception_v3_fp32_random").text
    for said in (
        "the images have no labels",
        "equal to the last bit",
        "the block's output is no tensor of the graph any more",
        "top-1 agreement with PyTorch, %",
    ):
        assert said in text


def test_a_features_head_has_no_classes() -> None:
    def features(parity: dict[str, Any]) -> None:
        parity.update(top1_agreement=None, top5_agreement=None, near_ties=None, flips=None)

    data = changed(bundle(), "manifest", lambda m: m.update(head="features"))
    assert "features have no classes" in render([changed(data, "parity", features)])


# -- writing


def test_writes_through_a_temporary_sibling(tmp_path: Path) -> None:
    output = tmp_path / "report.html"
    output.write_text("old")
    assert write_report([BUNDLES / NAMES[0]], output) == output
    assert output.read_text(encoding="utf-8") == render([bundle()])
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_an_output_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"cannot write .*existing folder"):
        write_report([BUNDLES / NAMES[0]], tmp_path / "missing" / "report.html")
    (tmp_path / "taken").mkdir()
    with pytest.raises(BundleError, match="cannot write"):
        write_report([BUNDLES / NAMES[0]], tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_no_bundles_is_an_error() -> None:
    with pytest.raises(BundleError, match="at least one bundle"):
        render([])


def test_importing_the_report_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'onnx', 'onnxruntime', 'numpy', 'PIL'} & set(sys.modules)"
    code = f"import sys, inception_deploy.report\nassert not {heavy}, {heavy}"
    subprocess.run([sys.executable, "-c", code], check=True)
