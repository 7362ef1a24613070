"""What the nodes of a graph became in an engine: from the engine's names back to the graph's."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

__all__ = ["by_node"]


def by_node(model: onnx.ModelProto, found: Mapping[str, str]) -> dict[str, str]:
    """Node name → the precision it ran in, for the nodes of `model` that can be told.

    Engines fuse nodes and keep the name of one of them. A node without an entry in `found` has gone
    into its only reader where that reader has one (a convolution into the ReLU behind it); chains
    of such nodes are followed. Quantisers are not asked: they become part of what they stand at.

    Args:
        found: node name → precision, as far as the engine knows.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    told: dict[str, str] = {}
    for node in reversed(model.graph.node):
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        users = [user for name in node.output for user in readers.get(name, [])]
        heir = users[0].name if len(users) == 1 else ""
        names = (node.name, *node.output)  # some engines call it by what leaves the graph
        own = next((found[name] for name in names if name in found), None)
        precision = own or told.get(heir)
        if precision is not None:
            told[node.name] = precision
    return {node.name: told[node.name] for node in model.graph.node if node.name in told}
