"""The whole way of one model, one line per stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from inception_deploy.artifact import Artifact, Golden
from inception_deploy.bundle import Bundle, save_golden, staged, write_json
from inception_deploy.calibrate import observe
from inception_deploy.engines import ENGINES, Engine, Session
from inception_deploy.export import export
from inception_deploy.fuse import fuse
from inception_deploy.golden import record_golden
from inception_deploy.images import ImagePlan, plan_images
from inception_deploy.lower import lower
from inception_deploy.manifest import compose
from inception_deploy.parity import ParityReport
from inception_deploy.precisions import PRECISIONS, Precision
from inception_deploy.progress import Progress, SilentProgress
from inception_deploy.ranges import Ranges
from inception_deploy.recipe import Recipe
from inception_deploy.reference import Reference, load_reference
from inception_deploy.report import write_report
from inception_deploy.targets import TARGETS
from inception_deploy.throughput import ThroughputReport
from inception_deploy.trials import (
    parity_trial,
    sample_predictions,
    speed_trial,
    torch_predictor,
    with_blocks,
)

__all__ = ["deploy", "reference_of"]


def deploy(
    recipe: Recipe,
    output: Path,
    *,
    force: bool = False,
    progress: Progress | None = None,
    command: str | None = None,
) -> Bundle:
    """Take a network from PyTorch to a verified bundle in the directory `output`.

    Args:
        recipe: what is asked for.
        output: the bundle's directory; it appears only when everything has succeeded.
        force: replace an existing bundle.
        progress: told of every stage; None is silent.
        command: recorded in the manifest as the way to reproduce the bundle.

    Raises:
        InceptionDeployError: one of `errors.py`, by what went wrong.
    """
    progress = progress or SilentProgress()
    target, precision = TARGETS.get(recipe.target), PRECISIONS.get(recipe.precision)
    engine = ENGINES.get(target.engine)
    with staged(output, force=force) as directory:
        with progress.stage(f"load weights: {recipe.weights_source}"):
            reference = reference_of(recipe)
        images = plan_images(recipe, reference, progress)
        reference = _named(reference, images)
        golden = record_golden(reference.module, images.golden(), progress=progress)
        exported = export(
            reference.module,
            golden,
            network=reference.spec.name,
            preprocessing=reference.preprocessing,
            class_names=reference.class_names or (),
            opset=recipe.opset,
            progress=progress,
        )
        fused = fuse(exported, target.rewrites(recipe.precision), progress=progress)
        ranges = _calibrate(fused, images, precision, engine, progress)
        lowered = lower(fused, precision, ranges, progress=progress)
        _save(directory, exported, lowered, ranges)
        with engine.session(directory / "model.onnx") as session:
            parity, samples = _parity(reference, session, lowered, images, engine, progress)
            speed = _speed(recipe, reference, session, golden, progress)
        parity = parity.judged(recipe.max_drop)
        write_json(directory / "parity.json", parity.to_dict())
        write_json(directory / "samples.json", samples)
        if speed is not None:
            write_json(directory / "throughput.json", speed.to_dict())
        manifest = compose(recipe, reference, lowered, parity, ranges, directory, command)
        Bundle.seal(directory, manifest)
        write_report([directory], directory / "report.html")
        Bundle.seal(directory, manifest)
    return Bundle.open(output)


def reference_of(recipe: Recipe) -> Reference:
    """The PyTorch network a recipe asks for."""
    return load_reference(
        recipe.network,
        recipe.weights_source,
        num_classes=recipe.num_classes,
        image_size=recipe.image_size,
        head=recipe.head,
        mean=recipe.mean,
        std=recipe.std,
        crop_pct=recipe.crop_pct,
        interpolation=recipe.interpolation,
        width=recipe.width,
    )


def _named(reference: Reference, images: ImagePlan) -> Reference:
    """With the class names of the labelled images, where the weights bring none.

    Fine-tuned checkpoints hold no names; the folders they were trained on do, in the same order.
    """
    names = images.parity.dataset.class_names if images.parity.labelled else None
    if reference.class_names or names is None or len(names) != reference.weights.num_classes:
        return reference
    return replace(reference, class_names=names)


def _calibrate(
    artifact: Artifact,
    images: ImagePlan,
    precision: Precision,
    engine: Engine,
    progress: Progress,
) -> Ranges | None:
    """The ranges of every tensor, where the precision looks at them."""
    if not precision.needs_ranges:
        return None
    return observe(
        artifact.model,
        (batch.inputs for batch in images.calibration.batches()),
        engine=engine,
        data_digest=images.calibration.dataset.digest,
        total=images.calibration.batch_count(),
        progress=progress,
    )


def _save(directory: Path, exported: Artifact, lowered: Artifact, ranges: Ranges | None) -> None:
    """The files that later stages read from disk, as a user of the bundle will."""
    onnx.save(exported.model, directory / "reference.onnx")
    onnx.save(lowered.model, directory / "model.onnx")
    save_golden(directory / "golden.npz", lowered.golden)
    if ranges is not None:
        write_json(directory / "calibration.json", ranges.to_dict())


def _parity(
    reference: Reference,
    session: Session,
    artifact: Artifact,
    images: ImagePlan,
    engine: Engine,
    progress: Progress,
) -> tuple[ParityReport, list[dict[str, Any]]]:
    """The deployed graph against PyTorch: over all images, the golden, and block by block."""
    predict, head = torch_predictor(reference.module), reference.module.head
    report = parity_trial(
        predict,
        session,
        images.parity,
        artifact.golden,
        head=head,
        names=("pytorch", engine.name),
        progress=progress,
    )
    report = with_blocks(report, artifact.model, artifact.golden, engine, progress)
    samples = sample_predictions(
        predict, session, images.parity, head=head, class_names=reference.class_names
    )
    return report, samples


def _speed(
    recipe: Recipe, reference: Reference, session: Session, golden: Golden, progress: Progress
) -> ThroughputReport | None:
    """The deployed graph beside PyTorch at the batch sizes that will be served most."""
    if not recipe.seconds:
        return None
    return speed_trial(
        torch_predictor(reference.module),
        session,
        golden.inputs,
        engine=recipe.target,
        precision=recipe.precision,
        batches=sorted({recipe.batch.optimum, recipe.batch.maximum}),
        seconds=recipe.seconds,
        progress=progress,
    )
