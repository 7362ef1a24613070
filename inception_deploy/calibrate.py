"""Calibrate: what the tensors of a graph hold over a stream of images, and where to clip them.

The graph observes itself. A copy puts out the minimum, the maximum and the sum of each tensor, and,
where a histogram is asked for, some two thousand of its elements. One pass over the images is
enough, for the histograms grow with the data (`histograms.py`), and memory does not depend on how
many images there are.

Images go through the graph one at a time: engines choose other kernels, and so other roundings, for
other batch sizes. So neither the order of the images nor the batches they come in can change a bit
of the result.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from inception_deploy.artifact import FloatArray, model_digest
from inception_deploy.calibrators import Calibrator, Clip, Grid, expected_error
from inception_deploy.engines.base import Engine, Session
from inception_deploy.errors import DataError, StageError
from inception_deploy.histograms import Histogram, Histograms, Snapshot, Tally, merged
from inception_deploy.observation import (
    MAXIMA,
    MINIMA,
    SAMPLED,
    SUMS,
    observed,
    producer,
    self_observing,
    sizes,
    stride,
)
from inception_deploy.progress import Progress, SilentProgress
from inception_deploy.ranges import Choice, Ranges, TensorRange

__all__ = ["NotFinite", "calibrate", "observe", "observe_histograms"]


class NotFinite(StageError):
    """A tensor holds NaN or infinity; `tensor` is the first one in processing order."""

    def __init__(self, message: str, tensor: str) -> None:
        super().__init__(message)
        self.tensor = tensor


def observe(
    model: onnx.ModelProto,
    batches: Iterable[FloatArray],
    *,
    engine: Engine,
    data_digest: str,
    total: int,
    progress: Progress | None = None,
) -> Ranges:
    """Exact ranges of every float32 tensor of `model`, its input included, over all `batches`.

    Args:
        model: FP32 graph with one input (N, C, H, W); initialisers are not observed.
        batches: preprocessed images, float32 (N, C, H, W); consumed once, none is kept.
        engine: runs the graph.
        data_digest: says which images these are; recorded with the ranges.
        total: number of batches, for the progress bar.
        progress: told of tensors that stayed zero throughout.

    Raises:
        BadInput: a batch does not fit the graph's input.
        DataError: there are no batches.
        NotFinite: a tensor holds NaN or infinity; the message names it, its node and the image.
    """
    progress = progress or SilentProgress()
    tensors = observed(model)
    low, high = np.full(len(tensors), np.inf), np.full(len(tensors), -np.inf)
    images = 0
    for seen in _watch(model, tensors, batches, engine, total, progress):
        low, high = np.minimum(low, seen.low), np.maximum(high, seen.high)
        images += 1
    ranges = {
        tensor: TensorRange(float(minimum), float(maximum))
        for tensor, minimum, maximum in zip(tensors, low, high, strict=True)
    }
    _note_zeros(model, ranges, progress)
    return Ranges(ranges, model_digest(model), data_digest, images, "min_max")


def observe_histograms(
    model: onnx.ModelProto,
    batches: Iterable[FloatArray],
    *,
    tensors: Sequence[str],
    engine: Engine,
    data_digest: str,
    total: int,
    progress: Progress | None = None,
) -> Histograms:
    """Exact ranges and histograms of `tensors` over all `batches`, in one pass.

    At most `SAMPLES` elements of a tensor are counted per image: every s-th one of the flattened
    (C, H, W), where s depends on the tensor's size alone (`stride`).

    Args:
        tensors: those that will be quantised; float32 activations of `model`, each once.

    The other arguments and what is raised are those of `observe`, and

    Raises:
        StageError: a tensor is none of the graph's float32 activations, or has no fixed size.
    """
    progress = progress or SilentProgress()
    elements = sizes(model, tensors)
    strides = [stride(size) for size in elements]
    tally = Tally(
        [-(-size // step) for size, step in zip(elements, strides, strict=True)],
        strides,
    )
    history: list[Snapshot] = []
    images = 0

    def remember() -> None:
        ends = zip(tally.minimum.tolist(), tally.maximum.tolist(), strict=True)
        history.append(Snapshot(images, dict(zip(tensors, ends, strict=True))))

    for seen in _watch(model, tensors, batches, engine, total, progress, strides):
        tally.add(seen.samples, seen.low, seen.high)
        images += 1
        if images & (images - 1) == 0:
            remember()
    if history[-1].images != images:
        remember()
    found = {tensor: tally.histogram(index) for index, tensor in enumerate(tensors)}
    _note_zeros(
        model, {name: TensorRange(h.minimum, h.maximum) for name, h in found.items()}, progress
    )
    return Histograms(found, model_digest(model), data_digest, images, tuple(history))


def calibrate(
    histograms: Histograms,
    calibrator: Calibrator,
    grids: Grid | Mapping[str, Grid],
    groups: Mapping[str, Hashable] | None = None,
) -> Ranges:
    """Where to clip every tensor of `histograms`.

    Args:
        grids: that all tensors are quantised to, or by tensor name.
        groups: tensor name → its group; tensors of one group get one interval, chosen for what they
            hold together. Those without a group stand alone.

    Raises:
        StageError: `grids` lacks a tensor, or a group has several.
    """
    members: dict[Hashable, list[str]] = {}
    for tensor in histograms.tensors:
        group = (groups or {}).get(tensor)
        members.setdefault(("alone", tensor) if group is None else group, []).append(tensor)
    ranges: dict[str, TensorRange] = {}
    choices: dict[str, Choice] = {}
    for tensors in members.values():
        grid = _common_grid(tensors, grids)
        clip = calibrator.clip(merged([histograms.tensors[tensor] for tensor in tensors]), grid)
        for tensor in tensors:
            ranges[tensor] = TensorRange(clip.low, clip.high)
            sqnr = _sqnr_db(histograms.tensors[tensor], grid, clip)
            choices[tensor] = Choice(clip.calibrator, str(grid), sqnr)
    order = histograms.tensors
    return Ranges(
        {tensor: ranges[tensor] for tensor in order},
        histograms.model,
        histograms.data,
        histograms.images,
        calibrator.name,
        {tensor: choices[tensor] for tensor in order},
    )


def _common_grid(tensors: Sequence[str], grids: Grid | Mapping[str, Grid]) -> Grid:
    if isinstance(grids, Grid):
        return grids
    for tensor in tensors:
        if tensor not in grids:
            raise StageError(f"calibrate: no grid is given for '{tensor}'; give one per tensor")
        if grids[tensor] != grids[tensors[0]]:
            raise StageError(
                f"calibrate: '{tensors[0]}' ({grids[tensors[0]]}) and '{tensor}' "
                f"({grids[tensor]}) are of one group but not of one grid; give them the same"
            )
    return grids[tensors[0]]


def _sqnr_db(histogram: Histogram, grid: Grid, clip: Clip) -> float | None:
    power = histogram.power()
    error = float(expected_error(histogram, grid, clip.low, clip.high))
    return 10 * math.log10(power / error) if power > 0 and error > 0 else None


@dataclass(frozen=True)
class _Seen:
    """One image: float64 (tensors,) bounds, and the samples where they were asked for."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    samples: FloatArray


