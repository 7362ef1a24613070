"""The trade-off chart: two axes, area as a third figure, and the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from inception_deploy.reporting.canvas import CHARACTER, WIDTH, Canvas, Heading
from inception_deploy.reporting.scales import linear_ticks, log_ticks, tick_labels

__all__ = ["Bubble", "bubbles"]

_TOP, _BOTTOM = 40.0, 290.0
_BOLD_CHARACTER = CHARACTER * 1.15
_LARGEST, _LARGEST_OF_MANY = 26.0, 12.0  # radius of the largest bubble
_SMALLEST = 4.0
# an axis never spans less than this many points, so that noise does not look like a cliff
_LEAST_SPAN = 2.0

_Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Bubble:
    """A point whose area shows a third figure.

    Args:
        label: printed beside it; `detail` shows on hovering.
        x, y, size: finite, none negative.
        low, high: ends of a vertical interval through it, if any.
        reference: drawn in the reference's colour instead of the deployed one's.
        front: not dominated by any other; filled instead of hollow.
    """

    label: str
    detail: str
    x: float
    y: float
    size: float
    low: float | None = None
    high: float | None = None
    reference: bool = False
    front: bool = True


class _Frame:
    """Axes that hold every point: linear from zero in x, or logarithmic beyond a factor of ten."""

    def __init__(self, points: Sequence[Bubble], limit: float) -> None:
        ys = [y for p in points for y in (p.y, p.low, p.high) if y is not None]
        low, high = min(ys), min(max(ys), limit)
        if high - low < _LEAST_SPAN:
            high = min((low + high + _LEAST_SPAN) / 2, limit)
            low = high - _LEAST_SPAN
        self.limit = limit
        self.y_ticks = [tick for tick in linear_ticks(low, high) if tick <= limit]
        self.y_labels = tick_labels(self.y_ticks)
        self.left = 16 + max(map(len, self.y_labels)) * CHARACTER
        xs = [p.x for p in points]
        self.logarithmic = min(xs) > 0 and max(xs) > 10 * min(xs)
        if self.logarithmic:
            self.x_ticks = log_ticks(min(xs), max(xs), fine=True)
            # such an axis spans too much for one number of decimals
            self.x_labels = [f"{tick:,g}" for tick in self.x_ticks]
        else:
            self.x_ticks = linear_ticks(0.0, max(xs))
            self.x_labels = tick_labels(self.x_ticks)

    def across(self, x: float) -> float:
        first, last = self.x_ticks[0], self.x_ticks[-1]
        start, stop = self.left + (_LARGEST if self.logarithmic else 0), WIDTH - _LARGEST
        if self.logarithmic:
            return start + (stop - start) * math.log(x / first) / math.log(last / first)
        return start + (stop - start) * (x - first) / (last - first)

    def up(self, y: float) -> float:
        # room for the bubbles at the upper and the lower edge
        top, bottom = _TOP + _LARGEST * 0.7, _BOTTOM - _LARGEST * 0.7
        first, last = self.y_ticks[0], self.y_ticks[-1]
        return bottom - (bottom - top) * (min(y, self.limit) - first) / (last - first)

    def draw(self, canvas: Canvas, x_label: str, y_label: str) -> None:
        canvas.text(0, 12, y_label, "muted")
        for tick, label in zip(self.y_ticks, self.y_labels, strict=True):
            canvas.line(self.left, self.up(tick), WIDTH, self.up(tick), "grid")
            canvas.text(self.left - 6, self.up(tick) + 4, label, "muted", "end")
        canvas.line(self.left, _BOTTOM, WIDTH, _BOTTOM, "axis")
        for tick, label in zip(self.x_ticks, self.x_labels, strict=True):
            canvas.line(self.across(tick), _BOTTOM, self.across(tick), _BOTTOM + 4, "axis")
            canvas.text(self.across(tick), _BOTTOM + 18, label, "muted", "middle")
        canvas.text(WIDTH, _BOTTOM + 38, x_label, "muted", "end")


def bubbles(
    points: Sequence[Bubble], heading: Heading, *, x_label: str, y_label: str, limit: float
) -> Markup:
    """A scatter of `points`; further left, further up and smaller is better.

    With more than two points, a dashed line shows the two-dimensional front: the highest point at
    or left of each x.

    Args:
        limit: the largest possible y, e.g. 100 for percent.
    """
    canvas, frame = Canvas(), _Frame(points, limit)
    frame.draw(canvas, x_label, y_label)
    if len(points) > 2:
        canvas.path(_front(points, frame), "front")
    largest = max(p.size for p in points) or 1.0
    # many bubbles are smaller, so that they hide less of each other
    widest = max(_LARGEST - 0.6 * len(points), _LARGEST_OF_MANY)
    radii = [max(widest * math.sqrt(p.size / largest), _SMALLEST) for p in points]
    placed = [(p, frame.across(p.x), frame.up(p.y), r) for p, r in zip(points, radii, strict=True)]
    # small ones last, so that none hides beneath a large one
    for p, x, y, radius in sorted(placed, key=lambda item: -item[3]):
        series = "s0" if p.reference else "s1"
        if p.low is not None and p.high is not None:
            canvas.line(x, frame.up(p.high), x, frame.up(p.low), f"whisker {series}")
        class_ = f"bubble {series}{'' if p.front else ' hollow'}"
        canvas.add("circle", cx=x, cy=y, r=radius, class_=class_, tip=p.detail)
    _label(canvas, placed, frame.left)
    return canvas.svg(_BOTTOM + 46, heading)


def _front(points: Sequence[Bubble], frame: _Frame) -> list[tuple[float, float]]:
    """Corners of the staircase through the points that are the highest so far, left to right."""
    steps: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda p: (p.x, -p.y)):
        x, y = frame.across(point.x), frame.up(point.y)
        if not steps or y < steps[-1][1]:
            if steps:
                steps.append((x, steps[-1][1]))
            steps.append((x, y))
    return [*steps, (WIDTH, steps[-1][1])]


def _label(
    canvas: Canvas, placed: Sequence[tuple[Bubble, float, float, float]], left: float
) -> None:
    """Print each label where it covers the least of bubbles and earlier labels."""
    taken: list[_Box] = [(x - r, y - r, x + r, y + r) for _, x, y, r in placed]

    def cost(place: tuple[float, float, str, _Box]) -> float:
        box = place[3]
        outside = box[0] < left or box[2] > WIDTH or box[1] < _TOP - 16
        return sum(_overlap(box, other) for other in taken) + 1e3 * outside

    for bubble, x, y, radius in placed:
        width = len(bubble.label) * _BOLD_CHARACTER
        at_x, at_y, anchor, box = min(_places(x, y, radius, width), key=cost)
        taken.append(box)
        canvas.text(at_x, at_y, bubble.label, "strong halo", anchor)


def _places(
    x: float, y: float, radius: float, width: float
) -> Iterator[tuple[float, float, str, _Box]]:
    """Where a label may stand around a bubble, best first: (x, baseline, anchor, its box)."""
    away = radius + 5
    for at_x, at_y, anchor, left in (
        (x + away, y + 4, "start", x + away),
        (x - away, y + 4, "end", x - away - width),
        (x, y - away, "middle", x - width / 2),
        (x, y + away + 9, "middle", x - width / 2),
        (x, y + 4, "middle", x - width / 2),
    ):
        yield at_x, at_y, anchor, (left, at_y - 10, left + width, at_y + 3)


def _overlap(a: _Box, b: _Box) -> float:
    """Shared area of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)
