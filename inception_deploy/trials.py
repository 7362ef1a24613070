"""One deployed graph on trial: its parity with PyTorch, and its speed beside PyTorch's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from inception_deploy.artifact import FloatArray, Golden
from inception_deploy.dataset import Sample
from inception_deploy.engines import Engine, Session
from inception_deploy.images import ImageSet
from inception_deploy.networks.base import InceptionNetwork
from inception_deploy.parity import (
    ParityReport,
    Predictor,
    compare,
    compare_blocks,
    compare_golden,
)
from inception_deploy.pixels import arranged, fed
from inception_deploy.predict import ScoredClass, top_classes
from inception_deploy.progress import Progress
from inception_deploy.recipe import Layout
from inception_deploy.steps import data_url, preprocessing_pictures
from inception_deploy.throughput import Candidate, ThroughputReport, measure
from inception_deploy.throughput.macs import macs_per_node
from inception_deploy.throughput.profile import block_times

__all__ = [
    "filled",
    "parity_trial",
    "sample_predictions",
    "speed_trial",
    "torch_predictor",
    "with_blocks",
]

SAMPLES = 8
THUMBNAIL = 128
"""Side of a sample's picture in the report, pixels."""


def torch_predictor(module: InceptionNetwork) -> Callable[[FloatArray], NDArray[Any]]:
    """float32 (N, 3, H, W) → what the module's head returns, as NumPy."""

    def predict(inputs: NDArray[Any]) -> NDArray[Any]:
        with torch.inference_mode():
            images = torch.from_numpy(inputs).contiguous(memory_format=module.memory_format)
            outputs: NDArray[Any] = module(images).numpy()
        return outputs

    return predict


def parity_trial(
    reference: Predictor,
    session: Session,
    images: ImageSet,
    golden: Golden,
    *,
    head: str,
    names: tuple[str, str],
    layout: Layout | None,
    progress: Progress,
) -> ParityReport:
    """Compare a session with the reference on every image, and with the golden.

    Args:
        reference: takes normalised images whatever the session takes.
        layout: of the pixels that the session takes; None where it takes normalised images too.

    Raises:
        DataError: the images cannot be used.
        StageError: an output is missing, misshapen or not finite.
    """
    report = compare(
        reference,
        session.run,
        images.batches(),
        head=head,
        feed=lambda batch: fed(batch, layout),
        names=names,
        data_name=images.dataset.name,
        data_digest=images.dataset.digest,
        total=images.batch_count(),
        progress=progress,
    )
    return replace(
        report,
        data=replace(report.data, skipped=tuple(images.skipped)),
        golden=compare_golden(session, golden),
    )


def with_blocks(
    report: ParityReport,
    model: onnx.ModelProto,
    golden: Golden,
    engine: Engine,
    progress: Progress,
) -> ParityReport:
    """The report with every block of `model` compared to the golden's."""
    blocks = compare_blocks(model, golden, engine, progress=progress)
    return replace(report, blocks=tuple(blocks))


def sample_predictions(
    reference: Predictor,
    session: Session,
    images: ImageSet,
    *,
    head: str,
    class_names: Sequence[str] | None,
    layout: Layout | None,
) -> list[dict[str, Any]]:
    """A few images with what both networks make of them, for samples.json.

    The first has its preprocessing in pictures, under "steps". Empty for features and for data that
    holds no pictures.
    """
    if head == "features":
        return []
    samples = [s for s in images.spread(SAMPLES).samples() if s.image is not None]
    if not samples:
        return []
    pictures = [images.preprocessing.crop(s.image) for s in samples if s.image is not None]
    pixels = np.stack([np.asarray(p, np.uint8) for p in pictures])
    inputs = images.preprocessing.normalise(pixels)
    given = inputs if layout is None else arranged(pixels, layout)
    # all at once: engines that take turns on single images wait for each other's idle threads
    wanted, found = (
        top_classes(np.asarray(outputs, np.float32), head, class_names, 3)
        for outputs in (reference(inputs), session.run(given))
    )
    listed: list[dict[str, Any]] = [
        {
            "name": sample.name,
            "label": _label(sample, images, class_names),
            "reference": _pairs(want),
            "deployed": _pairs(have),
            "image": data_url(picture, THUMBNAIL),
        }
        for sample, picture, want, have in zip(samples, pictures, wanted, found, strict=True)
    ]
    if samples[0].image is not None:
        listed[0]["steps"] = preprocessing_pictures(samples[0].image, images.preprocessing)
    return listed


def speed_trial(
    baseline: Candidate,
    session: Session,
    golden: Golden,
    *,
    engine: str,
    precision: str,
    batches: Sequence[int],
    seconds: float,
    progress: Progress,
    model: onnx.ModelProto | None = None,
) -> ThroughputReport:
    """Time a session beside what it replaces, in one run, and profile it block by block.

    Args:
        baseline: the PyTorch network, or the graph as it was given.
        golden: its inputs are repeated to fill a batch; the baseline is given normalised images,
            and not charged for normalising, whatever the session takes.
        batches: batch sizes to measure.
        seconds: per candidate and batch size.
        model: the graph that the session runs, for its multiply-adds; None leaves them out.
    """
    macs = {} if model is None else macs_per_node(model)
    total = sum(macs.values())
    candidates = [
        baseline,
        replace(
            Candidate.of(session, engine, "model.onnx", precision),
            make_batch=lambda size: filled(golden.feed, size),
            run_many=session.run_many,
            parts=session.parts,
            macs=(lambda images: total * images) if total else None,
        ),
    ]
    report = measure(
        candidates,
        lambda size: filled(golden.inputs, size),
        batches=batches,
        seconds=seconds,
        progress=progress,
    )
    with progress.stage("profiling blocks"):
        taken = session.profile(filled(golden.feed, batches[0]))
    if taken is None:
        return report
    blocks = block_times(taken, macs, list(golden.blocks), batch=batches[0])
    return replace(report, blocks={candidates[1].key: blocks}, profiled_batch=batches[0])


def filled(inputs: NDArray[Any], size: int) -> NDArray[Any]:
    """A batch of `size` images, repeating `inputs` (N, …) as often as it takes."""
    return np.resize(inputs, (size, *inputs.shape[1:]))


def _label(sample: Sample, images: ImageSet, names: Sequence[str] | None) -> str | None:
    if sample.label is None or not images.labelled:
        return None
    return str(sample.label) if names is None else names[sample.label]


def _pairs(classes: Sequence[ScoredClass]) -> list[tuple[str, float]]:
    return [(found.name, round(found.probability, 6)) for found in classes]
