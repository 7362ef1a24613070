"""What can be told of a stage's nodes without asking how much error they add.

Shapes and blocks that changed, attributes, ceilings, weights, and grids that do not hold the ranges
they were made of: each check notes what it finds in a `Ledger`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from torch import nn

from inception_deploy.locate.anatomy import Anatomy
from inception_deploy.locate.causes import Before, attributes_apart, weights_apart
from inception_deploy.locate.cutting import CutGraph
from inception_deploy.locate.findings import Finding, Kind, Place
from inception_deploy.locate.truth import GraphTruth, Truth, run_part
from inception_deploy.locate.walk import Deviation, Step
from inception_deploy.ranges import Ranges

__all__ = [
    "Ledger",
    "check_attributes",
    "check_ceiling",
    "check_shapes",
    "check_table",
    "check_weights",
]

_EXACT = 1e-6
"""Of the largest value: two runs of one float32 node, with equal attributes, differ by less."""


@dataclass
class Ledger:
    """The findings of one stage, and how its places are called.

    Args:
        blocks: names of the network's blocks.
        found: (position in the graph after the stage, finding).
    """

    stage: str
    blocks: Sequence[str]
    found: list[tuple[int, Finding]] = field(default_factory=list)

    def place(self, node: str, tensor: str) -> Place:
        return Place.of(node, tensor, self.blocks)

    def add(
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


def check_shapes(
    ledger: Ledger, truth: Truth, after: CutGraph, anatomy: Anatomy, before: Before
) -> None:
    """Tensors that have another shape than before, and blocks that are gone."""
    truth.shared(after)  # a network is asked for its shapes by this
    for name in after.floats:
        then, now = truth.expected_dims(name), after.dims(name)[1:]
        if then is not None and tuple(then) != tuple(now):
            position = after.writers[name]
            node = after.node_of(name)
            place = ledger.place(str(node.name), name)
            step = None if before.modules is None else before.modules.get(node.name)
            why = [f"PyTorch has {step}"] if step is not None and not list(step.children()) else []
            if before.anatomy is not None and node.name in before.anatomy.nodes:
                was = before.anatomy.nodes[node.name]
                if was.op_type != node.op_type:
                    why.append(f"{node.op_type} where {was.op_type} was before")
            said = f"has shape {_shape(now)} per image, before {_shape(then)}"
            ledger.add(position, place, "shape", said, why)
    present = set(anatomy.writers)
    for block in ledger.blocks:
        if block not in present and truth.expected_dims(block) is not None:
            ledger.add(-1, Place(block, block, block, block), "missing", "block is gone")


def check_attributes(
    ledger: Ledger,
    node: onnx.NodeProto,
    step: Step,
    position: int,
    *,
    truth: Truth,
    anatomy: Anatomy,
    before: Before,
) -> None:
    """An attribute that lowering changed and that matters, however little, for these inputs."""
    original, written = before.anatomy, anatomy.nodes.get(node.name)
    was = None if original is None else original.nodes.get(node.name)
    if original is None or was is None or written is None:
        return
    if written.op_type != was.op_type:
        return
    said = list(attributes_apart(written, anatomy, was, original))
    if not said or not isinstance(truth, GraphTruth) or node.op_type == "Concat":
        return
    part = truth.graph.chain([step.tensor], step.read.keys())
    for inner in part.graph.node:
        if inner.name == node.name:
            del inner.attribute[:]
            inner.attribute.extend(written.attribute)
    feed = truth.graph.feed
    if not {v.name for v in part.graph.input} <= {feed, *step.read}:
        return
    values = run_part(part, feed, truth.images, step.read)[step.tensor]
    off = Deviation.of(values, step.want).largest
    if off > _EXACT:
        place = ledger.place(str(node.name), step.tensor)
        text = f"is another {node.op_type} than before: {said[0]}; off by {off:.3g} in float32"
        ledger.add(position, place, "error", text, said, off, _EXACT)


def check_ceiling(
    ledger: Ledger,
    node: onnx.NodeProto,
    step: Step,
    position: int,
    *,
    anatomy: Anatomy,
    before: Before,
) -> None:
    """A ReLU that has become one with a ceiling, whether or not these images reach it."""
    limits = anatomy.weights(node)
    if node.op_type != "Clip" or 2 not in limits or not _was_relu(node, before):
        return
    ceiling, highest = float(limits[2].values), float(step.want.max())
    beyond = (highest - ceiling) / float(np.abs(step.want).max(initial=1e-30))
    reached = highest > ceiling
    text = f"a ReLU6 for a ReLU: cuts at {ceiling:.4g}, " + (
        f"values reach up to {highest:.4g}"
        if reached
        else f"which other images than these may reach (here {highest:.4g})"
    )
    place = ledger.place(str(node.name), step.tensor)
    why = ("a ReLU6 for a ReLU",)
    ledger.add(position, place, "error", text, why, beyond if reached else None, 0.0)


def check_weights(ledger: Ledger, after: CutGraph, anatomy: Anatomy, before: Before) -> None:
    """Every weight against what it was made of, where the stage keeps the nodes."""
    if before.anatomy is None or not ledger.stage.startswith("lower"):
        return
    positions = {node.name: i for i, node in enumerate(after.model.graph.node)}
    for name, node in anatomy.nodes.items():
        was = before.anatomy.nodes.get(name)
        if was is None or name not in positions:
            continue
        said = list(weights_apart(node, anatomy, was, before.anatomy))
        if said:
            place = ledger.place(name, str(node.output[0]))
            ledger.add(positions[name], place, "weights", said[0], said)


def check_table(ledger: Ledger, after: CutGraph, anatomy: Anatomy, table: Ranges) -> None:
    """Grids that are narrower than the ranges they were made of."""
    for tensor, wanted in table.tensors.items():
        grid = anatomy.grid(tensor)
        if grid is None or tensor not in after.writers:
            continue
        step = max(grid.scale, 1e-6 * wanted.max_abs)
        low, high = min(wanted.minimum, 0.0), max(wanted.maximum, 0.0)
        if anatomy.shift(tensor):
            low = 0.0  # a ReLU's, also where the table was made for a grid around zero
        if grid.low > low + step or grid.high < high - step:
            said = (
                f"has a grid from {grid.low:.4g} to {grid.high:.4g}, calibration.json asks "
                f"for {low:.4g} to {high:.4g}"
            )
            place = ledger.place(_quantised(tensor, anatomy), tensor)
            why = ["clipped range: the graph was not made with this table"]
            ledger.add(after.writers[tensor], place, "grid", said, why)


def _quantised(tensor: str, anatomy: Anatomy) -> str:
    """The node whose output goes through the quantisers of `tensor`."""
    writers = anatomy.writers
    node = writers[tensor]
    while not anatomy.steps(iter([node])) and node.input[0] in writers:
        node = writers[node.input[0]]
    return str(node.name)


def _was_relu(node: onnx.NodeProto, before: Before) -> bool:
    """Whether the stage before has a ReLU where `node` is."""
    if before.modules is not None and isinstance(before.modules.get(node.name), nn.ReLU):
        return True
    anatomy = before.anatomy
    was = None if anatomy is None else anatomy.nodes.get(node.name)
    return was is not None and was.op_type == "Relu"


def _shape(dims: Sequence[int | str]) -> str:
    return "×".join(map(str, dims))
