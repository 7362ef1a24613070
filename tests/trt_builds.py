"""Small networks built with TensorRT-RTX for GPUs that are not here, for tests."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import onnx
from small_graphs import observe_on
from small_networks import exported, images

from inception_deploy.build_options import BatchProfile, BuildOptions
from inception_deploy.engines._executed import by_node
from inception_deploy.engines._trt_build import Built, build
from inception_deploy.engines._trt_inspect import kernels_of_log, precisions
from inception_deploy.engines._trt_library import RTX
from inception_deploy.fuse import rewrite
from inception_deploy.fusions import FUSIONS
from inception_deploy.precisions import PRECISIONS, Lowering
from inception_deploy.precisions.int8 import Int8
from inception_deploy.progress import SilentProgress
from inception_deploy.targets import TARGETS

__all__ = ["ALL_SMS", "DYNAMIC", "STATIC", "Outcome", "built", "lowered"]

ALL_SMS = {"fp8": (89, 120)}
"""Precision → every GPU that has it; the others run on all of 80, 86, 89 and 120."""

STATIC, DYNAMIC = BatchProfile(2, 2, 2), BatchProfile(1, 2, 8)
TARGET = TARGETS.get("tensorrt-rtx")
RAN_IN = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "int8", "fp8": "fp8"}


@dataclass(frozen=True)
class Outcome:
    """One build.

    Args:
        asked: operators that were lowered → how many.
        strays: lowered contractions, and pools on bytes, that run in something else.
    """

    built: Built
    asked: Counter[str]
    strays: list[str]


@lru_cache(maxsize=4)
def rewritten(network: str, rewrites: tuple[str, ...]) -> onnx.ModelProto:
    """A small network after these rewrites. Not to be changed: the next precision takes it, too."""
    model = exported(network).model
    for name in rewrites:
        model, _, _ = rewrite(model, FUSIONS.get(name))
    return model


@lru_cache(maxsize=4)
def lowered(network: str, precision: str) -> Lowering:
    """A small network lowered for TensorRT; integers however few its channels are."""
    rewrites = TARGET.rewrites(precision)  # type: ignore[arg-type]
    model = rewritten(network, tuple(fusion.name for fusion in rewrites))
    found: Any = PRECISIONS.get(precision).at(TARGET.placement)
    if isinstance(found, Int8):  # an eighth of the width leaves few convolutions 16 channels
        found = replace(found, placement=replace(found.placement, least_channels=1))
    ranges = observe_on(model, images(network, 2)) if found.needs_ranges else None
    lowering: Lowering = found.lower(model, ranges)
    return lowering


def built(network: str, precision: str, batch: BatchProfile) -> Outcome:
    """A small network lowered, parsed and built for every GPU that has the precision."""
    lowering = lowered(network, precision)
    graph = lowering.model.SerializeToString()
    sms = ALL_SMS.get(precision, (80, 86, 89, 120))
    done = build(RTX, graph, [batch], BuildOptions(sm=sms), SilentProgress())
    told = by_node(lowering.model, precisions(kernels_of_log(done.layers)))
    kinds = {node.name: node.op_type for node in lowering.model.graph.node}
    watched = {"Conv", "Gemm"} | ({"MaxPool"} if precision == "int8" else set())
    names = [a.node for a in lowering.applied if a.rewrite == precision]
    if precision == "fp32":
        names = list(kinds)
    names = [name for name in names if kinds.get(name) in watched]
    strays = [f"{n} ({kinds[n]}): {told.get(n)}" for n in names if told.get(n) != RAN_IN[precision]]
    return Outcome(done, Counter(kinds[name] for name in names), strays)
