"""A block of a graph as SVG: layers from top to bottom, branches side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from inception_deploy.reporting.block_graph import PRECISION_NAMES, BlockGraph
from inception_deploy.reporting.canvas import Canvas, Heading
from inception_deploy.reporting.layout import lay_out

__all__ = ["CLASSES", "Marks", "draw_block"]

CLASSES: Mapping[str, str] = {
    "float32": "s0",
    "float16": "s3",
    "bfloat16": "s5",
    "int8": "s1",
    "fp8": "s4",
}
"""Precision → the palette's class for its edges."""

_NODE_HEIGHT, _LAYER, _PILL = 38.0, 62.0, 22.0
_GAP, _BEND = 12.0, 20.0
_GLYPH = 6.4  # advance of an 11-unit glyph
_NARROWEST, _WIDEST = 92.0, 150.0


@dataclass(frozen=True)
class Marks:
    """Which nodes to emphasise: `kind` is "gone" (dashed) or "new" (bold)."""

    names: frozenset[str]
    kind: str


def draw_block(block: BlockGraph, heading: Heading, marks: Marks) -> Markup:
    """The block in its natural size: an SVG that does not shrink, to be put into a scroller."""
    names = [node.name for node in block.nodes]
    entering = {edge.tensor: f"in {edge.tensor}" for edge in block.edges if not edge.source}
    leaving = {edge.tensor: f"out {edge.tensor}" for edge in block.edges if not edge.target}
    captions = {pill: t.split(":")[0] for t, pill in (*entering.items(), *leaving.items())}
    labels = {node.name: (node.label, _own(node.name, block.name)) for node in block.nodes}
    widths = {
        name: _width(*labels[name], strong=name in marks.names and marks.kind == "new") + _GAP
        for name in names
    }
    widths |= {pill: _width(caption) + _GAP for pill, caption in captions.items()}
    ends = [
        (edge.source or entering[edge.tensor], edge.target or leaving[edge.tensor])
        for edge in block.edges
    ]
    order = [*entering.values(), *names, *leaving.values()]
    layout = lay_out(order, ends, widths, _BEND)
    canvas = Canvas()
    tops = dict.fromkeys(captions, _PILL)

    def half(name: str) -> float:
        return tops.get(name, _NODE_HEIGHT) / 2

    def down(level: int) -> float:
        return (level + 0.5) * _LAYER - (_LAYER - _NODE_HEIGHT) / 2 + 2

    for edge, (source, target), route in zip(block.edges, ends, layout.routes, strict=True):
        (first, top), *bends, (last, bottom) = route
        points = [(first, down(top) + half(source))]
        for x, level in bends:  # upright beside the nodes of a layer, so that none is crossed
            points += [(x, down(level) + side * _NODE_HEIGHT / 2) for side in (-1, 1)]
        points.append((last, down(bottom) - half(target)))
        told = PRECISION_NAMES.get(edge.precision, "precision not known")
        canvas.add(
            "path",
            d=_curve(points),
            class_=f"edge {CLASSES.get(edge.precision, 'unknown')}",
            tip=f"{captions.get(source, source)} → {captions.get(target, target)}: {told}",
        )
    for node in block.nodes:
        x, level = layout.places[node.name]
        kind = marks.kind if node.name in marks.names else ""
        _box(canvas, x, down(level), widths[node.name] - _GAP, kind, labels[node.name])
    for pill, caption in captions.items():
        x, level = layout.places[pill]
        room = widths[pill] - _GAP
        canvas.add(
            "rect",
            x=x - room / 2,
            y=down(level) - _PILL / 2,
            width=room,
            height=_PILL,
            rx=_PILL / 2,
            class_="pill",
        )
        canvas.text(x, down(level) + 4, _cut(caption, room), "muted", "middle")
    height = down(layout.layers - 1) + _NODE_HEIGHT / 2 + 2
    return canvas.svg(height, heading, width=layout.width, kind="graph")


def _box(
    canvas: Canvas, x: float, y: float, room: float, kind: str, label: tuple[str, str]
) -> None:
    canvas.add(
        "rect",
        x=x - room / 2,
        y=y - _NODE_HEIGHT / 2,
        width=room,
        height=_NODE_HEIGHT,
        rx=4.0,
        class_=f"node {kind}".strip(),
        tip=" · ".join(label),
    )
    upper = y + 4 if label[1] == label[0] else y - 3
    canvas.text(x, upper, _cut(label[0], room), "strong" if kind == "new" else "", "middle")
    if label[1] != label[0]:
        canvas.text(x, y + 12, _cut(label[1], room), "muted", "middle")


def _own(name: str, block: str) -> str:
    """The part of a node's name that tells it from others of its block."""
    return name.removeprefix(f"{block}.")


def _width(*lines: str, strong: bool = False) -> float:
    glyph = _GLYPH * (1.1 if strong else 1.0)
    return min(max(max(map(len, lines)) * glyph + 12, _NARROWEST), _WIDEST)


def _cut(text: str, room: float) -> str:
    most = int((room - 8) / _GLYPH)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _curve(points: list[tuple[float, float]]) -> str:
    """A line through the points that is upright in each of them."""
    (x, y), *rest = points
    parts = [f"M{x:.1f} {y:.1f}"]
    for to_x, to_y in rest:
        middle = (y + to_y) / 2
        bent = f"C{x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y:.1f}"
        parts.append(f"V{to_y:.1f}" if abs(to_x - x) < 0.05 else bent)
        x, y = to_x, to_y
    return "".join(parts)
