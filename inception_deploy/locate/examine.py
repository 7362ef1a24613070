"""One stage of a bundle examined: every tensor's own error against what rounding explains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from inception_deploy.engines.base import Array
from inception_deploy.locate.allowance import (
    CLIPPED,
    Allowance,
    Cut,
    allowance,
    cut_off,
    stored_moved,
    weights_explain,
)
from inception_deploy.locate.anatomy import Anatomy, Grid
from inception_deploy.locate.causes import Before, causes
from inception_deploy.locate.checks import (
    Ledger,
    check_attributes,
    check_ceiling,
    check_shapes,
    check_table,
    check_weights,
)
from inception_deploy.locate.cutting import CutGraph
from inception_deploy.locate.findings import Finding, Place, Row
from inception_deploy.locate.nonfinite import first_blown
from inception_deploy.locate.truth import Truth
from inception_deploy.locate.walk import Deviation, Step, walk
from inception_deploy.progress import Progress
from inception_deploy.ranges import Ranges

__all__ = ["Examined", "examine"]


@dataclass(frozen=True)
class Examined:
    """What a stage looked like.

    Args:
        rows: every tensor that was compared, in processing order.
        findings: in processing order.
        output: what the graph after the stage puts out; None where it was not compared.
    """

    rows: tuple[Row, ...]
    findings: tuple[Finding, ...]
    output: Array | None


def examine(
    stage: str,
    truth: Truth,
    after: CutGraph,
    written: onnx.ModelProto,
    images: NDArray[Any],
    *,
    blocks: Sequence[str],
    before: Before,
    table: Ranges | None = None,
    eight_bits: float = 0.0,
    progress: Progress | None = None,
) -> Examined:
    """Walk through a stage.

    Args:
        after: the graph after it, as a device rounds: float32 between its casts.
        written: the same graph as the bundle has it.
        images: what `after` is fed.
        blocks: names of the network's blocks.
        before: what the nodes were before, for explanations. Where it is a graph whose nodes the
            stage keeps (lowering), weights are compared one by one.
        table: the calibrated ranges that the graph's grids should hold.
        eight_bits: λ·u of the precision that quantises, where one does.

    Raises:
        StageError: a graph cannot be run.
    """
    ledger, anatomy = Ledger(stage, blocks), Anatomy(written)
    run = _Examination(ledger, truth, after, anatomy, images, before, table, eight_bits)
    check_shapes(ledger, truth, after, anatomy, before)
    for step in walk(truth, after, images, progress=progress):
        run.look(step)
    return run.result()


@dataclass(frozen=True)
class _Seen:
    """What is kept of a step until the whole graph is known."""

    place: Place
    position: int
    own: Deviation
    depth: Deviation
    narrow: Allowance
    wide: Allowance
    grid: Grid | None
    cut: Cut | None
    scale: float
    causes: tuple[str, ...]


@dataclass
class _Examination:
    ledger: Ledger
    truth: Truth
    after: CutGraph
    anatomy: Anatomy
    images: NDArray[Any]
    before: Before
    table: Ranges | None
    eight_bits: float
    seen: list[_Seen] = field(default_factory=list)
    blown: bool = False
    output: Array | None = None

    def look(self, step: Step) -> None:
        nodes = [self.after.model.graph.node[index] for index in step.piece]
        steps = self.anatomy.steps(iter(nodes))
        node = steps[-1].name if steps else step.node
        place = self.ledger.place(str(node), step.tensor)
        position = max(step.piece)
        if step.tensor == self.after.model.graph.output[0].name:
            self.output = step.have
        own, depth = Deviation.of(step.own, step.want), Deviation.of(step.have, step.want)
        grid = self.anatomy.grid(step.tensor)
        finite = own.finite
        cut = cut_off(step.want, step.own, grid) if grid and finite else None
        scale = float(np.abs(step.want).max(initial=0.0))
        shared = grid.scale / 2 / scale if grid and scale else 0.0
        narrow, wide = (allowance(nodes, step_, self.eight_bits) for step_ in (0.0, shared))
        moved = abs(self.anatomy.shift(step.tensor)) / scale if scale else 0.0
        if moved:
            narrow, wide = (stored_moved(a, moved) for a in (narrow, wide))
        if finite and scale and _excess(own, cut, narrow):
            explained = self._cancelling(steps, step) / scale
            narrow, wide = (_raised(a, explained) for a in (narrow, wide))
        for computing in steps if finite else ():
            check_ceiling(
                self.ledger,
                self.anatomy.nodes.get(computing.name, computing),
                step,
                position,
                anatomy=self.anatomy,
                before=self.before,
            )
            if self.ledger.stage.startswith("lower"):
                check_attributes(
                    self.ledger,
                    computing,
                    step,
                    position,
                    truth=self.truth,
                    anatomy=self.anatomy,
                    before=self.before,
                )
        why: tuple[str, ...] = ()
        clipped = cut is not None and cut.cost > CLIPPED
        if finite and (clipped or _excess(own, cut, narrow)):
            why = causes(step, self.anatomy, steps, self.before)
        self.seen.append(_Seen(place, position, own, depth, narrow, wide, grid, cut, scale, why))
        if not finite or (not depth.finite and not self.blown):
            given = step.ran if finite else step.read
            blown = first_blown(step.piece, self.after, self.anatomy, self.images, given)
            if blown is not None:
                where = self.ledger.place(blown.node, blown.tensor)
                self.ledger.add(position, where, "nonfinite", blown.said, blown.causes, math.inf)
        self.blown = self.blown or not depth.finite

    def _cancelling(self, steps: Sequence[onnx.NodeProto], step: Step) -> float:
        """What the roundings of weights may cost where large products cancel."""
        for node in steps:
            written = self.anatomy.nodes.get(node.name)
            given = [step.read[name] for name in node.input if name in step.read]
            if node.op_type == "MatMulInteger":  # of integers, on their way turned and quantised
                given = list(step.read.values())
            if written is not None and len(given) == 1:
                explained = weights_explain(written, self.anatomy, given[0])
                if explained:
                    return explained
        return 0.0

    def result(self) -> Examined:
        shared = _shared_grids(self.seen)
        rows = []
        for seen in self.seen:
            jumps = self._judge(seen, seen.place.tensor in shared)
            rows.append(
                Row(
                    self.ledger.stage,
                    seen.place,
                    _known(seen.own.largest),
                    _known(seen.own.rms),
                    _known(seen.depth.largest),
                    _known(seen.depth.rms),
                    (seen.wide if seen.place.tensor in shared else seen.narrow).largest,
                    jumps,
                )
            )
        check_weights(self.ledger, self.after, self.anatomy, self.before)
        if self.table is not None:
            check_table(self.ledger, self.after, self.anatomy, self.table)
        self.ledger.found.sort(key=lambda entry: entry[0])
        merged = _merged([finding for _, finding in self.ledger.found])
        places = {f.place.node for f in merged}
        final = (replace(r, jumps=True) if r.place.node in places else r for r in rows)
        return Examined(tuple(final), tuple(merged), self.output)

    def _judge(self, seen: _Seen, shared: bool) -> bool:
        allowed = seen.wide if shared else seen.narrow
        limit = allowed.largest
        if not seen.own.finite:
            return True  # blamed already
        measured = seen.own.largest if seen.cut is None else seen.cut.inside
        if measured > limit:
            said = (
                f"adds an error of {measured:.3g} of the largest value to exact inputs; "
                f"{allowed.why} explain {limit:.2g}"
            )
            self.ledger.add(seen.position, seen.place, "error", said, seen.causes, measured, limit)
            return True
        if seen.cut is not None and seen.cut.cost > CLIPPED:
            said = (
                f"cuts off {seen.cut.share:.2%} of the values, at a cost of {seen.cut.cost:.3g} "
                f"steps of a grid that cuts nothing; {CLIPPED:g} are allowed"
            )
            self.ledger.add(
                seen.position, seen.place, "grid", said, seen.causes, seen.own.largest, limit
            )
            return True
        return False


def _shared_grids(seen: Sequence[_Seen]) -> frozenset[str]:
    """Tensors whose grid is another, wider tensor's too."""
    widest: dict[tuple[float, float], float] = {}
    for entry in seen:
        if entry.grid:
            key = (entry.grid.scale, entry.grid.low)
            widest[key] = max(widest.get(key, 0.0), entry.scale)
    return frozenset(
        entry.place.tensor
        for entry in seen
        if entry.grid and entry.scale < widest[entry.grid.scale, entry.grid.low]
    )


def _excess(own: Deviation, cut: Cut | None, allowed: Allowance) -> bool:
    return (own.largest if cut is None else cut.inside) > allowed.largest


def _raised(allowed: Allowance, explained: float) -> Allowance:
    if explained <= allowed.largest:
        return allowed
    return Allowance(explained + allowed.largest, f"{allowed.why} where products cancel")


def _merged(findings: Sequence[Finding]) -> list[Finding]:
    """One finding per node: the first, with the causes of the others."""
    found: dict[str, Finding] = {}
    for finding in findings:
        node = finding.place.node
        if node not in found:
            found[node] = finding
            continue
        kept = found[node]
        if finding.kind == "nonfinite":
            kept, finding = finding, kept
        found[node] = replace(kept, causes=tuple(dict.fromkeys((*kept.causes, *finding.causes))))
    return list(found.values())


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
