"""The sheet that charts are drawn on: SVG elements, escaped, without any library.

Every chart is 420 units wide: two stand side by side on a desk, and on a phone of 390 px the text
is still above 10 px. Classes `s0` … `s5` are the palette, so light and dark are the style sheet's
affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

__all__ = ["CHARACTER", "PALETTE_SIZE", "WIDTH", "Canvas", "Heading", "shorten", "tidy"]

WIDTH = 420.0
PALETTE_SIZE = 6
# Advance of a 12-unit glyph in a wide sans-serif; only layout depends on it.
CHARACTER = 7.0
_LEGEND_ROW = 20.0


@dataclass(frozen=True)
class Heading:
    """What a screen reader says of a chart: `ident` is unique on the page."""

    ident: str
    title: str
    description: str


def shorten(text: str, room: float) -> str:
    """`text`, cut with an ellipsis where it would be wider than `room`."""
    most = max(int(room / CHARACTER), 4)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def tidy(value: object) -> object:
    """Floats to a tenth of a unit; anything else unchanged."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value


@dataclass
class Canvas:
    """Collects SVG elements; coordinates to a tenth of a unit."""

    parts: list[Markup] = field(default_factory=list)

    def add(self, tag: str, text: str | None = None, tip: str = "", **attributes: object) -> None:
        """An element; `class_` and `text_anchor` are written as SVG spells them."""
        listed = " ".join(
            f'{name.rstrip("_").replace("_", "-")}="{escape(tidy(value))}"'
            for name, value in attributes.items()
            if value is not None
        )
        body = (Markup("<title>%s</title>") % tip if tip else "") + escape(text or "")
        self.parts.append(Markup(f"<{tag} {listed}>{body}</{tag}>"))

    def text(self, x: float, y: float, text: str, class_: str = "", anchor: str = "start") -> None:
        """Text with its baseline at `y`."""
        self.add("text", text, x=x, y=y, class_=class_ or None, text_anchor=anchor)

    def line(self, x1: float, y1: float, x2: float, y2: float, class_: str) -> None:
        """A straight line."""
        self.add("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)

    def path(self, points: Sequence[tuple[float, float]], class_: str) -> None:
        """A line through points."""
        self.add("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points), class_=class_)

    def mark(self, x: float, y: float, series: int, tip: str) -> None:
        """A marker whose shape, not only its colour, tells the series."""
        shape = series % 4
        class_ = f"s{series % PALETTE_SIZE}"
        if shape == 0:
            self.add("rect", x=x - 4, y=y - 4, width=8, height=8, class_=class_, tip=tip)
        elif shape == 1:
            self.add("circle", cx=x, cy=y, r=4.5, class_=class_, tip=tip)
        else:
            corners = {2: "-5.5,0 0,-5.5 5.5,0 0,5.5", 3: "-5,4 0,-5.5 5,4"}[shape]
            self.add(
                "polygon",
                points=corners,
                transform=f"translate({x:.1f} {y:.1f})",
                class_=class_,
                tip=tip,
            )

    def svg(
        self, height: float, heading: Heading, width: float = WIDTH, kind: str = "chart"
    ) -> Markup:
        """The finished drawing; the `Markup` is safe to print.

        Args:
            kind: the class. A "chart" is as wide as its column, anything else keeps its size.
        """
        title, description = f"{heading.ident}-title", f"{heading.ident}-desc"
        size = Markup("")
        if kind != "chart":
            size = Markup(' width="{}" height="{}"').format(tidy(width), tidy(height))
        return Markup(
            '<svg class="{}" role="img" viewBox="0 0 {} {}"{} aria-labelledby="{} {}">'
            '<title id="{}">{}</title><desc id="{}">{}</desc>{}</svg>'
        ).format(
            kind,
            tidy(width),
            tidy(height),
            size,
            title,
            description,
            title,
            heading.title,
            description,
            heading.description,
            Markup("").join(self.parts),
        )

    def legend(self, entries: Sequence[tuple[str, int]], y: float) -> float:
        """Marker and label per (label, series), wrapped; returns the y below it."""
        x = 0.0
        for label, series in entries:
            shown = shorten(label, WIDTH - 20)
            width = 18 + len(shown) * CHARACTER + 14
            if x and x + width > WIDTH:
                x, y = 0.0, y + _LEGEND_ROW
            self.mark(x + 6, y + 8, series, "")
            self.text(x + 18, y + 12, shown)
            x += width
        return y + _LEGEND_ROW
