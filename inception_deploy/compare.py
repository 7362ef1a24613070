"""`compare`: the parity of an existing bundle, measured again, on other images if need be."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np
import onnx

from inception_deploy.bundle import Bundle
from inception_deploy.engines import ENGINES
from inception_deploy.errors import CheckpointError
from inception_deploy.golden import record_golden
from inception_deploy.images import choose_images
from inception_deploy.parity import ParityReport, Predictor
from inception_deploy.pipeline import reference_of
from inception_deploy.progress import Progress, SilentProgress
from inception_deploy.recipe import Recipe
from inception_deploy.reference import Reference
from inception_deploy.trials import parity_trial, torch_predictor, with_blocks

__all__ = ["Against", "compare_bundle", "reference_of_bundle"]

Against: TypeAlias = Literal["pytorch", "reference.onnx"]


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
    max_drop: float | None = None,
    progress: Progress | None = None,
) -> ParityReport:
    """Run the deployed graph and the reference on the same images again.

    Args:
        data: as for the recipe; None takes what the bundle was exported with.
        against: "pytorch" loads the weights again; "reference.onnx" needs nothing but the bundle.

    Raises:
        BundleError: a file of the bundle is missing or changed.
        CheckpointError: the weights cannot be loaded again.
        DataError: the images cannot be used.
    """
    progress = progress or SilentProgress()
    engine = ENGINES.get(bundle.manifest["target"])
    golden = bundle.golden()
    reference = reference_of_bundle(bundle) if against == "pytorch" else None
    source = data or bundle.manifest["data"]
    images = choose_images(
        source,
        bundle.preprocessing,
        count=data_size,
        seed=seed,
        skip_bad=skip_bad,
        class_names=bundle.class_names,
        num_classes=None
        if bundle.head == "features"
        else int(bundle.manifest["weights"]["num_classes"]),
    )
    with ExitStack() as stack:
        session = stack.enter_context(engine.session(bundle.model))
        if reference is not None:
            predict: Predictor = torch_predictor(reference.module)
        else:
            baseline = engine.session(bundle.reference, optimise=False)
            predict = stack.enter_context(baseline).run
        report = parity_trial(
            predict,
            session,
            images,
            golden,
            head=bundle.head,
            names=(reference.framework if reference else against, engine.name),
            layout=bundle.pixel_layout,
            progress=progress,
        )
    if reference is not None:
        # block outputs are not kept in the bundle: PyTorch computes them again
        fresh = record_golden(reference.module, np.asarray(golden.inputs), progress=progress)
        fresh = replace(fresh, pixels=golden.pixels)
        report = with_blocks(report, onnx.load(bundle.model), fresh, engine, progress)
    return report.judged(max_drop)
