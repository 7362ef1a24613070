"""Layered drawing of a small acyclic graph, from top to bottom.

The four steps of Sugiyama, Tagawa & Toda (IEEE Trans. SMC 11(2), 1981): nodes go to layers by their
longest path from the top, edges across several layers get a bend in each, crossings are reduced by
barycentres, and every node is drawn as near to its neighbours as its layer leaves room.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Layout", "lay_out", "spread"]

_SWEEPS = 8
_SETTLING = 40  # sweeps until nothing moves by more than a unit
Vertex = tuple[str, int]  # (node, 0), or ("3", n): the nth bend of edge 3


@dataclass(frozen=True)
class Layout:
    """Where things are: x in units from 0 to `width`, y as the number of the layer.

    Args:
        places: node → (centre x, layer).
        routes: for each edge, in the order given, its points (x, layer) from start to end.
        layers: how many there are.
    """

    places: Mapping[str, tuple[float, int]]
    routes: tuple[tuple[tuple[float, int], ...], ...]
    width: float
    layers: int


def lay_out(
    nodes: Sequence[str], edges: Sequence[tuple[str, str]], widths: Mapping[str, float], bend: float
) -> Layout:
    """Place `nodes`, which must be in topological order.

    Args:
        edges: (from, to); parallel edges are drawn on top of each other.
        widths: room of each node, gaps included.
        bend: room of an edge that passes a layer, gaps included.
    """
    layer = dict.fromkeys(nodes, 0)
    for node in nodes:
        for source, target in edges:
            if target == node:
                layer[node] = max(layer[node], layer[source] + 1)
    count = max(layer.values(), default=-1) + 1
    rows: list[list[Vertex]] = [[] for _ in range(count)]
    above: dict[Vertex, list[Vertex]] = {}
    below: dict[Vertex, list[Vertex]] = {}
    chains: list[list[Vertex]] = []
    for number, (source, target) in enumerate(edges):
        bends = [(f"{number}", n + 1) for n in range(layer[target] - layer[source] - 1)]
        chains.append([(source, 0), *bends, (target, 0)])
        for one, next_ in zip(chains[-1], chains[-1][1:], strict=False):
            below.setdefault(one, []).append(next_)
            above.setdefault(next_, []).append(one)
    for vertex in _depth_first([(node, 0) for node in nodes], below):
        first, offset = vertex
        at = layer[first] if offset == 0 else layer[edges[int(first)][0]] + offset
        rows[at].append(vertex)
    room = {v: widths[v[0]] if v[1] == 0 else bend for row in rows for v in row}
    _uncross(rows, above, below)
    x = _coordinates(rows, above, below, room)
    left = min((x[v] - room[v] / 2 for v in x), default=0.0)
    width = max((x[v] + room[v] / 2 for v in x), default=0.0) - left
    level = {v: n for n, row in enumerate(rows) for v in row}
    return Layout(
        places={node: (x[node, 0] - left, layer[node]) for node in nodes},
        routes=tuple(tuple((x[v] - left, level[v]) for v in chain) for chain in chains),
        width=width,
        layers=count,
    )


def _depth_first(roots: Iterable[Vertex], below: Mapping[Vertex, list[Vertex]]) -> list[Vertex]:
    """Every vertex once, branch by branch, which is already nearly free of crossings."""
    seen: dict[Vertex, None] = {}
    for root in roots:
        stack = [root]
        while stack:
            vertex = stack.pop()
            if vertex not in seen:
                seen[vertex] = None
                stack += reversed(below.get(vertex, []))
    return list(seen)


def _uncross(
    rows: list[list[Vertex]],
    above: Mapping[Vertex, list[Vertex]],
    below: Mapping[Vertex, list[Vertex]],
) -> None:
    """Sort each layer by the mean rank of its neighbours in the one before, down and up (in place).

    The sort is stable, so that equals keep the order of the branches.
    """
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        order = range(1, len(rows)) if down else range(len(rows) - 2, -1, -1)
        for number in order:
            fixed = rows[number - 1 if down else number + 1]
            rank = {vertex: n for n, vertex in enumerate(fixed)}
            beside = above if down else below
            own = {vertex: float(n) for n, vertex in enumerate(rows[number])}
            for vertex in rows[number]:
                if near := [rank[v] for v in beside.get(vertex, [])]:
                    own[vertex] = sum(near) / len(near)
            rows[number].sort(key=own.__getitem__)


def _coordinates(
    rows: list[list[Vertex]],
    above: Mapping[Vertex, list[Vertex]],
    below: Mapping[Vertex, list[Vertex]],
    room: Mapping[Vertex, float],
) -> dict[Vertex, float]:
    """Centre of each vertex: as near to its neighbours' mean as its layer's order and room allow.

    An edge weighs the less the more others share its ends, so that branches are straight and only
    where they part and meet is anything slanted.
    """

    def weight(upper: Vertex, lower: Vertex) -> float:
        return 1.0 / (len(below[upper]) * len(above[lower])) ** 2

    x: dict[Vertex, float] = {}
    for row in rows:
        x |= dict(zip(row, spread([0.0] * len(row), [room[v] for v in row]), strict=True))
    for sweep in range(_SETTLING):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wanted = []
            for vertex in row:
                near = [(x[v], weight(v, vertex)) for v in above.get(vertex, [])]
                near += [(x[v], weight(vertex, v)) for v in below.get(vertex, [])]
                total = sum(w for _, w in near)
                wanted.append(sum(at * w for at, w in near) / total if near else x[vertex])
            x |= dict(zip(row, spread(wanted, [room[v] for v in row]), strict=True))
    chains = _chains(rows, above, below)
    for _ in range(_SWEEPS):
        means = {v: sum(x[u] for u in chain) / len(chain) for chain in chains for v in chain}
        for row in rows:
            wanted = [means[v] for v in row]
            x |= dict(zip(row, spread(wanted, [room[v] for v in row]), strict=True))
    return x


def _chains(
    rows: list[list[Vertex]],
    above: Mapping[Vertex, list[Vertex]],
    below: Mapping[Vertex, list[Vertex]],
) -> list[list[Vertex]]:
    """The vertices in runs without a fork or a join between them."""
    run: dict[Vertex, list[Vertex]] = {}
    for vertex in (v for row in rows for v in row):
        over = above.get(vertex, [])
        alone = len(over) == 1 and len(below[over[0]]) == 1
        run[vertex] = run[over[0]] if alone else []
        run[vertex].append(vertex)
    return [chain for vertex, chain in run.items() if chain[0] == vertex]


def spread(wanted: Sequence[float], widths: Sequence[float]) -> list[float]:
    """Centres in the given order, none overlapping, with the least squared distance from `wanted`.

    Less the room to the left of each, that is isotonic regression: neighbours that would stand in
    each other's way move together to their mean (pool adjacent violators, Ayer et al. 1955).
    """
    offsets, at = [], 0.0
    for n, width in enumerate(widths):
        at += (widths[n - 1] + width) / 2 if n else 0.0
        offsets.append(at)
    pools: list[tuple[float, int]] = []
    for value, offset in zip(wanted, offsets, strict=True):
        mean, size = value - offset, 1
        while pools and pools[-1][0] > mean:
            other, others = pools.pop()
            mean, size = (mean * size + other * others) / (size + others), size + others
        pools.append((mean, size))
    levels = [mean for mean, size in pools for _ in range(size)]
    return [level + offset for level, offset in zip(levels, offsets, strict=True)]
