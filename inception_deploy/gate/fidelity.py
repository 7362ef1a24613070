"""Whether the graphs compute what PyTorch computed: on the golden inputs, block by block.

The truth is the PyTorch network, loaded again from where its weights came, whose sha256 the
manifest records. It is asked first whether the recorded golden is its own; then the plain export is
held to it as closely as float32 allows, and the deployed graph as closely as its precision promised
when it was made, and as closely as it was then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from inception_deploy.artifact import Golden
from inception_deploy.bundle import Bundle
from inception_deploy.engines import ENGINES, Engine
from inception_deploy.errors import DataError, StageError
from inception_deploy.gate.verdict import Check
from inception_deploy.golden import record_golden
from inception_deploy.images import plan_images
from inception_deploy.locate import LocateReport, locate
from inception_deploy.parity import BlockError, compare_blocks, compare_golden
from inception_deploy.progress import Progress
from inception_deploy.proof import FP32_BOUND
from inception_deploy.recipe import Recipe
from inception_deploy.reference import Reference

__all__ = ["LOST_DB", "of_graphs", "of_inputs", "of_pieces"]

LOST_DB = 3.0
"""How much worse than at export a graph may be on the golden inputs: twice the noise power. Other
kernels and other processors round otherwise, which moves the figure by tenths of a decibel."""

FLOAT32_DB = 80.0
"""An SQNR above it is float32's own rounding (an error of 1e-4), and is not held to the record."""


def of_inputs(bundle: Bundle, reference: Reference, progress: Progress) -> Iterator[Check]:
    """The golden inputs are what the network's preprocessing makes of the images today."""
    recipe = Recipe.from_dict(dict(bundle.manifest["recipe"]))
    recorded = bundle.golden().inputs
    try:
        fresh = plan_images(recipe, reference, progress).golden().inputs
    except (DataError, OSError) as error:
        yield Check(
            "golden_inputs",
            "fidelity",
            "NOT_ASKED",
            f"the images of the export are not at hand ({error})",
        )
        return
    if fresh.shape != recorded.shape:
        problem = f"are {recorded.shape} in the bundle and {fresh.shape} today"
        yield Check("golden_inputs", "fidelity", "FAIL", f"the golden inputs {problem}")
        return
    preprocessing = reference.preprocessing
    levels = np.asarray(preprocessing.std).reshape(1, 3, 1, 1) * 255 / preprocessing.pixel_max
    moved = float((np.abs(fresh.astype(np.float64) - recorded) * levels).mean())
    yield Check(
        "golden_inputs",
        "fidelity",
        "FAIL" if moved > ALLOWED_LEVELS else "PASS",
        f"images are prepared as for the golden inputs, to {moved:.3g} of 255 grey levels on "
        f"average; allowed are {ALLOWED_LEVELS:g}",
        value=moved,
        bound=ALLOWED_LEVELS,
        unit="levels",
    )


ALLOWED_LEVELS = 1.0
"""Mean difference of two preparations of one image that other versions of Pillow may make."""


def of_graphs(bundle: Bundle, reference: Reference | None, progress: Progress) -> Iterator[Check]:
    """PyTorch, reference.onnx and model.onnx on the golden inputs."""
    golden = bundle.golden()
    engine = ENGINES.get(bundle.manifest["target"])
    if reference is not None:
        fresh = record_golden(reference.module, np.asarray(golden.inputs), progress=progress)
        error = float(np.abs(fresh.outputs - golden.outputs).max()) / max(fresh.scale, 1e-30)
        yield Check(
            "golden",
            "fidelity",
            "PASS" if error <= FP32_BOUND else "FAIL",
            f"the recorded golden is off from PyTorch by {error:.2g} of the largest output; "
            f"allowed are {FP32_BOUND:g}",
            value=error,
            bound=FP32_BOUND,
        )
        golden = replace(fresh, pixels=golden.pixels)
    plain = replace(golden, pixels=None)
    yield from _plain_export(bundle, plain, progress)
    yield from _deployed(bundle, golden, engine, progress)


