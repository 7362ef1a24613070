"""`compare`: the parity of an existing bundle, measured again, on other images if need be."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import onnx
from numpy.typing import NDArray

from inception_deploy.artifact import Golden
from inception_deploy.bundle import Bundle, file_digest
from inception_deploy.dataset import Batch
from inception_deploy.engines import ENGINES, Engine
from inception_deploy.errors import BadInput, CheckpointError
from inception_deploy.golden import exact_float32, record_golden
from inception_deploy.images import choose_images
from inception_deploy.parity import ParityReport, Predictor, compare, compare_golden
from inception_deploy.parity.golden import record_blocks
from inception_deploy.parity.state import Resumable, images_digest, state_path
from inception_deploy.pipeline import reference_of
from inception_deploy.pixels import fed
from inception_deploy.progress import Progress, SilentProgress
from inception_deploy.recipe import Layout, Recipe
from inception_deploy.reference import Reference
from inception_deploy.trials import torch_predictor, with_blocks

__all__ = ["Against", "Side", "compare_bundle", "reference_of_bundle", "truth_predictor"]

Against: TypeAlias = Literal["pytorch", "reference.onnx"]

Side: TypeAlias = Literal["pytorch", "reference", "model", "engine"]
"""The forms a network takes on its way: the PyTorch module; reference.onnx and model.onnx, each run
as written by ONNX Runtime; and model.onnx as the bundle's engine runs it."""


def reference_of_bundle(bundle: Bundle) -> Reference:
    """The network a bundle was made from, loaded again from where it came.

    Raises:
        CheckpointError: the weights are not there any more, are others by now, or were never in a
            file.
    """
    if bundle.manifest["weights"]["source"].startswith("module:"):
        raise CheckpointError(
            f"{bundle.path} was made from a module in memory; compare with --against reference.onnx"
        )
    reference = reference_of(Recipe.from_dict(dict(bundle.manifest["recipe"])))
    recorded, found = bundle.manifest["weights"]["sha256"], reference.weights.sha256
    if recorded != found:
        raise CheckpointError(
            f"{reference.weights.source} has sha256 {found}, {bundle.path} was made from "
            f"{recorded}; compare with --against reference.onnx"
        )
    return reference


