"""Charts: the geometry says what the figures say."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from markupsafe import Markup

from inception_deploy.report import load_bundle
from inception_deploy.reporting.canvas import WIDTH, Heading, shorten
from inception_deploy.reporting.charts import Bar, Dot, Line, Panel, bars, depth, lines, span
from inception_deploy.reporting.facts import Facts
from inception_deploy.reporting.plots import tradeoff
from inception_deploy.reporting.scales import linear_ticks, log_ticks, tick_labels
from inception_deploy.reporting.scatter import Bubble, bubbles

BUNDLES = Path(__file__).parents[1] / "golden" / "report_bundle"
HEADING = Heading("x", "A <title>", "A description")


def parsed(svg: Markup) -> ElementTree.Element:
    """Charts are XML on their own, too."""
    return ElementTree.fromstring(svg)


def circles(svg: Markup, kind: str = "") -> list[ElementTree.Element]:
    return [e for e in parsed(svg).iter("circle") if kind in e.attrib["class"]]


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0, 158), (95.84, 96.68), (0, 3e-7), (5, 5), (0, 0), (-2, 3)]
)
def test_linear_ticks_enclose(low: float, high: float) -> None:
    ticks = linear_ticks(low, high)
    assert ticks[0] <= low <= high <= ticks[-1]
    assert 2 <= len(ticks) <= 8
    steps = [b - a for a, b in itertools.pairwise(ticks)]
    assert max(steps) == pytest.approx(min(steps))
    assert len(set(tick_labels(ticks))) == len(ticks)


@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize(("low", "high"), [(1e-7, 1e-3), (2e-4, 9e-4), (1, 1), (1.2, 512), (3, 70)])
def test_log_ticks_enclose(low: float, high: float, fine: bool) -> None:
    ticks = log_ticks(low, high, fine=fine)
    assert ticks[0] <= low * (1 + 1e-9)
    assert ticks[-1] >= high * (1 - 1e-9)


def test_bars_are_proportional_from_zero() -> None:
    panel = Panel("batch 1", (Bar("a", (2.0, 3.0, 4.0), "", 0), Bar("b", (1.0, 1.0, 1.0), "", 1)))
    svg = bars([panel], ("p50", "p95", "p99"), HEADING, shared=False)
    drawn = [e.attrib for e in parsed(svg).iter("rect") if e.attrib["height"] == "10"]
    widths = [float(e["width"]) for e in drawn]
    assert widths == pytest.approx([WIDTH / 2, WIDTH / 4, WIDTH / 4, WIDTH / 4, 0, 0])
    assert [float(e["x"]) for e in drawn[:3]] == pytest.approx([0, WIDTH / 2, WIDTH * 3 / 4])


def test_bars_share_a_scale_only_when_told() -> None:
    panels = [Panel(str(n), (Bar("a", (float(n),), "", 0),)) for n in (1, 4)]
    for shared, ratio in ((True, 4), (False, 1)):
        svg = bars(panels, (), HEADING, shared=shared)
        first, second = (float(e.attrib["width"]) for e in parsed(svg).iter("rect"))
        assert second / first == pytest.approx(ratio)


def test_lines_skip_what_was_not_measured() -> None:
    series = [Line("a", (1.0, None, 4.0), 1), Line("b", (math.nan, 2.0, 3.0), 2)]
    svg = lines(["1", "8", "32"], series, HEADING, x_label="batch", y_label="images/s")
    paths = [e.attrib["points"].split() for e in parsed(svg).iter("polyline")]
    assert [len(points) for points in paths] == [2, 2]
    assert "nan" not in svg
    heights = [float(point.split(",")[1]) for point in paths[0]]
    assert heights[0] > heights[1]  # SVG counts downwards


def test_depth_keeps_the_order_and_the_decades() -> None:
    rows = [Dot("first", 1e-6), Dot("second", 1e-5), Dot("third", 1e-4)]
    marks = circles(depth(rows, HEADING, x_label="error"))
    xs = [float(e.attrib["cx"]) for e in marks]
    ys = [float(e.attrib["cy"]) for e in marks]
    assert ys == sorted(ys)
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)


def test_depth_breaks_where_there_is_no_figure() -> None:
    rows = [Dot("a", 1e-6), Dot("b", 2e-6), Dot("c", None), Dot("d", 3e-6), Dot("e", math.nan)]
    svg = depth([*rows, Dot("f", 0.0), Dot("g", 2e-6), Dot("h", 3e-6)], HEADING, x_label="error")
    assert len(circles(svg)) == 5
    assert len(list(parsed(svg).iter("polyline"))) == 2
    for said in ("not measured", "NaN", "exact", "3.00×10⁻⁶"):
        assert said in svg


@pytest.mark.parametrize("values", [[], [None], [0.0, 0.0], [5e-324], [1e300, 1e-300], [math.inf]])
def test_depth_draws_whatever_comes(values: list[float | None]) -> None:
    svg = depth([Dot(f"b{n}", v) for n, v in enumerate(values)], HEADING, x_label="error")
    xs = [float(e.attrib["cx"]) for e in circles(svg)]
    assert all(0 <= x <= WIDTH for x in xs)


def test_span_fills_its_part_and_never_vanishes() -> None:
    rects = list(parsed(span(2, 3, 4, HEADING)).iter("rect"))
    assert (rects[1].attrib["x"], rects[1].attrib["width"]) == ("50", "25")
    sliver = list(parsed(span(4, 4, 4, HEADING)).iter("rect"))[1]
    assert (sliver.attrib["x"], sliver.attrib["width"]) == ("99", "1")
    assert list(parsed(span(0, 0, 0, HEADING)).iter("rect"))[1].attrib["x"] == "0"


def test_bubble_area_is_the_size() -> None:
    points = [Bubble("a", "", 1, 90, 4e6), Bubble("b", "", 2, 91, 1e6)]
    svg = bubbles(points, HEADING, x_label="x", y_label="y", limit=100)
    large, small = (float(e.attrib["r"]) for e in circles(svg, "bubble"))
    assert (large / small) ** 2 == pytest.approx(4, rel=0.02)


def test_small_differences_do_not_look_like_cliffs() -> None:
    points = [Bubble("a", "", 1, 99.9, 1), Bubble("b", "", 2, 99.8, 1)]
    a, b = circles(bubbles(points, HEADING, x_label="x", y_label="y", limit=100), "bubble")
    assert abs(float(a.attrib["cy"]) - float(b.attrib["cy"])) < 20


@pytest.mark.parametrize("count", [1, 2, 40])
def test_bubbles_stay_inside(count: int) -> None:
    points = [Bubble(f"n{n}", "", 1.5**n, 100 - n / 2, 2.0**n) for n in range(count)]
    svg = bubbles(points, HEADING, x_label="x", y_label="y", limit=100)
    height = float(parsed(svg).attrib["viewBox"].split()[3])
    for circle in circles(svg, "bubble"):
        x, y, r = (float(circle.attrib[key]) for key in ("cx", "cy", "r"))
        assert x - r >= 0
        assert x + r <= WIDTH + 0.1
        assert y - r >= 0
        assert y + r <= height


def test_pareto_front_is_hollow_where_dominated() -> None:
    bundles = [Facts(load_bundle(BUNDLES / n)) for n in ("googlenet_fp16", "googlenet_int8_fail")]
    plot = tradeoff(bundles, "t")
    assert plot.svg is not None
    # the reference is the most accurate, FP16 in between, INT8 the fastest and smallest
    assert len(circles(plot.svg, "bubble")) == 3
    assert circles(plot.svg, "hollow") == []
    worse = tradeoff([bundles[0], bundles[1], _worsened(bundles[1])], "t")
    assert worse.svg is not None
    (hollow,) = circles(worse.svg, "hollow")
    assert "70.00" in "".join(hollow.itertext())


def _worsened(facts: Facts) -> Facts:
    data = facts.data
    parity = {**(data.parity or {}), "top1_deployed": 70.0}
    return Facts(type(data)("worse", data.manifest, parity, data.throughput))


def test_labels_are_escaped_and_cut() -> None:
    svg = bars([Panel("<b>", (Bar("&" * 200, (1.0,), "<i>", 0),))], (), HEADING, shared=True)
    assert "<b>" not in svg
    assert "<i>" not in svg
    assert "A &lt;title&gt;" in svg
    assert "…" in "".join(parsed(svg).itertext())
    assert shorten("short", 100) == "short"


def test_series_differ_in_shape_as_well_as_colour() -> None:
    series = [Line(str(n), (1.0, 2.0), n) for n in range(4)]
    svg = lines(["1", "2"], series, HEADING, x_label="", y_label="")
    shapes = re.findall(r"<(rect|circle|polygon) ", svg)
    assert {shapes.count(shape) for shape in ("rect", "circle")} == {3}
    assert shapes.count("polygon") == 6
