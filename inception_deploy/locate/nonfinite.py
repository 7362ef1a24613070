"""NaN and infinity: the first node that puts one out, and what it was given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from inception_deploy.engines.base import Array
from inception_deploy.locate.anatomy import Anatomy
from inception_deploy.locate.cutting import CutGraph
from inception_deploy.locate.truth import run_part

__all__ = ["Blown", "first_blown"]


@dataclass(frozen=True)
class Blown:
    """A node that puts out NaN or infinity, given none.

    Args:
        node: its name; that of the node behind it, for a cast.
        tensor: what it puts out.
        said: one line, with the range of what it was given.
        causes: the most likely first.
    """

    node: str
    tensor: str
    said: str
    causes: tuple[str, ...]


def first_blown(
    piece: tuple[int, ...],
    after: CutGraph,
    anatomy: Anatomy,
    images: NDArray[Any],
    given: Mapping[str, Array],
) -> Blown | None:
    """The first such node of a piece; None where it was given NaN or infinity already.

    Args:
        piece: indices of its nodes in `after`.
        anatomy: of the graph as the bundle has it.
        images: what the graph is fed.
        given: cut tensors that the piece reads.

    Raises:
        StageError: the piece cannot be run.
    """
    if any(not np.isfinite(values).all() for values in given.values()):
        return None
    inner = [
        name
        for index in piece
        for name in after.model.graph.node[index].output
        if name in after.floats
    ]
    part = after.chain(inner, given.keys())
    values = {**given, **run_part(part, after.feed, images, given)}
    name = next((name for name in inner if not np.isfinite(values[name]).all()), None)
    if name is None:
        return None
    node, bad = after.node_of(name), values[name]
    ranges = _ranges(after, node, values)
    what = "NaN" if np.isnan(bad).any() else "infinity"
    count, seen = int((~np.isfinite(bad)).sum()), ", ".join(ranges) or "the images"
    real = _computing(after, node)
    causes = []
    written = anatomy.nodes.get(real)
    weights = {} if written is None else anatomy.weights(written)
    if any(not np.isfinite(w.values).all() for w in weights.values()):
        causes.append("wrong weights: they hold NaN or infinity")
    if node.op_type == "Cast" and ranges:
        causes.append(f"FP16 overflow: half precision ends at 65504, and {ranges[0]}")
    said = f"puts out {what} in {count} of {bad.size} values, given {seen}"
    return Blown(real, name.split("/")[0], said, tuple(causes))


def _ranges(after: CutGraph, node: onnx.NodeProto, values: Mapping[str, Array]) -> list[str]:
    """What a node reads, as text; for a cast from a half, what that half was made of."""
    while node.op_type == "Cast" and node.input[0] not in values:
        node = after.node_of(node.input[0])  # the half itself is no float32 tensor
    return [
        f"'{name}' from {float(values[name].min()):.4g} to {float(values[name].max()):.4g}"
        for name in node.input
        if name in values and np.isfinite(values[name]).all()
    ]


def _computing(after: CutGraph, node: onnx.NodeProto) -> str:
    """The node behind casts."""
    while node.op_type == "Cast" and node.input[0] in after.writers:
        node = after.node_of(node.input[0])
    return str(node.name)