def of_pieces(
    bundle: Bundle, reference: Reference | None, located: LocateReport | None, progress: Progress
) -> Iterator[Check]:
    """Every piece of every stage, given exact inputs, adds no more error than its roundings can.

    This finds what the output's error does not show: eight bits are coarse enough to hide a wrong
    scale of one channel, but not in the piece that has it.

    Args:
        located: what `locate` says of the bundle, where the caller knows; None asks it.
    """
    try:
        report = located or locate(bundle, reference=reference, progress=progress)
    except StageError as problem:
        yield Check("pieces", "fidelity", "FAIL", f"a stage cannot be run: {problem}")
        return
    first = report.first
    if first is None:
        compared = sum(transition.tensors for transition in report.transitions)
        reason = f"none of {compared:,} pieces adds more error than its roundings explain"
        yield Check("pieces", "fidelity", "PASS", reason)
        return
    yield Check(
        "pieces",
        "fidelity",
        "FAIL",
        f"{first.stage}, {first.place.module}: {first.said}",
        value=first.measured,
        bound=first.allowed,
        block=first.place.block,
    )


def _plain_export(bundle: Bundle, golden: Golden, progress: Progress) -> Iterator[Check]:
    """reference.onnx is the network but for float32's rounding, in every block."""
    runner = ENGINES.get("onnxruntime")
    try:
        with runner.session(bundle.reference, optimise=False) as session:
            error = compare_golden(session, golden).max_rel_error
        worst = ""
        if error <= FP32_BOUND:
            blocks = compare_blocks(onnx.load(bundle.reference), golden, runner, progress=progress)
            error, worst = max([(error, ""), *((b.max_rel_error or 0.0, b.name) for b in blocks)])
    except StageError as problem:
        yield Check("reference_graph", "fidelity", "FAIL", f"reference.onnx: {problem}")
        return
    where = f" in {worst}" if worst else ""
    yield Check(
        "reference_graph",
        "fidelity",
        "PASS" if error <= FP32_BOUND else "FAIL",
        f"reference.onnx is off by {error:.2g} of the largest value{where}; allowed are "
        f"{FP32_BOUND:g}",
        value=error,
        bound=FP32_BOUND,
        block=worst or None,
    )


def _deployed(
    bundle: Bundle, golden: Golden, engine: Engine, progress: Progress
) -> Iterator[Check]:
    """The deployed graph is within its precision's bound, and as good as when it was made."""
    bound = _precision_bound(bundle)
    try:
        with engine.session(bundle.model) as session:
            found = compare_golden(session, golden)
        blocks = compare_blocks(onnx.load(bundle.model), golden, engine, progress=progress)
    except StageError as problem:
        yield Check("deployed_graph", "fidelity", "FAIL", f"model.onnx: {problem}")
        return
    yield Check(
        "deployed_graph",
        "fidelity",
        "PASS" if found.max_rel_error <= bound else "FAIL",
        f"model.onnx is off by {found.max_rel_error:.2g} of the largest output; its precision "
        f"promises {bound:.2g}",
        value=found.max_rel_error,
        bound=bound,
    )
    broken = [block for block in blocks if block.reason and "NaN" in block.reason]
    for block in broken[:1]:
        yield Check("blocks", "fidelity", "FAIL", f"{block.name}: {block.reason}", block=block.name)
    recorded = bundle.read_json("parity.json")
    if not broken and recorded is not None:
        yield _as_recorded(recorded, found.sqnr_db, blocks)


def _precision_bound(bundle: Bundle) -> float:
    """What the last stage that states a bound promised: max |error| / max |golden|."""
    bounds = [s["bound"] for s in bundle.manifest["stages"] if s["bound"] is not None]
    return float(max(bounds, default=FP32_BOUND))


def _as_recorded(
    recorded: dict[str, Any], output_db: float | None, blocks: Sequence[BlockError]
) -> Check:
    """No block, and not the output, lost more than `LOST_DB` since the export."""
    then = {block["name"]: block["sqnr_db"] for block in recorded["blocks"]}
    pairs = [(block.name, then.get(block.name), block.sqnr_db) for block in blocks]
    if recorded["golden"] is not None:
        pairs.append(("the output", recorded["golden"]["sqnr_db"], output_db))
    losses = [
        (min(was, FLOAT32_DB) - now, name, was, now)
        for name, was, now in ((n, FLOAT32_DB if w is None else w, x) for n, w, x in pairs)
        if now is not None and (name in then or name == "the output")
    ]
    if not losses:
        return Check("as_exported", "fidelity", "PASS", "every block is exact")
    # the first in the network that lost too much is nearest to the fault
    lost, name, was, now = next((x for x in losses if x[0] > LOST_DB), max(losses))
    block = None if name == "the output" else name
    return Check(
        "as_exported",
        "fidelity",
        "PASS" if lost <= LOST_DB else "FAIL",
        f"{name} has an SQNR of {now:.1f} dB, {was:.1f} dB at export"
        if lost > 0
        else "no block is worse than at export",
        value=lost,
        bound=LOST_DB,
        unit="dB",
        block=block,
    )