def compare_bundle(
    bundle: Bundle,
    *,
    data: str | None = None,
    data_size: int = 1000,
    seed: int = 0,
    skip_bad: bool = False,
    against: Against = "pytorch",
    between: tuple[Side, Side] | None = None,
    max_drop: float | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> ParityReport:
    """Run two forms of the network on the same images again.

    Args:
        data: as for the recipe; None takes what the bundle was exported with.
        against: what the engine is compared with: "pytorch" loads the weights again,
            "reference.onnx" needs nothing but the bundle.
        between: any two forms, in place of `against`; the one nearer to PyTorch is the reference.
        resume: remember what was compared in a file beside the bundle, and go on from it.

    Raises:
        BadInput: a form is unknown, or both are the same.
        BundleError: a file of the bundle is missing or changed.
        CheckpointError: the weights cannot be loaded again.
        DataError: the images cannot be used.
    """
    progress = progress or SilentProgress()
    first, second = _ordered(between or _PAIRS[against])
    images = choose_images(
        data or bundle.manifest["data"],
        bundle.preprocessing,
        count=data_size,
        seed=seed,
        skip_bad=skip_bad,
        class_names=bundle.class_names,
        num_classes=None
        if bundle.head == "features"
        else int(bundle.manifest["weights"]["num_classes"]),
    )
    golden = bundle.golden()
    with ExitStack() as stack:
        want, have = (_form(side, bundle, stack) for side in (first, second))
        key = {
            "bundle": file_digest(bundle.path / "manifest.json"),
            "pair of networks": f"{first} {want.name}, {second} {have.name}",
            "set of images": images_digest(images),
        }
        path = state_path(bundle.path, "compare") if resume else None
        found = Resumable(path, key).run(
            lambda tally, batches, total, after: compare(
                want.predict,
                have.predict,
                batches,
                head=bundle.head,
                feed=have.feed,
                reference_feed=want.feed,
                names=(want.name, have.name),
                data_name=images.dataset.name,
                data_digest=images.dataset.digest,
                total=total,
                tally=tally,
                after=after,
                progress=progress,
            ),
            images,
            progress=progress,
        )
        report = replace(
            found.report, data=replace(found.report.data, skipped=tuple(images.skipped))
        )
    return _with_golden(report, bundle, golden, want, have, progress).judged(max_drop)


def truth_predictor(
    bundle: Bundle, reference: Reference | None, stack: ExitStack
) -> tuple[Predictor, str]:
    """What a deployed graph is held to, and its name: PyTorch without TF32, or reference.onnx as
    written where there is no PyTorch network; open until `stack` closes."""
    if reference is not None:
        return _exact(torch_predictor(reference.module)), reference.framework
    form = _form("reference", bundle, stack)
    return form.predict, form.name


_PAIRS: dict[Against, tuple[Side, Side]] = {
    "pytorch": ("pytorch", "engine"),
    "reference.onnx": ("reference", "engine"),
}


@dataclass(frozen=True)
class _Form:
    """One side of a comparison, ready to run.

    Args:
        graph: the ONNX file; None for PyTorch.
        engine: what runs it; None for PyTorch.
        reference: for PyTorch.
        layout: of the pixels it takes; None where it takes normalised images.
    """

    name: str
    predict: Predictor
    graph: Path | None = None
    engine: Engine | None = None
    reference: Reference | None = None
    layout: Layout | None = None

    def feed(self, batch: Batch) -> NDArray[Any]:
        return fed(batch, self.layout)

    def sees(self, golden: Golden) -> Golden:
        """The golden as this side is fed."""
        return golden if self.layout is not None else replace(golden, pixels=None)


def _ordered(pair: tuple[Side, Side]) -> tuple[Side, Side]:
    sides = get_args(Side)
    for side in pair:
        if side not in sides:
            raise BadInput(f"there is no '{side}' to compare; known: {', '.join(sides)}")
    if pair[0] == pair[1]:
        raise BadInput(f"'{pair[0]}' is compared with itself; name two of {', '.join(sides)}")
    first, second = sorted(pair, key=sides.index)
    return first, second


def _form(side: Side, bundle: Bundle, stack: ExitStack) -> _Form:
    if side == "pytorch":
        reference = reference_of_bundle(bundle)
        run = torch_predictor(reference.module)
        return _Form(reference.framework, _exact(run), reference=reference)
    if side == "engine":
        engine, graph, name = ENGINES.get(bundle.manifest["target"]), bundle.model, ""
    else:
        engine = ENGINES.get("onnxruntime")
        graph = bundle.reference if side == "reference" else bundle.model
        name = graph.name
    session = stack.enter_context(engine.session(graph, optimise=side == "engine"))
    layout = None if side == "reference" else bundle.pixel_layout
    return _Form(name or engine.name, session.run, graph, engine, layout=layout)


def _exact(run: Callable[[NDArray[Any]], NDArray[Any]]) -> Predictor:
    """Without TF32, on whatever device the module is."""

    def predict(inputs: NDArray[Any]) -> NDArray[Any]:
        with exact_float32():
            return run(inputs)

    return predict


def _with_golden(
    report: ParityReport,
    bundle: Bundle,
    golden: Golden,
    want: _Form,
    have: _Form,
    progress: Progress,
) -> ParityReport:
    """With the golden's error, and every block of the one compared with the other's."""
    graph, engine = have.graph, have.engine
    assert graph is not None  # PyTorch comes first where it is one of the two
    assert engine is not None
    seen = have.sees(golden)
    with engine.session(graph) as session:
        report = replace(report, golden=compare_golden(session, seen))
    if want.reference is not None:
        # block outputs are not kept in the bundle: PyTorch computes them again
        fresh = record_golden(want.reference.module, np.asarray(golden.inputs), progress=progress)
    else:
        assert want.graph is not None
        assert want.engine is not None
        if want.graph == graph and want.engine.name == engine.name:
            return report  # blocks run node by node, and so both in the same way
        fresh = _blocks_of(bundle, want.graph, want.engine, want.sees(golden))
    fresh = replace(fresh, pixels=seen.pixels)
    return with_blocks(report, onnx.load(graph), fresh, engine, progress)


def _blocks_of(bundle: Bundle, graph: Path, engine: Engine, golden: Golden) -> Golden:
    """The golden with a graph's blocks in place of PyTorch's; named as parity.json names them."""
    parity = bundle.read_json("parity.json") or {"blocks": []}
    names = [block["name"] for block in parity["blocks"]]
    return record_blocks(onnx.load(graph), golden, names, engine)
