"""What a precision has to know of the activations: their ranges, and what layers read.

Before that, channels can be made more alike by what the same images show.

Ranges are the graph's own, so that one engine takes them for all targets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx

from inception_deploy.artifact import Artifact
from inception_deploy.calibrate import NotFinite, calibrate, observe, observe_histograms
from inception_deploy.calibrators import calibrator
from inception_deploy.channels import ChannelStatistics, observe_channels
from inception_deploy.clipping import least_noise
from inception_deploy.deployed import runner
from inception_deploy.engines import ENGINES
from inception_deploy.engines.base import Array
from inception_deploy.equalise import equalise
from inception_deploy.images import BATCH, ImagePlan, ImageSet
from inception_deploy.moments import observe_moments
from inception_deploy.pixels import fed
from inception_deploy.precisions import Precision
from inception_deploy.progress import Progress
from inception_deploy.ranges import Ranges, load_table
from inception_deploy.recipe import Layout, Recipe

__all__ = ["calibrated", "equalised", "informed"]

CHANNEL_IMAGES = 64
"""Images that channel means and exact ranges are taken over; they settle sooner than ranges that
are to cut off outliers."""

CHANNEL_BATCH = 2
"""At a time: every tensor that is looked at is alive until the end of a run."""

MOMENT_IMAGES = 32
"""Images that windows of what layers read are drawn from; 64 give the same SQNR within 0.1 dB."""

CHOICE_IMAGES = 24
"""Images that candidates of ranges are tried on."""

AUTO = ("auto", "auto:1")
"""What "auto" chooses from by the outputs: outliers kept, or weighed as any other error."""

_ALIKE = ("onnxruntime", "openvino")
"""Engines whose integers ONNX Runtime computes as well, and sooner: it need not compile them."""


def calibrated(
    recipe: Recipe,
    artifact: Artifact,
    images: ImagePlan,
    precision: Precision,
    progress: Progress,
) -> tuple[Precision, Ranges | None]:
    """`precision`, informed, and the ranges; None where it needs none.

    Raises:
        StaleTable: the recipe names a range table of another graph.
        DataError: there are no calibration images, or one cannot be read.
    """
    if not precision.needs_ranges:
        return precision, None
    chosen, model, layout = images.calibration, artifact.model, recipe.pixel_layout
    watched = precision.watched(model)
    if watched is None:
        return precision, _exact(model, chosen, layout, BATCH, progress)
    candidates = _candidates(recipe, artifact, chosen, precision, watched, progress)
    precision = informed(recipe, model, chosen, precision, candidates[0], progress)
    shown = chosen.spread(CHOICE_IMAGES)
    exact, runs = ENGINES.get("onnxruntime"), runner(recipe.target)
    ranges = least_noise(
        model,
        precision,
        candidates,
        lambda: _shown(shown, layout, CHANNEL_BATCH),
        exact=exact,
        engine=exact if runs.name in _ALIKE else runs,
        total=shown.batch_count(CHANNEL_BATCH),
        progress=progress,
    )
    return precision, ranges


def equalised(
    recipe: Recipe,
    artifact: Artifact,
    images: ImagePlan,
    precision: Precision,
    progress: Progress,
) -> Artifact:
    """The artifact with channels that share a grid made more alike, where the recipe asks for it.

    Raises:
        NotFinite: a tensor holds NaN or infinity.
        StageError: the graph is not the same in float any more.
        DataError: there are no calibration images, or one cannot be read.
    """
    watched = precision.watched(artifact.model) if recipe.equalise else None
    if not watched:
        return artifact
    # all images: a channel that the chosen ones leave at rest would be widened beyond its grid
    seen = _channels(recipe, artifact.model, images.calibration, tuple(watched), progress)
    widest = {tensor: statistics.max_abs for tensor, statistics in seen.items()}
    for tensor, largest in widest.items():
        if not np.isfinite(largest).all():
            raise NotFinite(
                f"'{tensor}' holds NaN or infinity on the calibration images; export without "
                "--equalise to be told on which",
                tensor,
            )
    return equalise(artifact, widest, progress=progress)


def informed(
    recipe: Recipe,
    model: onnx.ModelProto,
    chosen: ImageSet,
    precision: Precision,
    ranges: Ranges,
    progress: Progress,
) -> Precision:
    """`precision`, knowing of the activations of `model` what it asks for besides their ranges.

    Args:
        chosen: the calibration images.
    """
    few = chosen.spread(CHANNEL_IMAGES)
    if precision.needs_exact:
        exact = _exact(model, few, recipe.pixel_layout, CHANNEL_BATCH, progress)
        precision = precision.knowing(exact)
    if recipe.weight_rounding == "gptq":
        return _rounded(recipe, model, few, precision, ranges, progress)
    tensors = tuple(precision.watched(model) or ())
    statistics = _channels(recipe, model, few, tensors, progress)
    return precision.informed(statistics)


def _candidates(
    recipe: Recipe,
    artifact: Artifact,
    chosen: ImageSet,
    precision: Precision,
    watched: Mapping[str, int],
    progress: Progress,
) -> list[Ranges]:
    """Those of the recipe's table; or chosen from the images, in as many ways as there are to try.

    "auto" leaves open how much clipping errors weigh.
    """
    table = recipe.calibration_table
    if table is not None:
        ranges = load_table(table)
        ranges.check(model=artifact.digest)
        return [ranges]
    histograms = observe_histograms(
        artifact.model,
        _shown(chosen, recipe.pixel_layout, BATCH),
        tensors=tuple(watched),
        engine=ENGINES.get("onnxruntime"),
        data_digest=chosen.dataset.digest,
        total=chosen.batch_count(),
        progress=progress,
    )
    methods = AUTO if recipe.calibrator == "auto" else (recipe.calibrator,)
    grids = precision.grids(artifact.model)
    return [calibrate(histograms, calibrator(m), grids, watched) for m in methods]


def _channels(
    recipe: Recipe,
    model: onnx.ModelProto,
    chosen: ImageSet,
    tensors: Sequence[str],
    progress: Progress,
) -> Mapping[str, ChannelStatistics]:
    """What `tensors` hold, channel by channel."""
    return observe_channels(
        model,
        _shown(chosen, recipe.pixel_layout, CHANNEL_BATCH),
        tensors=tensors,
        engine=ENGINES.get("onnxruntime"),
        total=chosen.batch_count(CHANNEL_BATCH),
        progress=progress,
    )


def _exact(
    model: onnx.ModelProto,
    chosen: ImageSet,
    layout: Layout | None,
    size: int,
    progress: Progress,
) -> Ranges:
    """Smallest and largest value of every tensor, seen in batches of `size`."""
    return observe(
        model,
        _shown(chosen, layout, size),
        engine=ENGINES.get("onnxruntime"),
        data_digest=chosen.dataset.digest,
        total=chosen.batch_count(size),
        progress=progress,
    )


def _rounded(
    recipe: Recipe,
    model: onnx.ModelProto,
    few: ImageSet,
    precision: Precision,
    ranges: Ranges,
    progress: Progress,
) -> Precision:
    """`precision`, which rounds weights by what their layers read, and corrects biases by that."""
    nodes = precision.rounds(model)
    if not nodes:
        return precision
    shown = few.spread(MOMENT_IMAGES)
    moments = observe_moments(
        model,
        lambda: _shown(shown, recipe.pixel_layout, CHANNEL_BATCH),
        nodes=nodes,
        engine=ENGINES.get("onnxruntime"),
        images=len(shown.indices),
        seed=recipe.seed,
        progress=progress,
    )
    with progress.stage("rounding weights"):
        return precision.rounded(model, ranges, moments)


def _shown(chosen: ImageSet, layout: Layout | None, size: int) -> Iterator[Array]:
    """What the graph is fed, batch by batch."""
    return (fed(batch, layout) for batch in chosen.batches(size))
