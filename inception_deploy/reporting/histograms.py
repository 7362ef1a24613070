"""Latencies as histograms, one small panel each, with the percentiles marked."""

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
)
from inception_deploy.reporting.numerals import THIN, count, significant

__all__ = ["Histogram", "histograms"]

_HEIGHT = 54.0
_MARKS = ("p50", "p95", "p99")


@dataclass(frozen=True)
class Histogram:
    """One panel: `counts` in equal bins from `low` to `high`, and `beyond` values above them.

    Args:
        text: printed at the right of the label.
        marks: names of percentiles → their values; those outside of the bins are left out.
    """

    label: str
    text: str
    low: float
    high: float
    counts: tuple[int, ...]
    beyond: int
    marks: dict[str, float]
    series: int


def histograms(panels: Sequence[Histogram], heading: Heading, *, unit: str) -> Markup:
    """The panels below each other, each with its own axis."""
    canvas, y = Canvas(), 0.0
    for panel in panels:
        canvas.text(0, y + 12, shorten(panel.label, WIDTH - 10 - len(panel.text) * CHARACTER))
        canvas.text(WIDTH, y + 12, panel.text, "muted", "end")
        top, bottom = y + 34, y + 34 + _HEIGHT
        _bars(canvas, panel, bottom)
        _marks(canvas, panel, top, bottom)
        canvas.line(0, bottom, WIDTH, bottom, "axis")
        canvas.text(0, bottom + 15, f"{significant(panel.low)}{THIN}{unit}", "muted")
        end = f"{significant(panel.high)}{THIN}{unit}"
        if panel.beyond:
            end += f", {count(panel.beyond)} beyond"
        canvas.text(WIDTH, bottom + 15, end, "muted", "end")
        y = bottom + 32
    return canvas.svg(y - 10, heading)


def _bars(canvas: Canvas, panel: Histogram, bottom: float) -> None:
    """Heights by square root, so that a few slow runs beside thousands can still be seen."""
    most = max(panel.counts, default=0) or 1
    width = WIDTH / max(len(panel.counts), 1)
    for n, number in enumerate(panel.counts):
        if number:
            height = max(_HEIGHT * math.sqrt(number / most), 1.0)
            canvas.add(
                "rect",
                x=n * width,
                y=bottom - height,
                width=max(width - 1, 1.0),
                height=height,
                class_=f"s{panel.series % PALETTE_SIZE}",
            )


def _marks(canvas: Canvas, panel: Histogram, top: float, bottom: float) -> None:
    """Percentiles as lines; a name that would touch the one before is left out."""
    free = 0.0
    for name in _MARKS:
        value = panel.marks.get(name)
        if value is None or not panel.high > panel.low or not panel.low <= value <= panel.high:
            continue
        x = WIDTH * (value - panel.low) / (panel.high - panel.low)
        canvas.line(x, top - 2, x, bottom, "mark")
        half = len(name) * CHARACTER / 2
        centre = min(max(x, half), WIDTH - half)
        if centre - half >= free:
            canvas.text(centre, top - 6, name, "muted", "middle")
            free = centre + half + 4