def _watch(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    batches: Iterable[FloatArray],
    engine: Engine,
    total: int,
    progress: Progress,
    strides: Sequence[int] | None = None,
) -> Iterator[_Seen]:
    """What is seen of each image."""
    images = 0
    watching = self_observing(model, tensors, strides).SerializeToString()
    with engine.session(watching) as session:
        for batch in progress.track(batches, "calibrating", total):
            session.inputs[0].check(batch)
            for index in range(len(batch)):
                images += 1
                seen = _look(session, batch[index : index + 1])
                finite = np.isfinite(seen[MINIMA]) & np.isfinite(seen[MAXIMA])
                finite &= ~np.isnan(seen[SUMS])  # it may overflow with every value finite
                if not finite.all():
                    tensor = tensors[int(np.argmin(finite))]
                    raise NotFinite(
                        f"'{tensor}' ({producer(model, tensor)}) holds NaN or infinity for image "
                        f"{images}; check the weights and the preprocessing",
                        tensor,
                    )
                yield _Seen(
                    seen[MINIMA].astype(np.float64),
                    seen[MAXIMA].astype(np.float64),
                    seen.get(SAMPLED, np.zeros(0, np.float32)),
                )
    if not images:
        raise DataError("no calibration images; give a source that holds some")


def _look(session: Session, image: FloatArray) -> dict[str, NDArray[np.float32]]:
    return session.infer({session.inputs[0].name: image})


def _note_zeros(
    model: onnx.ModelProto, ranges: Mapping[str, TensorRange], progress: Progress
) -> None:
    for tensor, seen in ranges.items():
        if seen.max_abs == 0:
            progress.note(f"'{tensor}' ({producer(model, tensor)}) is zero for every image")
