"""Bars, lines, dots over depth and a timeline strip, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from inception_deploy.reporting.canvas import (
    CHARACTER,
    PALETTE_SIZE,
    WIDTH,
    Canvas,
    Heading,
    shorten,
    tidy,
)
from inception_deploy.reporting.numerals import power_of_ten, significant
from inception_deploy.reporting.scales import linear_ticks, log_ticks, tick_labels

__all__ = ["Bar", "Dot", "Line", "Panel", "bars", "depth", "lines", "span"]


# An error axis starts at most twelve decades below its largest value, and never ends below this.
_DEPTH_RANGE = 1e-12
_LEAST_ERROR = 1e-30


@dataclass(frozen=True)
class Bar:
    """A horizontal bar with ascending `ends`: solid to the first, paler to each further one."""

    label: str
    ends: tuple[float, ...]
    text: str
    series: int


@dataclass(frozen=True)
class Panel:
    """Bars that belong together under one heading."""

    heading: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Line:
    """One series over shared categories; None where it has no point.

    Args:
        knee: the category to be marked as the knee.
    """

    label: str
    values: tuple[float | None, ...]
    series: int
    knee: int | None = None


@dataclass(frozen=True)
class Dot:
    """One row of a depth chart; None where nothing was measured."""

    label: str
    value: float | None


def bars(
    panels: Sequence[Panel], parts: Sequence[str], heading: Heading, *, shared: bool
) -> Markup:
    """Horizontal bars from zero, label above each.

    Args:
        parts: names of the bars' ends, for the legend; one name draws no legend.
        shared: one scale for all panels, or one for each.
    """
    canvas, y = Canvas(), 0.0
    if len(parts) > 1:
        x = 0.0
        for level, part in enumerate(parts):
            canvas.add("rect", x=x, y=3, width=18, height=9, class_=f"s1 level{level}")
            canvas.text(x + 24, 12, part)
            x += 24 + len(part) * CHARACTER + 20
        y = 26.0
    everything = [end for panel in panels for bar in panel.bars for end in bar.ends]
    for panel in panels:
        own = everything if shared else [end for bar in panel.bars for end in bar.ends]
        longest = max((end for end in own if math.isfinite(end)), default=0.0) or 1.0
        canvas.text(0, y + 12, panel.heading, "strong")
        y += 20
        for bar in panel.bars:
            canvas.text(0, y + 12, shorten(bar.label, WIDTH - 10 - len(bar.text) * CHARACTER))
            canvas.text(WIDTH, y + 12, bar.text, "muted", "end")
            start = 0.0
            for level, end in enumerate(bar.ends):
                stop = WIDTH * end / longest if math.isfinite(end) else start
                canvas.add(
                    "rect",
                    x=start,
                    y=y + 18,
                    width=max(stop - start, 0.0),
                    height=10,
                    class_=f"s{bar.series % PALETTE_SIZE} level{level}",
                )
                start = max(stop, start)
            y += 36
        y += 8
    return canvas.svg(y, heading)


def lines(
    categories: Sequence[str],
    series: Sequence[Line],
    heading: Heading,
    *,
    x_label: str,
    y_label: str,
) -> Markup:
    """Lines from zero over evenly spaced categories."""
    canvas = Canvas()
    top = canvas.legend([(line.label, line.series) for line in series], 0.0) + 26
    values = [v for line in series for v in line.values if v is not None and math.isfinite(v)]
    ticks = linear_ticks(0.0, max(values, default=1.0))
    labels = tick_labels(ticks)
    left, right, bottom = 14 + max(map(len, labels)) * CHARACTER, 16.0, top + 200.0

    def across(position: int) -> float:
        return left + 16 + (WIDTH - right - left - 16) * position / max(len(categories) - 1, 1)

    def up(value: float) -> float:
        return bottom - (bottom - top) * value / ticks[-1]

    canvas.text(0, top - 12, y_label, "muted")
    for tick, label in zip(ticks, labels, strict=True):
        canvas.line(left, up(tick), WIDTH, up(tick), "grid")
        canvas.text(left - 6, up(tick) + 4, label, "muted", "end")
    for position, category in enumerate(categories):
        canvas.text(across(position), bottom + 18, category, "muted", "middle")
    canvas.text(WIDTH, bottom + 38, x_label, "muted", "end")
    for line in series:
        placed = [
            (across(n), up(v), f"{line.label}, {categories[n]}: {significant(v)}")
            for n, v in enumerate(line.values)
            if v is not None and math.isfinite(v)
        ]
        canvas.path([(x, y) for x, y, _ in placed], f"stroke s{line.series % PALETTE_SIZE}")
        for x, y, tip in placed:
            canvas.mark(x, y, line.series, tip)
        at = None if line.knee is None else line.values[line.knee]
        if line.knee is not None and at is not None:
            x, y = across(line.knee), up(at)
            canvas.add("circle", cx=x, cy=y, r=9.0, class_=f"ring s{line.series % PALETTE_SIZE}")
            anchor = "end" if x > WIDTH - 60 else "start"
            canvas.text(x + (-12 if anchor == "end" else 12), y + 16, "knee", "strong halo", anchor)
    return canvas.svg(bottom + 46, heading)


def depth(rows: Sequence[Dot], heading: Heading, *, x_label: str) -> Markup:
    """One row per block, first at the top; a dot at its value on a log axis.

    Zeros have no place on it and say "exact"; the largest value is written out.
    """
    canvas = Canvas()
    row_height, top = 20.0, 38.0
    left = min(max((len(row.label) for row in rows), default=4), 24) * CHARACTER + 12
    bottom = top + row_height * len(rows)
    finite = [r.value for r in rows if r.value is not None and math.isfinite(r.value)]
    largest = max(finite, default=0.0)
    reach = max(largest, _LEAST_ERROR)
    smallest = min((value for value in finite if value > 0), default=reach / 10)
    ticks = log_ticks(max(smallest, reach * _DEPTH_RANGE), reach)
    low, high = math.log10(ticks[0]), math.log10(ticks[-1])
    # a column for what has no place on a log axis, where something needs it
    start = left + (48 if any(row.value is None or row.value <= 0 for row in rows) else 8)
    stop = WIDTH - 16

    def across(value: float) -> float:
        return start + (stop - start) * (math.log10(max(value, ticks[0])) - low) / (high - low)

    canvas.text(WIDTH, 12, x_label, "muted", "end")
    # a label every so many decades, so that they never touch; 2 and 5 where there is room
    stride = math.ceil(len(ticks) / 7)
    for n, tick in enumerate(ticks):
        canvas.line(across(tick), top, across(tick), bottom, "grid")
        if n % stride == 0:
            canvas.text(across(tick), top - 6, power_of_ten(tick), "muted", "middle")
        for factor in (2, 5) if len(ticks) <= 3 and n < len(ticks) - 1 else ():
            x = across(factor * tick)
            canvas.line(x, top, x, bottom, "grid")
            canvas.text(x, top - 6, str(factor), "muted", "middle")
    dots: list[tuple[float, float, str, float]] = []
    runs: list[list[tuple[float, float]]] = [[]]  # unbroken stretches of dots on the axis
    for n, row in enumerate(rows):
        y = top + row_height * (n + 0.5)
        canvas.text(left - 8, y + 4, shorten(row.label, left - 8), "", "end")
        if row.value is None or not math.isfinite(row.value):
            text = "not measured" if row.value is None else significant(row.value)
            canvas.text(left, y + 4, text, "muted" if row.value is None else "alarm")
            runs.append([])
        elif row.value <= 0:
            canvas.text(left, y + 4, "exact", "muted")
            runs.append([])
        else:
            dots.append((across(row.value), y, row.label, row.value))
            runs[-1].append(dots[-1][:2])
    for run in runs:
        if len(run) > 1:
            canvas.path(run, "stroke s1")
    for x, y, label, value in dots:
        canvas.mark(x, y, 1, f"{label}: {significant(value)}")
    if largest > 0:
        x, y, *_ = next(dot for dot in dots if dot[3] == largest)
        beside, anchor = (x - 10, "end") if x > (start + stop) / 2 else (x + 10, "start")
        canvas.text(beside, y + 4, significant(largest), "strong halo", anchor)
    return canvas.svg(bottom + 8, heading)


def span(start: float, stop: float, total: float, heading: Heading) -> Markup:
    """A strip of the whole width with the part from `start` to `stop` of `total` filled."""
    scale = 100 / total if total > 0 else 0.0
    # a sliver stays visible, and stays inside the strip
    width = min(max((stop - start) * scale, 1.0), 100.0)
    return Markup(
        '<svg class="span" role="img" viewBox="0 0 100 8" preserveAspectRatio="none"'
        ' aria-labelledby="{}"><title id="{}">{}</title>'
        '<rect class="track" width="100" height="8"/>'
        '<rect class="s1" x="{}" width="{}" height="8"/></svg>'
    ).format(
        heading.ident,
        heading.ident,
        heading.title,
        tidy(min(start * scale, 100 - width)),
        tidy(width),
    )
