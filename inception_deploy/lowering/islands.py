"""Where a graph of two float types has the fewest casts.

A rule decides node by node, and so may leave a ReLU in half precision between two convolutions
that stay in FP32: two casts for nothing. Running a node in FP32 is always safe, so the borders may
be moved: over everything but the contractions, whose speed is the reason for half precision.

Fewest casts is a minimum cut. Each node is on one of two sides; a tensor costs one cast if any of
its readers is on the other side than its writer, however many they are:

    cost(t) = [writer low, some reader high] + [writer high, some reader low]

Both terms are cuts with one helper vertex each: writer → a (1) → readers (∞) for the first, and
readers → b (∞) → writer (1) for the second, the source being half precision and the sink FP32. Of
several minima the one with the fewest FP32 nodes is taken: those that reach the sink in the
residual graph.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import networkx as nx

__all__ = ["Wire", "fewest_casts"]


@dataclass(frozen=True)
class Wire:
    """A float tensor: the vertex that writes it and those that read it.

    A vertex is a node's index, or any other hashable for the world outside the graph.
    """

    writer: Hashable
    readers: tuple[Hashable, ...]


def fewest_casts(
    wires: Iterable[Wire], high: Iterable[Hashable], low: Iterable[Hashable]
) -> frozenset[Hashable]:
    """The vertices on the FP32 side in an arrangement with the fewest casts.

    Args:
        wires: every float activation.
        high: vertices that must run in FP32.
        low: vertices that must run in half precision.

    Returns:
        `high` and the smallest set of free vertices that joins it at the minimum.
    """
    network = nx.DiGraph()
    network.add_nodes_from(("source", "sink"))
    for vertex in low:
        network.add_edge("source", ("vertex", vertex))  # no capacity: infinite
    for vertex in high:
        network.add_edge(("vertex", vertex), "sink")
    for number, wire in enumerate(wires):
        writer, up, down = ("vertex", wire.writer), ("up", number), ("down", number)
        network.add_edge(writer, up, capacity=1)
        network.add_edge(down, writer, capacity=1)
        for reader in wire.readers:
            network.add_edge(up, ("vertex", reader))
            network.add_edge(("vertex", reader), down)
    # networkx gives the sink the smallest side: what still reaches it when the flow is at its most
    _, (_, side) = nx.minimum_cut(network, "source", "sink")
    return frozenset(v[1] for v in side if v[0] == "vertex")
