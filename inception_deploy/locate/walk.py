"""Two forms of one network walked side by side, piece by piece.

For every tensor that both have under one name, two errors:

own: the piece of the graph after a stage that ends in this tensor is given what was there *before*
    the stage. Whatever differs now was added between these cuts, and nowhere else.
depth: the graph after the stage runs on what it computed itself; this is what accumulates.

The walk goes through both once, some tensors at a time, and keeps only what pieces still to come
will read: neither memory nor time per tensor depends on how many there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inception_deploy.engines.base import Array
from inception_deploy.locate.cutting import OWN, CutGraph
from inception_deploy.locate.truth import Truth, run_part
from inception_deploy.progress import Progress, SilentProgress

__all__ = ["BYTES_AT_ONCE", "TENSORS_AT_ONCE", "Deviation", "Step", "walk"]

TENSORS_AT_ONCE = 32
"""Most tensors that a session puts out."""

BYTES_AT_ONCE = 64 * 2**20
"""Most bytes of them, unless a single one is larger."""


@dataclass(frozen=True)
class Deviation:
    """How far values are from what was expected.

    Args:
        largest: max |have − want| / max |want|; infinite where `have` is not finite, or where
            nothing but zeros was expected and something else came.
        rms: the root of Σ(have − want)² / Σ want²; likewise.
        finite: whether all values are.
    """

    largest: float
    rms: float
    finite: bool = True

    @classmethod
    def of(cls, have: Array, want: Array) -> Deviation:
        """Of two arrays of one shape; `want` is finite."""
        if not np.isfinite(have).all():
            return cls(math.inf, math.inf, finite=False)
        error = have.astype(np.float64) - want
        scale = float(np.abs(want).max(initial=0.0))
        wrong = float(np.abs(error).max(initial=0.0))
        if scale == 0.0:
            return cls(0.0, 0.0) if wrong == 0.0 else cls(math.inf, math.inf)
        power = float(np.square(want, dtype=np.float64).sum())
        return cls(wrong / scale, math.sqrt(float(np.square(error).sum()) / power))


@dataclass(frozen=True)
class Step:
    """One tensor of a walk, with its values, which are gone when the walk moves on.

    Args:
        tensor: its name.
        node: of the graph after the stage, that puts it out.
        piece: indices of that graph's nodes between the cuts and the tensor.
        want: what was there before the stage, float32.
        own: what the piece makes of the inputs that belong to `want`.
        have: what the graph after the stage makes of its own.
        read: tensor that the piece reads → its values before the stage.
        ran: tensor that the piece reads → what the graph after the stage computed.
    """

    tensor: str
    node: str
    piece: tuple[int, ...]
    want: Array
    own: Array
    have: Array
    read: Mapping[str, Array]
    ran: Mapping[str, Array]


def walk(
    truth: Truth,
    after: CutGraph,
    images: NDArray[Any],
    *,
    progress: Progress | None = None,
) -> Iterator[Step]:
    """Every tensor that `after` shares with `truth`, in the order in which `after` computes them.

    Args:
        images: what `after` is fed; `truth` has the same ones in its own form.

    Raises:
        StageError: a graph cannot be run.
    """
    tensors = truth.shared(after)
    cuts = frozenset(tensors)
    pieces = {tensor: after.piece(tensor, cuts) for tensor in tensors}
    reads = {tensor: tuple(after.reads(pieces[tensor], cuts)) for tensor in tensors}
    last = _last_reads(truth, tensors, cuts, reads)
    want: dict[str, Array] = {}
    ran: dict[str, Array] = {}
    listener = progress or SilentProgress()
    chunks = list(_chunks(after, tensors, len(images)))
    position = 0
    for chunk in listener.track(chunks, f"{truth.stage} → {after.stage}", len(chunks)):
        want |= truth.values(chunk, want)
        own = run_part(after.alone(chunk, cuts), after.feed, images, want)
        ran |= run_part(after.chain(chunk, ran.keys()), after.feed, images, ran)
        for tensor in chunk:
            given = {name: want[name] for name in reads[tensor] if name in cuts}
            yield Step(
                tensor=tensor,
                node=str(after.node_of(tensor).name),
                piece=pieces[tensor],
                want=want[tensor],
                own=own[tensor + OWN],
                have=ran[tensor],
                read=given,
                ran={name: ran[name] for name in given},
            )
        position += len(chunk)
        for name in [name for name in want if last[name] < position]:
            del want[name], ran[name]


def _last_reads(
    truth: Truth,
    tensors: Sequence[str],
    cuts: frozenset[str],
    reads: Mapping[str, Sequence[str]],
) -> dict[str, int]:
    """Tensor → position of the last tensor that is computed from it, on either side."""
    last = {tensor: position for position, tensor in enumerate(tensors)}
    for position, tensor in enumerate(tensors):
        for name in (*reads[tensor], *truth.needs(tensor, cuts)):
            if name in last:
                last[name] = max(last[name], position)
    return last


def _chunks(graph: CutGraph, tensors: Sequence[str], images: int) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for tensor in tensors:
        own = 4 * images * graph.elements(tensor)
        if chunk and (len(chunk) == TENSORS_AT_ONCE or size + own > BYTES_AT_ONCE):
            yield chunk
            chunk, size = [], 0
        chunk.append(tensor)
        size += own
    if chunk:
        yield chunk
