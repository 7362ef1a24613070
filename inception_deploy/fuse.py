"""The fuse stage: exact rewrites, one after the other, each proven against the golden.

A fusion runs on a copy of the graph until nothing is left to rewrite, and the fusions of one phase
take turns until none of them finds anything: their order within the phase says nothing. The last
pass rewrites nothing, and its refusals are the ones recorded: every place that looks like the
pattern and was left alone, once, with its reason.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import onnx
import onnx_graphsurgeon as gs

from inception_deploy.artifact import Applied, Artifact, Refused, StageRecord, model_digest
from inception_deploy.errors import StageError
from inception_deploy.fusions.base import Fusion
from inception_deploy.graphs import close_graph, is_output, open_graph
from inception_deploy.progress import Progress, SilentProgress
from inception_deploy.proof import prove

__all__ = ["Rewriting", "fuse", "rewrite", "rewritings"]

ROUNDS = 16
"""Turns of each fusion of a phase until it must have settled; networks need two at most."""


@dataclass(frozen=True)
class Rewriting:
    """One turn of a fusion.

    Args:
        model: the graph after it; the very one before it where nothing was applied.
        seconds: it took.
    """

    fusion: Fusion
    model: onnx.ModelProto
    applied: tuple[Applied, ...]
    refused: tuple[Refused, ...]
    seconds: float


def fuse(
    artifact: Artifact, fusions: Sequence[Fusion], *, progress: Progress | None = None
) -> Artifact:
    """The artifact after all `fusions` in the given order, with one record `fuse/NAME` each.

    Every turn that applied something is proven. A fusion that had several such turns has one
    record all the same, behind those of its phase: from the graph before the first to the graph
    after the last. One that finds no place leaves the graph as it is: equal digests, no error
    measured.

    Raises:
        StageError: a fusion left an invalid graph, lost the name of a block's output, or moved the
            output or a block by more than its bound; or a phase does not come to an end.
    """
    golden, digest = artifact.golden, artifact.digest
    model, records = artifact.model, dict[str, StageRecord]()
    for turn in rewritings(artifact.model, fusions, keep=golden.blocks, progress=progress):
        stage, bound = f"fuse/{turn.fusion.name}", turn.fusion.bound
        started, before, proof = time.perf_counter(), digest, None
        if turn.applied:
            model = turn.model
            proof = prove(model, golden, bound=bound, stage=stage, progress=progress)
            digest = model_digest(model)
        record = StageRecord(
            name=stage,
            seconds=turn.seconds + time.perf_counter() - started,
            before=before,
            after=digest,
            applied=turn.applied,
            refused=turn.refused,
            error=proof.error if proof else None,
            bound=bound,
            facts={"nodes": len(model.graph.node), **(proof.facts() if proof else {})},
        )
        earlier = records.get(stage)
        if earlier is not None and turn.applied:
            del records[stage]  # to stand last: the history ends with the graph there is
        records[stage] = record if earlier is None else _merged(earlier, record)
    return replace(artifact, model=model, records=(*artifact.records, *records.values()))


def _merged(earlier: StageRecord, later: StageRecord) -> StageRecord:
    """The record of a fusion that had another turn."""
    seconds = earlier.seconds + later.seconds
    if not later.applied:
        return replace(earlier, refused=later.refused, seconds=seconds)
    before = earlier.before if earlier.applied else later.before
    applied = (*earlier.applied, *later.applied)
    return replace(later, before=before, applied=applied, seconds=seconds)


def rewritings(
    model: onnx.ModelProto,
    fusions: Sequence[Fusion],
    *,
    keep: Collection[str] = (),
    progress: Progress | None = None,
) -> Iterator[Rewriting]:
    """The turns of `fusions`: phase after phase, each until none of its fusions finds anything.

    The graph is opened anew only after a turn that changed it.

    Args:
        keep: as for `rewrite`.

    Raises:
        StageError: as `rewrite`, or a phase has not settled after `ROUNDS` turns of each fusion.
    """
    listener = progress or SilentProgress()
    graph: gs.Graph | None = None
    for phase, members in groupby(fusions, key=lambda fusion: fusion.phase):
        group = tuple(members)
        turns = idle = 0
        while turns < len(group) or idle < len(group) - 1:
            if turns == ROUNDS * len(group):
                names = ", ".join(fusion.name for fusion in group)
                raise StageError(
                    f"fuse: phase {phase.name} does not come to an end after {ROUNDS} rounds of "
                    f"{names}: one undoes what another does"
                )
            fusion = group[turns % len(group)]
            started = time.perf_counter()
            with listener.stage(f"fuse/{fusion.name}"):
                graph = graph or _opened(model, keep)
                applied, refused = _run(fusion, graph)
                if applied:
                    model = _closed(graph, model, fusion)
                    graph = None
            yield Rewriting(fusion, model, applied, refused, time.perf_counter() - started)
            turns, idle = turns + 1, 0 if applied else idle + 1


def rewrite(
    model: onnx.ModelProto, fusion: Fusion, *, keep: Collection[str] = ()
) -> tuple[onnx.ModelProto, tuple[Applied, ...], tuple[Refused, ...]]:
    """`model` with `fusion` at every place where it is exact; `model` itself where there is none.

    Nodes are named in the results as they were called before the rewrite.

    Args:
        keep: tensors that must survive with their name and values: the outputs of blocks.

    Raises:
        StageError: the rewritten graph is not valid, or the fusion does not come to an end.
    """
    graph = _opened(model, keep)
    applied, refused = _run(fusion, graph)
    return (_closed(graph, model, fusion) if applied else model), applied, refused


def _opened(model: onnx.ModelProto, keep: Collection[str]) -> gs.Graph:
    """`model` for editing; the tensors to keep are outputs meanwhile, behind its own."""
    graph = open_graph(model)
    tensors = graph.tensors()
    kept = [tensors[name] for name in keep if name in tensors]
    graph.outputs += [tensor for tensor in kept if not is_output(graph, tensor)]
    graph.cleanup().toposort()  # nobody shares weights with a node that nobody needs
    return graph


def _closed(graph: gs.Graph, model: onnx.ModelProto, fusion: Fusion) -> onnx.ModelProto:
    graph.outputs = graph.outputs[: len(model.graph.output)]
    return close_graph(graph, model, stage=f"fuse/{fusion.name}")


def _run(fusion: Fusion, graph: gs.Graph) -> tuple[tuple[Applied, ...], tuple[Refused, ...]]:
    """Rewrite (in place) until nothing is left to rewrite."""
    applied: list[Applied] = []
    for _ in range(len(graph.nodes) + 1):
        before = len(applied)
        refused: list[Refused] = []
        for anchor in tuple(fusion.match(graph)):
            if not anchor.outputs:
                continue  # a rewrite of this pass has taken it in
            name = anchor.name
            reason = fusion.check(graph, anchor)
            if reason is None:
                applied.append(Applied(fusion.name, name, fusion.rewrite(graph, anchor)))
            else:
                refused.append(Refused(fusion.name, name, reason))
        if len(applied) == before:
            return tuple(applied), tuple(refused)
        graph.cleanup().toposort()
    raise StageError(
        f"fuse/{fusion.name} does not come to an end: it keeps matching its own result"
    )
