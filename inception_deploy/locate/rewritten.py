"""The rewritten float graph between reference.onnx and model.onnx, which bundles do not hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from inception_deploy.bundle import Bundle
from inception_deploy.errors import StageError
from inception_deploy.fuse import rewritings
from inception_deploy.fusions import FUSIONS, Phase
from inception_deploy.locate.cutting import CutGraph
from inception_deploy.locate.findings import Place
from inception_deploy.pixels import with_pixel_input

__all__ = ["Rewritten", "inside", "rewrite_again"]


@dataclass(frozen=True)
class Rewritten:
    """What the recorded rewrites make of reference.onnx when they are run again.

    Args:
        model: None where they cannot be.
        changed: blocks in which they exchanged or merged nodes; tensors inside are others than
            before, whatever they are called.
        skipped: why there is no model.
    """

    model: onnx.ModelProto | None
    changed: frozenset[str] = frozenset()
    skipped: str | None = None


def rewrite_again(bundle: Bundle, original: onnx.ModelProto, blocks: Sequence[str]) -> Rewritten:
    """Run the rewrites that the manifest records on `original`, and its pixel input before them."""
    stages = bundle.manifest["stages"]
    names = {s["name"].removeprefix("fuse/") for s in stages if s["name"].startswith("fuse/")}
    unknown = names - set(FUSIONS.names())
    if unknown:
        return Rewritten(None, skipped=f"this version has no rewrite '{min(unknown)}'")
    fusions = sorted((f for f in FUSIONS if f.name in names), key=lambda f: f.phase)
    model, changed = original, set[str]()
    layout = bundle.pixel_layout
    try:
        if layout is not None:
            model = with_pixel_input(model, bundle.preprocessing, layout)
        for turn in rewritings(model, fusions, keep=blocks):
            model = turn.model
            if turn.fusion.phase >= Phase.EXCHANGE:
                changed.update(Place.of(a.node, "", blocks).block for a in turn.applied)
    except StageError as error:
        return Rewritten(None, skipped=f"the rewrites cannot be run again: {error}")
    return Rewritten(model, frozenset(changed))


def inside(graph: CutGraph, chosen: frozenset[str], blocks: Sequence[str]) -> frozenset[str]:
    """Tensors inside of the `chosen` ones of `blocks`; what leaves a block is kept, by name too."""
    return frozenset(
        name
        for name in graph.floats
        if name not in blocks
        and Place.of(str(graph.node_of(name).name), name, blocks).block in chosen
    )
