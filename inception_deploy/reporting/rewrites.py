"""The report's sections on what was done to the graph: fusions, and the block they changed most."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from inception_deploy.reporting.block_graph import PRECISION_NAMES, BlockGraph, Blocks
from inception_deploy.reporting.canvas import Heading
from inception_deploy.reporting.cells import Cell, cell
from inception_deploy.reporting.data import Record
from inception_deploy.reporting.facts import Facts
from inception_deploy.reporting.graph_drawing import CLASSES, Marks, draw_block
from inception_deploy.reporting.numerals import brief, count, duration, significant

__all__ = ["DrawingView", "RewriteView", "RewritesView", "blocks_of", "grouped_reasons"]

_FUSED = (
    "Edges are drawn as the file has them: between a convolution and its ReLU there is no"
    " quantiser, for engines run the two as one."
)
_FIGURE = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:e[+-]?\d+)?(?!\w)")
LARGEST = 40
"""Nodes: beyond that nobody reads a drawing."""


@dataclass(frozen=True)
class RewriteView:
    """One rewrite that found something; `reasons` are the refusals' with their counts."""

    name: str
    applied: int
    refused: int
    reasons: list[tuple[str, str]]
    error: Cell
    seconds: Cell


@dataclass(frozen=True)
class GraphView:
    """One side of the drawing, and what it says as a table: (node, operator, reads, as)."""

    title: str
    caption: str
    svg: Markup
    rows: list[tuple[str, str, str, str]]


@dataclass(frozen=True)
class DrawingView:
    """A block before and after; `legend` has (class, name) of the precisions that occur."""

    block: str
    why: str
    graphs: list[GraphView]
    legend: list[tuple[str, str]]
    note: str


@dataclass(frozen=True)
class RewritesView:
    """The section "Rewrites"; `drawing` or else `undrawn` says why there is none."""

    rewrites: list[RewriteView]
    idle: list[str]
    seconds: str
    drawing: DrawingView | None
    undrawn: str

    @classmethod
    def of(cls, facts: Facts, anchor: str) -> RewritesView:
        """Raises `BundleError` for fields of the wrong type."""
        fusions = [s for s in facts.manifest.records("stages") if _is_fusion(s)]
        busy = [s for s in fusions if s.items("applied") or s.items("refused")]
        drawing, undrawn = _drawing(facts, busy, anchor)
        return cls(
            rewrites=[_rewrite(stage) for stage in busy],
            idle=[_name(stage) for stage in fusions if stage not in busy],
            seconds=duration(sum(stage.magnitude("seconds") or 0.0 for stage in fusions)),
            drawing=drawing,
            undrawn=undrawn,
        )


def _is_fusion(stage: Record) -> bool:
    return stage.text("name").startswith("fuse")


def _name(stage: Record) -> str:
    return stage.text("name").removeprefix("fuse/")


def _rewrite(stage: Record) -> RewriteView:
    error, bound = stage.magnitude("error"), stage.magnitude("bound")
    note = "" if bound is None else f"bound {brief(bound)}"
    shown = cell(error, significant, "the stage measures none", note)
    if error is None and stage.values.get("before") == stage.values.get("after"):
        shown = Cell("graph unchanged", kind="missing")
    elif error is not None and bound is not None and not error <= bound:
        shown = Cell(shown.text, f"beyond the {note}", "alarm")
    return RewriteView(
        name=_name(stage),
        applied=len(stage.items("applied")),
        refused=len(stage.items("refused")),
        reasons=grouped_reasons(stage.records("refused")),
        error=shown,
        seconds=cell(stage.magnitude("seconds"), duration),
    )


def grouped_reasons(refused: Iterable[Record]) -> list[tuple[str, str]]:
    """(reason, how often and where), the most frequent first.

    Reasons that differ only in what stands in quotes, tensors mostly, or in one figure are one
    group; of the figures it names the least and the greatest.
    """
    groups: dict[str, list[Record]] = {}
    for record in refused:
        said = _unquoted(record.text("reason"))
        figures = _FIGURE.findall(said)
        groups.setdefault(_FIGURE.sub("#", said) if len(figures) == 1 else said, []).append(record)
    listed = sorted(groups.items(), key=lambda item: -len(item[1]))
    return [
        (found[0].text("reason"), found[0].text("node"))
        if len(found) == 1
        else (_in_common(found), f"{count(len(found))} nodes, first {found[0].text('node')}")
        for _, found in listed
    ]


