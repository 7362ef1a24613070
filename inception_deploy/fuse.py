"""The fuse stage: exact rewrites, one after the other, each proven against the golden.

A fusion runs on a copy of the graph until nothing is left to rewrite. The last pass rewrites
nothing, and its refusals are the ones recorded: every place that looks like the pattern and was
left alone, once, with its reason.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

import onnx

from inception_deploy.artifact import Applied, Artifact, Refused, StageRecord, model_digest
from inception_deploy.errors import StageError
from inception_deploy.fusions.base import Fusion
from inception_deploy.graphs import close_graph, is_output, open_graph
from inception_deploy.progress import Progress, SilentProgress
from inception_deploy.proof import prove

__all__ = ["fuse", "rewrite"]


def fuse(
    artifact: Artifact, fusions: Sequence[Fusion], *, progress: Progress | None = None
) -> Artifact:
    """The artifact after all `fusions` in the given order, with one record `fuse/NAME` each.

    A fusion that finds no place leaves the graph as it is: equal digests, no error measured.

    Raises:
        StageError: a fusion left an invalid graph, lost the name of a block's output, or moved the
            output or a block by more than its bound.
    """
    listener = progress or SilentProgress()
    for fusion in fusions:
        stage = f"fuse/{fusion.name}"
        started = time.perf_counter()
        with listener.stage(stage):
            model, applied, refused = rewrite(artifact.model, fusion, keep=artifact.golden.blocks)
        proof = None
        if applied:
            proof = prove(
                model, artifact.golden, bound=fusion.bound, stage=stage, progress=progress
            )
        record = StageRecord(
            name=stage,
            seconds=time.perf_counter() - started,
            before=artifact.digest,
            after=model_digest(model) if applied else artifact.digest,
            applied=applied,
            refused=refused,
            error=proof.error if proof else None,
            bound=fusion.bound,
            facts={"nodes": len(model.graph.node), **(proof.facts() if proof else {})},
        )
        artifact = artifact.advance(model, record)
    return artifact


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
    stage = f"fuse/{fusion.name}"
    graph = open_graph(model)
    leaving, tensors = list(graph.outputs), graph.tensors()
    kept = [tensors[name] for name in keep if name in tensors]
    graph.outputs += [tensor for tensor in kept if not is_output(graph, tensor)]
    graph.cleanup().toposort()  # nobody shares weights with a node that nobody needs
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
            break
        graph.cleanup().toposort()
    else:
        raise StageError(f"{stage} does not come to an end: it keeps matching its own result")
    if not applied:
        return model, (), tuple(refused)
    graph.outputs = leaving
    return close_graph(graph, model, stage=stage), tuple(applied), tuple(refused)
