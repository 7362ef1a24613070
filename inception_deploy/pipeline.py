"""The whole way of one model, one line per stage."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
from torch import nn

from inception_deploy.artifact import Artifact, Golden
from inception_deploy.bundle import Bundle, file_digest, save_golden, staged, write_json
from inception_deploy.calibration import calibrated, equalised
from inception_deploy.dataset import Batch
from inception_deploy.deployed import deployed_session, runner
from inception_deploy.engines import ENGINES, Engine, Network, Session
from inception_deploy.export import export
from inception_deploy.foreign import module_reference, onnx_reference
from inception_deploy.fuse import fuse
from inception_deploy.golden import record_golden
from inception_deploy.images import ImagePlan, plan_images
from inception_deploy.import_onnx import import_onnx
from inception_deploy.lower import lower
from inception_deploy.manifest import compose
from inception_deploy.mixing import mix
from inception_deploy.onnx_file import OnnxNetwork
from inception_deploy.parity import ParityReport
from inception_deploy.pixel_front import PixelFront
from inception_deploy.pixels import fed, take_pixels
from inception_deploy.precisions import PRECISIONS
from inception_deploy.progress import Progress, SilentProgress
from inception_deploy.ranges import Ranges
from inception_deploy.recipe import Layout, Recipe
from inception_deploy.reference import Reference, load_reference
from inception_deploy.report import write_report
from inception_deploy.targets import TARGETS
from inception_deploy.throughput import Candidate, ThroughputReport
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
    module: nn.Module | None = None,
    force: bool = False,
    progress: Progress | None = None,
    command: str | None = None,
) -> Bundle:
    """Take a network from PyTorch to a verified bundle in the directory `output`.

    Args:
        recipe: what is asked for.
        output: the bundle's directory; it appears only when everything has succeeded.
        module: a classifier of your own, images (N, 3, H, W) to logits (N, K), in place of the
            recipe's network; the recipe must then say the image size, mean and std, or name a
            network whose preprocessing it shares.
        force: replace an existing bundle.
        progress: told of every stage; None is silent.
        command: recorded in the manifest as the way to reproduce the bundle.

    Raises:
        InceptionDeployError: one of `errors.py`, by what went wrong.
    """
    progress = progress or SilentProgress()
    target = TARGETS.get(recipe.target)
    precision = PRECISIONS.get(recipe.precision)
    precision = precision.at(target.placement, reduce_range=recipe.reduce_range)
    engine, runs = ENGINES.get(target.engine), runner(recipe.target)
    engine.require_buildable(recipe.build)
    with staged(output, force=force) as directory:
        with progress.stage(f"load weights: {recipe.weights_source}"):
            reference = reference_of(recipe, module)
        images = plan_images(recipe, reference, progress)
        reference = _named(reference, images)
        shown = images.golden()
        fed(shown, recipe.pixel_layout)  # images without pixels are found out here, not later
        golden = record_golden(reference.module, shown.inputs, progress=progress)
        exported = _graph(reference, golden, recipe, progress)
        taking = _taking(exported, reference, recipe, shown, progress)
        fused = fuse(taking, target.rewrites(recipe.precision), progress=progress)
        fused = equalised(recipe, fused, images, precision, progress)
        precision, ranges = calibrated(recipe, fused, images, precision, progress)
        precision, ranges, mixing = mix(
            recipe, reference, fused, images, precision, ranges, runs, output, progress
        )
        lowered = lower(fused, precision, ranges, progress=progress)
        _save(directory, exported, lowered, ranges)
        model = directory / "model.onnx"
        compiled = engine.compiled(
            model,
            directory,
            batch=recipe.batch,
            options=recipe.build,
            network=_network(recipe, reference, lowered),
            progress=progress,
        )
        digest = file_digest(compiled.files[0]) if compiled.files else None
        with deployed_session(recipe.target, model, compiled, digest) as session:
            executed, speed = compiled.executed, None
            layout = recipe.pixel_layout
            parity, samples = _parity(reference, session, lowered, images, layout, runs, progress)
            if runs is engine:  # a stand-in's speed says nothing, nor do the kernels it chooses
                executed = executed or session.executed_precisions()
                speed = _speed(recipe, reference, directory, session, lowered, engine, progress)
        parity = parity.judged(recipe.max_drop)
        write_json(directory / "parity.json", parity.to_dict())
        write_json(directory / "samples.json", samples)
        if speed is not None:
            write_json(directory / "throughput.json", speed.to_dict())
        manifest = compose(
            recipe,
            reference,
            lowered,
            parity,
            ranges,
            directory,
            command,
            compiled=compiled,
            executed=executed,
            mixing=mixing,
        )
        Bundle.seal(directory, manifest)
        write_report([directory], directory / "report.html")
        Bundle.seal(directory, manifest)
    return Bundle.open(output)


def reference_of(recipe: Recipe, module: nn.Module | None = None) -> Reference:
    """The network a recipe asks for: of the registry, an ONNX file, or the `module` given."""
    if module is not None:
        return module_reference(recipe, module)
    if recipe.onnx is not None:
        return onnx_reference(recipe)
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


def _graph(reference: Reference, golden: Golden, recipe: Recipe, progress: Progress) -> Artifact:
    """The reference as an ONNX graph: exported, or taken over."""
    names = reference.class_names or ()
    if isinstance(reference.module, OnnxNetwork):
        return import_onnx(
            reference.module,
            golden,
            name=reference.name,
            preprocessing=reference.preprocessing,
            class_names=names,
            opset=recipe.opset,
            progress=progress,
        )
    return export(
        reference.module,
        golden,
        network=reference.name,
        preprocessing=reference.preprocessing,
        class_names=names,
        opset=recipe.opset,
        progress=progress,
    )


def _taking(
    artifact: Artifact, reference: Reference, recipe: Recipe, shown: Batch, progress: Progress
) -> Artifact:
    """The graph with the kind of input that the recipe asks for."""
    layout = recipe.pixel_layout
    if layout is None:
        return artifact
    pixels = fed(shown, layout)
    return take_pixels(artifact, reference.preprocessing, layout, pixels, progress=progress)


def _save(directory: Path, exported: Artifact, lowered: Artifact, ranges: Ranges | None) -> None:
    """The files that later stages read from disk, as a user of the bundle will."""
    onnx.save(exported.model, directory / "reference.onnx")
    onnx.save(lowered.model, directory / "model.onnx")
    save_golden(directory / "golden.npz", lowered.golden)
    if ranges is not None:
        write_json(directory / "calibration.json", ranges.to_dict())


def _network(recipe: Recipe, reference: Reference, lowered: Artifact) -> Network | None:
    """What the graph was exported from, for engines that compile that; None for an ONNX file."""
    if reference.framework != "pytorch":
        return None
    layout = recipe.pixel_layout
    front = None if layout is None else PixelFront(reference.preprocessing, layout)
    return Network(reference.module, recipe.precision, lowered.golden.feed, front)


def _parity(
    reference: Reference,
    session: Session,
    artifact: Artifact,
    images: ImagePlan,
    layout: Layout | None,
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
        layout=layout,
        head=head,
        names=(reference.framework, engine.name),
        progress=progress,
    )
    report = with_blocks(report, artifact.model, artifact.golden, engine, progress)
    samples = sample_predictions(
        predict,
        session,
        images.parity,
        head=head,
        class_names=reference.class_names,
        layout=layout,
    )
    return report, samples


def _speed(
    recipe: Recipe,
    reference: Reference,
    directory: Path,
    session: Session,
    lowered: Artifact,
    engine: Engine,
    progress: Progress,
) -> ThroughputReport | None:
    """The deployed graph beside what it replaces, at the batch sizes that will be served most."""
    if not recipe.seconds:
        return None
    with ExitStack() as stack:
        if reference.framework == "pytorch":
            predict = torch_predictor(reference.module)
            baseline = Candidate("pytorch", "torch", "fp32", predict)
        else:
            plain = stack.enter_context(engine.session(directory / "reference.onnx"))
            baseline = Candidate.of(plain, engine.name, "reference.onnx", "fp32")
        return speed_trial(
            baseline,
            session,
            lowered.golden,
            engine=engine.name,
            precision=recipe.precision,
            batches=sorted({recipe.batch.optimum, recipe.batch.maximum}),
            seconds=recipe.seconds,
            model=lowered.model,
            progress=progress,
        )
