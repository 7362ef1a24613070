"""Blocks as the unit of mixing: which nodes of a graph are one, and the graph with some in float.

Single layers would be a finer unit, but every change between integers and float costs a pass over a
tensor, and inside a block these passes buy nothing: its branches share one grid at the Concat.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import onnx

from inception_deploy.placements import Placement
from inception_deploy.placements.base import WEIGHTED
from inception_deploy.precisions.int8 import Int8
from inception_deploy.ranges import Ranges, TensorRange

__all__ = ["alone", "block_nodes", "block_of", "block_owners", "completed", "kept_float"]


def block_of(node: str, blocks: Collection[str]) -> str:
    """The architecture block that a node came from, by its dotted name.

    Args:
        blocks: names of the architecture's blocks. A node of none of them, such as the classifier,
            is of a block of its own: the first part of its name.
    """
    parts = node.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in blocks:
            return prefix
    return parts[0]


def block_owners(model: onnx.ModelProto, blocks: Collection[str]) -> dict[str, str]:
    """Node → its block, in graph order.

    A node that stands between blocks and has no weights, such as a pool, goes with the block that
    feeds it: the two share a tensor, and either could hardly run in integers without the other.
    """
    owners: dict[str, str] = {}
    made_by: dict[str, str] = {}
    for node in model.graph.node:
        block = block_of(node.name, blocks)
        if block not in blocks and node.op_type not in WEIGHTED:
            block = next((made_by[name] for name in node.input if name in made_by), block)
        owners[node.name] = block
        made_by |= dict.fromkeys(node.output, block)
    return owners


def block_nodes(nodes: Iterable[str], owners: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Block → those of `nodes` that are its own, both in the order of `nodes`."""
    found: dict[str, list[str]] = {}
    for node in nodes:
        found.setdefault(owners[node], []).append(node)
    return {block: tuple(members) for block, members in found.items()}


def kept_float(precision: Int8, owners: Mapping[str, str], blocks: Collection[str]) -> Int8:
    """`precision` with the nodes of `blocks` in float, besides those that are already.

    Args:
        owners: node → its block, as from `block_owners`.
    """
    names = {node for node, block in owners.items() if block in blocks}
    return replace(precision, exclude=precision.exclude | names)


def alone(precision: Int8, owners: Mapping[str, str], nodes: Collection[str]) -> Int8:
    """`precision` with every node in float but `nodes`, and all of these in integers.

    Some operators are worth it only where their inputs are integers already. Here they are made to,
    for the rounding of such a node is to be seen.
    """
    rules = tuple(replace(rule, source=True) for rule in precision.placement.rules)
    eager = replace(precision, placement=replace(precision.placement, rules=rules))
    return replace(eager, exclude=precision.exclude | set(owners).difference(nodes))


def completed(ranges: Ranges, model: onnx.ModelProto, placement: Placement) -> Ranges:
    """`ranges` with those of the tensors that moving nodes put out, where none was taken of them.

    In integers such a tensor lies on the grid of the node's inputs and needs no range of its own.
    Where the node runs in float, the next integer one quantises its output; what is moved, or
    picked by a max pool, lies within the range of what comes in.
    """
    movers = {rule.op for rule in placement.rules if rule.shares}
    tensors = dict(ranges.tensors)
    for node in model.graph.node:
        sources = [tensors[name] for name in node.input if name in tensors]
        if node.op_type not in movers or not sources:
            continue
        whole = TensorRange(min(s.minimum for s in sources), max(s.maximum for s in sources))
        for name in node.output:
            tensors.setdefault(name, whole)
    return replace(ranges, tensors=tensors)
