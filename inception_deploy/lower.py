"""Lower: the graph in another number format, proven against the golden.

Two proofs: the graph as it is, as the engine here runs it, if any does; and, where it holds
half-precision tensors, the graph with each of them rounded to what a half-precision device would
store. An engine may compute in FP32 behind the graph's back, and would then hide an overflow.

Where calibrated ranges cut values off, the bound is asked of the same lowering with ranges that
hold the golden's values: a range that was clipped, or taken on other images, makes a graph coarse
and not wrong. How coarse is recorded, and for parity and its verdict to judge.
"""

from __future__ import annotations

import math
import time

import onnx

from inception_deploy.artifact import Artifact, Golden, StageRecord, model_digest
from inception_deploy.calibrate import NotFinite, observe
from inception_deploy.engines import ENGINES
from inception_deploy.errors import StageError
from inception_deploy.lowering.rounding import rounded
from inception_deploy.precisions.base import Precision
from inception_deploy.progress import Progress, SilentProgress
from inception_deploy.proof import Proof, prove
from inception_deploy.ranges import Ranges

__all__ = ["lower"]


def lower(
    artifact: Artifact,
    precision: Precision,
    ranges: Ranges | None,
    *,
    progress: Progress | None = None,
) -> Artifact:
    """The artifact in `precision`, with one record `lower/NAME`.

    The record's error is the larger one of the two proofs; its facts hold both.

    Args:
        ranges: taken on this very graph; None for a precision that needs none.

    Raises:
        StageError: the ranges are of another graph, the graph cannot be lowered, a tensor
            overflows (its node is named), or the output or a block moved beyond the bound that the
            precision states.
    """
    listener = progress or SilentProgress()
    started = time.perf_counter()
    stage = f"lower/{precision.name}"
    if ranges is not None and ranges.model != artifact.digest:
        raise StageError(
            f"{stage}: the ranges were taken on another graph ({ranges.model[:12]}…, this is "
            f"{artifact.digest[:12]}…); calibrate after the last rewrite"
        )
    with listener.stage(stage):
        lowering = precision.lower(artifact.model, ranges)
        device = rounded(lowering.model)
    bound, golden = lowering.bound, artifact.golden
    facts = dict(lowering.facts)
    if precision.clips and ranges is not None:
        worst = _prove_unclipped(artifact, precision, ranges, stage, progress)
        here = prove(lowering.model, golden, bound=math.inf, stage=stage, progress=progress)
        facts["error_unclipped"] = worst.error
    elif precision.executable:
        worst = here = prove(lowering.model, golden, bound=bound, stage=stage, progress=progress)
    else:
        assert device is not lowering.model, "a precision that nothing here runs is half precision"
        worst = here = _prove_rounded(device, lowering.model, golden, bound, stage, progress)
    if precision.executable:
        facts["error_here"] = here.error
    if device is not lowering.model:
        there = here
        if precision.executable:
            there = _prove_rounded(device, lowering.model, golden, bound, stage, progress)
        facts["error_rounded"] = there.error
        worst = max(here, there, key=lambda proof: proof.error)
    record = StageRecord(
        name=stage,
        seconds=time.perf_counter() - started,
        before=artifact.digest,
        after=model_digest(lowering.model),
        applied=lowering.applied,
        refused=lowering.refused,
        error=worst.error,
        bound=bound,
        facts={**facts, **worst.facts()},
    )
    return artifact.advance(lowering.model, record)


def _prove_unclipped(
    artifact: Artifact,
    precision: Precision,
    ranges: Ranges,
    stage: str,
    progress: Progress | None,
) -> Proof:
    """`prove` for the same lowering with ranges that hold every value of the golden."""
    golden = artifact.golden
    seen = observe(
        artifact.model, [golden.feed], engine=ENGINES.get("onnxruntime"), data_digest="", total=1
    )
    wide = precision.lower(artifact.model, ranges.joined(seen))
    return prove(wide.model, golden, bound=wide.bound, stage=stage, progress=progress)


def _prove_rounded(
    model: onnx.ModelProto,
    lowered: onnx.ModelProto,
    golden: Golden,
    bound: float,
    stage: str,
    progress: Progress | None,
) -> Proof:
    """`prove`; where it fails and a tensor is not finite, the message names it and its node."""
    stage = f"{stage} as a device rounds"
    try:
        return prove(model, golden, bound=bound, stage=stage, progress=progress)
    except StageError:
        images = [golden.feed[i : i + 1] for i in range(len(golden.feed))]
        engine = ENGINES.get("onnxruntime")
        try:
            observe(model, images, engine=engine, data_digest="", total=len(images))
        except NotFinite as overflow:
            node = next(
                (n.name for n in lowered.graph.node if overflow.tensor in n.output), "input"
            )
            raise StageError(
                f"{stage}: '{overflow.tensor}' ({node}) overflows on a golden image, though not on "
                "the calibration images; calibrate on images like those, and on more of them"
            ) from overflow
        raise