def _in_common(group: Sequence[Record]) -> str:
    """What reasons of one group say."""
    said = [_unquoted(record.text("reason")) for record in group]
    if len(set(said)) == 1:
        return said[0]
    figures = sorted((figure for text in said for figure in _FIGURE.findall(text)), key=float)
    return _FIGURE.sub(f"{figures[0]} to {figures[-1]}", said[0])


def _unquoted(text: str) -> str:
    parts = text.split("'")
    return "…".join(parts[::2]) if len(parts) % 2 else text


def blocks_of(facts: Facts) -> Blocks:
    """The architecture blocks: those that parity compared."""
    listed = facts.parity.records("blocks") if facts.parity else []
    return Blocks(tuple(block.text("name") for block in listed))


def _drawing(
    facts: Facts, fusions: Sequence[Record], anchor: str
) -> tuple[DrawingView | None, str]:
    """The drawing of the block that changed most, or why there is none."""
    graphs, blocks = facts.data.graphs, blocks_of(facts)
    absent = [name for name in ("reference", "graph") if name not in graphs]
    if absent:
        return None, "the bundle's graph files are not there"
    before, after = graphs["reference"], graphs["graph"]
    sizes, branching = before.sizes(blocks), before.branching(blocks)
    fitting = [name for name, size in sizes.items() if name in branching and size <= LARGEST]
    if not fitting:
        return None, f"no block has branches and at most {LARGEST} nodes"
    kinds: dict[str, Counter[str]] = {name: Counter() for name in fitting}
    for stage in fusions:
        for applied in stage.records("applied"):
            block = blocks.of(applied.text("node"))
            if block in kinds:
                kinds[block][applied.text("rewrite")] += 1
    # several kinds of rewrites show more than many of one; of equals, the first
    chosen = max(fitting, key=lambda name: (len(kinds[name]), kinds[name].total()))
    listed = ", ".join(f"{n} × {rewrite}" for rewrite, n in kinds[chosen].items())
    why = listed or "no rewrite changed a block; this is the first with branches"
    sides = before.block(chosen, blocks), after.block(chosen, blocks)
    names = [frozenset(node.name for node in side.nodes) for side in sides]
    labels = [{node.name: node.label for node in side.nodes} for side in sides]
    gone = names[0] - names[1]
    new = frozenset(n for n in names[1] if labels[0].get(n) != labels[1][n])
    used = {edge.precision for side in sides for edge in side.edges}
    return (
        DrawingView(
            block=chosen,
            why=why,
            graphs=[
                _graph(sides[0], "Before", facts, f"{anchor}-before", Marks(gone, "gone")),
                _graph(sides[1], "After", facts, f"{anchor}-after", Marks(new, "new")),
            ],
            legend=[(CLASSES[p], name) for p, name in PRECISION_NAMES.items() if p in used],
            note=_FUSED if "int8" in used else "",
        ),
        "",
    )


def _graph(block: BlockGraph, when: str, facts: Facts, ident: str, marks: Marks) -> GraphView:
    after = when == "After"
    file = facts.manifest.record("graph" if after else "reference").text("file")
    many = len(block.nodes)
    caption = f"{file}: {many} nodes"
    if marks.names:
        caption += f", {len(marks.names)} {'new or changed' if after else 'gone afterwards'}"
    reads: dict[str, tuple[list[str], set[str]]] = {node.name: ([], set()) for node in block.nodes}
    for edge in block.edges:
        if edge.target:
            tensors, precisions = reads[edge.target]
            tensors.append(edge.source or edge.tensor.split(":")[0])
            precisions.add(PRECISION_NAMES.get(edge.precision, "not known"))
    heading = Heading(
        ident,
        f"Block {block.name}, {when.lower()}",
        f"{many} nodes from top to bottom, branches side by side; the table below lists them.",
    )
    return GraphView(
        title=when,
        caption=caption,
        svg=draw_block(block, heading, marks),
        rows=[
            (n.name, n.label, ", ".join(reads[n.name][0]), ", ".join(sorted(reads[n.name][1])))
            for n in block.nodes
        ],
    )
