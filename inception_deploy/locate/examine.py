"""One stage of a bundle examined: every tensor's own error against what rounding explains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

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
from inception_deploy.locate.causes import Before, attributes_apart, causes, weights_apart
from inception_deploy.locate.cutting import CutGraph
from inception_deploy.locate.findings import Finding, Kind, Place, Row
from inception_deploy.locate.nonfinite import first_blown
from inception_deploy.locate.truth import GraphTruth, Truth, run_part
from inception_deploy.locate.walk import Deviation, Step, walk
from inception_deploy.progress import Progress
from inception_deploy.ranges import Ranges

__all__ = ["Examined", "examine"]

_EXACT = 1e-6
"""Of the largest value: two runs of one float32 node, with equal attributes, differ by less."""


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
    run = _Examination(
        stage, truth, after, Anatomy(written), images, blocks, before, table, eight_bits
    )
    run.shapes()
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
    stage: str
    truth: Truth
    after: CutGraph
    anatomy: Anatomy
    images: NDArray[Any]
    blocks: Sequence[str]
    before: Before
    table: Ranges | None
    eight_bits: float
    seen: list[_Seen] = field(default_factory=list)
    found: list[tuple[int, Finding]] = field(default_factory=list)
    blown: bool = False
    output: Array | None = None

    def _place(self, node: str, tensor: str) -> Place:
        return Place.of(node, tensor, self.blocks)

    def _add(
        self,
        position: int,
        place: Place,
        kind: Kind,
        said: str,
        why: Sequence[str] = (),
        measured: float | None = None,
        allowed: float | None = None,
    ) -> None:
        finite = None if measured is None or not math.isfinite(measured) else measured
        finding = Finding(self.stage, place, kind, said, tuple(why), finite, allowed)
        self.found.append((position, finding))

    def shapes(self) -> None:
        """Tensors that have another shape than before, and blocks that are gone."""
        self.truth.shared(self.after)  # a network is asked for its shapes by this
        for name in self.after.floats:
            then, now = self.truth.expected_dims(name), self.after.dims(name)[1:]
            if then is not None and tuple(then) != tuple(now):
                position = self.after.writers[name]
                node = self.after.node_of(name)
                place = self._place(str(node.name), name)
                step = None if self.before.modules is None else self.before.modules.get(node.name)
                why = (
                    [f"PyTorch has {step}"]
                    if step is not None and not list(step.children())
                    else []
                )
                if self.before.anatomy is not None and node.name in self.before.anatomy.nodes:
                    was = self.before.anatomy.nodes[node.name]
                    if was.op_type != node.op_type:
                        why.append(f"{node.op_type} where {was.op_type} was before")
                said = f"has shape {_shape(now)} per image, before {_shape(then)}"
                self._add(position, place, "shape", said, why)
        present = set(self.anatomy.writers)
        for block in self.blocks:
            if block not in present and self.truth.expected_dims(block) is not None:
                self._add(-1, Place(block, block, block, block), "missing", "block is gone")

    def look(self, step: Step) -> None:
        nodes = [self.after.model.graph.node[index] for index in step.piece]
        steps = self.anatomy.steps(iter(nodes))
        node = steps[-1].name if steps else step.node
        place = self._place(str(node), step.tensor)
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
            self._check_ceiling(self.anatomy.nodes.get(computing.name, computing), step, position)
            if self.stage.startswith("lower"):
                self._check_attributes(computing, step, position)
        why: tuple[str, ...] = ()
        clipped = cut is not None and cut.cost > CLIPPED
        if finite and (clipped or _excess(own, cut, narrow)):
            why = causes(step, self.anatomy, steps, self.before)
        self.seen.append(_Seen(place, position, own, depth, narrow, wide, grid, cut, scale, why))
        if not finite or (not depth.finite and not self.blown):
            given = step.ran if finite else step.read
            blown = first_blown(step.piece, self.after, self.anatomy, self.images, given)
            if blown is not None:
                where = self._place(blown.node, blown.tensor)
                self._add(position, where, "nonfinite", blown.said, blown.causes, math.inf)
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
                    self.stage,
                    seen.place,
                    _known(seen.own.largest),
                    _known(seen.own.rms),
                    _known(seen.depth.largest),
                    _known(seen.depth.rms),
                    (seen.wide if seen.place.tensor in shared else seen.narrow).largest,
                    jumps,
                )
            )
        self._check_weights()
        self._check_table()
        self.found.sort(key=lambda entry: entry[0])
        merged = _merged([finding for _, finding in self.found])
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
            self._add(seen.position, seen.place, "error", said, seen.causes, measured, limit)
            return True
        if seen.cut is not None and seen.cut.cost > CLIPPED:
            said = (
                f"cuts off {seen.cut.share:.2%} of the values, at a cost of {seen.cut.cost:.3g} "
                f"steps of a grid that cuts nothing; {CLIPPED:g} are allowed"
            )
            self._add(seen.position, seen.place, "grid", said, seen.causes, seen.own.largest, limit)
            return True
        return False

    def _check_attributes(self, node: onnx.NodeProto, step: Step, position: int) -> None:
        """An attribute that lowering changed and that matters, however little, for these inputs."""
        before, written = self.before.anatomy, self.anatomy.nodes.get(node.name)
        was = None if before is None else before.nodes.get(node.name)
        if before is None or was is None or written is None:
            return
        if written.op_type != was.op_type:
            return
        said = list(attributes_apart(written, self.anatomy, was, before))
        if not said or not isinstance(self.truth, GraphTruth) or node.op_type == "Concat":
            return
        part = self.truth.graph.chain([step.tensor], step.read.keys())
        for inner in part.graph.node:
            if inner.name == node.name:
                del inner.attribute[:]
                inner.attribute.extend(written.attribute)
        feed = self.truth.graph.feed
        if not {v.name for v in part.graph.input} <= {feed, *step.read}:
            return
        values = run_part(part, feed, self.truth.images, step.read)[step.tensor]
        off = Deviation.of(values, step.want).largest
        if off > _EXACT:
            place = self._place(str(node.name), step.tensor)
            text = f"is another {node.op_type} than before: {said[0]}; off by {off:.3g} in float32"
            self._add(position, place, "error", text, said, off, _EXACT)

    def _was_relu(self, node: onnx.NodeProto) -> bool:
        """Whether the stage before has a ReLU where `node` is."""
        if self.before.modules is not None and isinstance(
            self.before.modules.get(node.name), nn.ReLU
        ):
            return True
        anatomy = self.before.anatomy
        was = None if anatomy is None else anatomy.nodes.get(node.name)
        return was is not None and was.op_type == "Relu"

    def _check_ceiling(self, node: onnx.NodeProto, step: Step, position: int) -> None:
        """A ReLU that has become one with a ceiling, whether or not these images reach it."""
        limits = self.anatomy.weights(node)
        if node.op_type != "Clip" or 2 not in limits or not self._was_relu(node):
            return
        ceiling, highest = float(limits[2].values), float(step.want.max())
        beyond = (highest - ceiling) / float(np.abs(step.want).max(initial=1e-30))
        reached = highest > ceiling
        text = f"a ReLU6 for a ReLU: cuts at {ceiling:.4g}, " + (
            f"values reach up to {highest:.4g}"
            if reached
            else f"which other images than these may reach (here {highest:.4g})"
        )
        place = self._place(str(node.name), step.tensor)
        why = ("a ReLU6 for a ReLU",)
        self._add(position, place, "error", text, why, beyond if reached else None, 0.0)

    def _check_weights(self) -> None:
        """Every weight against what it was made of, where the stage keeps the nodes."""
        if self.before.anatomy is None or not self.stage.startswith("lower"):
            return
        positions = {node.name: i for i, node in enumerate(self.after.model.graph.node)}
        for name, node in self.anatomy.nodes.items():
            was = self.before.anatomy.nodes.get(name)
            if was is None or name not in positions:
                continue
            said = list(weights_apart(node, self.anatomy, was, self.before.anatomy))
            if said:
                place = self._place(name, str(node.output[0]))
                self._add(positions[name], place, "weights", said[0], said)

    def _check_table(self) -> None:
        """Grids that are narrower than the ranges they were made of."""
        if self.table is None:
            return
        for tensor, wanted in self.table.tensors.items():
            grid = self.anatomy.grid(tensor)
            if grid is None or tensor not in self.after.writers:
                continue
            step = max(grid.scale, 1e-6 * wanted.max_abs)
            low, high = min(wanted.minimum, 0.0), max(wanted.maximum, 0.0)
            if self.anatomy.shift(tensor):
                low = 0.0  # a ReLU's, also where the table was made for a grid around zero
            if grid.low > low + step or grid.high < high - step:
                said = (
                    f"has a grid from {grid.low:.4g} to {grid.high:.4g}, calibration.json asks "
                    f"for {low:.4g} to {high:.4g}"
                )
                place = self._place(self._quantised(tensor), tensor)
                why = ["clipped range: the graph was not made with this table"]
                self._add(self.after.writers[tensor], place, "grid", said, why)

    def _quantised(self, tensor: str) -> str:
        """The node whose output goes through the quantisers of `tensor`."""
        writers = self.anatomy.writers
        node = writers[tensor]
        while not self.anatomy.steps(iter([node])) and node.input[0] in writers:
            node = writers[node.input[0]]
        return str(node.name)


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


def _shape(dims: Sequence[int | str]) -> str:
    return "×".join(map(str, dims))
