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
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from inception_deploy.artifact import FloatArray, model_digest
from inception_deploy.calibrators import Calibrator, Clip, Grid, expected_error
from inception_deploy.engines.base import Engine, Session
from inception_deploy.errors import DataError, StageError
from inception_deploy.histograms import Histogram, Histograms, Snapshot, Tally, merged
from inception_deploy.progress import Progress, SilentProgress
from inception_deploy.ranges import Choice, Ranges, TensorRange

__all__ = [
    "SAMPLES",
    "NotFinite",
    "calibrate",
    "observe",
    "observe_histograms",
    "observed",
    "self_observing",
    "stride",
]

SAMPLES = 2048
"""Most elements of one tensor that are counted per image; its range is taken over all of them."""

_MINIMA, _MAXIMA, _SUMS, _SAMPLED = (
    f"calibration/{what}" for what in ("minima", "maxima", "sums", "samples")
)
# Minimum and maximum skip NaN on some engines (ONNX Runtime's CPU provider does); a sum does not.
_REDUCTIONS = {_MINIMA: "ReduceMin", _MAXIMA: "ReduceMax", _SUMS: "ReduceSum"}


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
    sizes = _sizes(model, tensors)
    strides = [stride(size) for size in sizes]
    tally = Tally(
        [-(-size // step) for size, step in zip(sizes, strides, strict=True)],
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


def observed(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the float32 activations of `model`: inputs first, then outputs in node order.

    Constants are not activations, and tensors inside subgraphs cannot be reached from outside.
    """
    return _observed(model, _values(model))


def _observed(
    model: onnx.ModelProto, values: Mapping[str, onnx.TypeProto.Tensor]
) -> tuple[str, ...]:
    constants = {tensor.name for tensor in model.graph.initializer}
    candidates = [info.name for info in model.graph.input]
    for node in model.graph.node:
        if node.op_type != "Constant":
            candidates += node.output
    return tuple(
        name
        for name in candidates
        if name in values
        and name not in constants
        and values[name].elem_type == onnx.TensorProto.FLOAT
    )


def stride(size: int) -> int:
    """Step between the elements that are counted of a tensor of `size` elements per image.

    The smallest one that leaves `SAMPLES` or fewer and has no divisor in common with the size, so
    that neither columns nor rows nor channels can be in step with it.
    """
    step = max(1, -(-size // SAMPLES))
    while math.gcd(step, size) > 1:
        step += 1
    return step


def self_observing(
    model: onnx.ModelProto, tensors: Sequence[str], strides: Sequence[int] | None = None
) -> onnx.ModelProto:
    """A copy of `model` that puts out what `observe` needs to know of `tensors`, nothing else.

    Outputs: float32 (tensors,) minima, maxima and sums over the batch; with `strides`, one for each
    tensor, every so many elements of it, tensor after tensor, for a batch of one image.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    del graph.output[:]
    parts: dict[str, list[str]] = {output: [] for output in _REDUCTIONS}
    if strides is not None:
        parts[_SAMPLED] = []

    def constant(name: str, value: int) -> str:
        array = np.array([value], np.int64)
        graph.initializer.append(onnx.numpy_helper.from_array(array, f"calibration/{name}"))
        return f"calibration/{name}"

    def node(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        graph.node.append(onnx.helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    flat_shape, start, end, axis = (
        constant(name, value)
        for name, value in (("flat", -1), ("start", 0), ("end", 2**62), ("axis", 0))
    )
    for index, tensor in enumerate(tensors):
        flat = node("Reshape", [tensor, flat_shape], f"calibration/flat/{index}")
        for output, reduction in _REDUCTIONS.items():
            parts[output].append(node(reduction, [flat], f"{output}/{index}", keepdims=1))
        if strides is not None:
            step = constant(f"step/{index}", strides[index])
            every = [flat, start, end, axis, step]
            parts[_SAMPLED].append(node("Slice", every, f"{_SAMPLED}/{index}"))
    for output, names in parts.items():
        node("Concat", names, output, axis=0)
        graph.output.append(
            onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, [None])
        )
    return copy


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
                finite = np.isfinite(seen[_MINIMA]) & np.isfinite(seen[_MAXIMA])
                finite &= ~np.isnan(seen[_SUMS])  # it may overflow with every value finite
                if not finite.all():
                    tensor = tensors[int(np.argmin(finite))]
                    raise NotFinite(
                        f"'{tensor}' ({_producer(model, tensor)}) holds NaN or infinity for image "
                        f"{images}; check the weights and the preprocessing",
                        tensor,
                    )
                yield _Seen(
                    seen[_MINIMA].astype(np.float64),
                    seen[_MAXIMA].astype(np.float64),
                    seen.get(_SAMPLED, np.zeros(0, np.float32)),
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
            progress.note(f"'{tensor}' ({_producer(model, tensor)}) is zero for every image")


def _values(model: onnx.ModelProto) -> dict[str, onnx.TypeProto.Tensor]:
    """Type and shape of inputs, outputs and what lies between, as far as they can be inferred."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    return {
        info.name: info.type.tensor_type
        for info in (*graph.input, *graph.value_info, *graph.output)
    }


def _sizes(model: onnx.ModelProto, tensors: Sequence[str]) -> tuple[int, ...]:
    """Elements per image of each of `tensors`."""
    values = _values(model)
    known = set(_observed(model, values))
    sizes = []
    for tensor in tensors:
        if tensor not in known:
            raise StageError(f"calibrate: '{tensor}' is no float32 activation of this graph")
        dims = values[tensor].shape.dim
        fixed = [dim.dim_value for dim in dims if dim.HasField("dim_value")]
        if not values[tensor].HasField("shape") or len(fixed) < len(dims) - 1:
            raise StageError(
                f"calibrate: '{tensor}' ({_producer(model, tensor)}) has no fixed size per image; "
                "export for one image size, with only the batch free"
            )
        sizes.append(math.prod(fixed))
    return tuple(sizes)


def _producer(model: onnx.ModelProto, tensor: str) -> str:
    for node in model.graph.node:
        if tensor in node.output:
            return str(node.name or node.op_type)
    return "graph input"
