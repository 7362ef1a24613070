"""Calibrate: the exact range of every float tensor over a stream of images.

The graph observes itself. A copy gets three reductions behind each float tensor (minimum, maximum
and sum), so that only scalars leave the engine: memory does not grow with the number of images,
and neither their order nor the batch size matters to a minimum or a maximum.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import onnx

from inception_deploy.artifact import FloatArray, model_digest
from inception_deploy.engines.base import Engine
from inception_deploy.errors import DataError, StageError
from inception_deploy.progress import Progress, SilentProgress
from inception_deploy.ranges import Ranges, TensorRange

__all__ = ["NotFinite", "observe", "observed", "self_observing"]

# Minimum and maximum skip NaN on some engines (ONNX Runtime's CPU provider does); a sum does not.
_REDUCTIONS = ("ReduceMin", "ReduceMax", "ReduceSum")


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
    """Ranges of every float32 tensor of `model`, its input included, over all `batches`.

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
        NotFinite: a tensor holds NaN or infinity; the message names it, its node and the images.
    """
    progress = progress or SilentProgress()
    tensors = observed(model)
    ranges: dict[str, TensorRange] = {}
    images = 0
    with engine.session(self_observing(model, tensors).SerializeToString()) as session:
        name = session.inputs[0].name
        for batch in progress.track(batches, "calibrating", total):
            scalars = session.infer({name: batch})
            for tensor in tensors:
                low, high, total_sum = (
                    float(scalars[_scalar(tensor, reduction)]) for reduction in _REDUCTIONS
                )
                if math.isnan(total_sum) or math.isinf(low) or math.isinf(high):
                    raise NotFinite(
                        f"'{tensor}' ({_producer(model, tensor)}) holds NaN or infinity for one of "
                        f"the images {images + 1} to {images + len(batch)}; "
                        "check the weights and the preprocessing",
                        tensor,
                    )
                seen = ranges.get(tensor, TensorRange(low, high))
                ranges[tensor] = TensorRange(min(seen.minimum, low), max(seen.maximum, high))
            images += len(batch)
    if not images:
        raise DataError("no calibration images; give a source that holds some")
    for tensor, seen in ranges.items():
        if seen.max_abs == 0:
            progress.note(f"'{tensor}' ({_producer(model, tensor)}) is zero for every image")
    return Ranges(ranges, model_digest(model), data_digest, images, "min_max")


def observed(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the float32 activations of `model`: inputs first, then outputs in node order.

    Constants are not activations, and tensors inside subgraphs cannot be reached from outside.
    """
    inferred = onnx.shape_inference.infer_shapes(model)
    graph = inferred.graph
    float_tensors = {
        info.name
        for info in (*graph.input, *graph.value_info, *graph.output)
        if info.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    constants = {tensor.name for tensor in graph.initializer}
    candidates = [info.name for info in graph.input]
    for node in graph.node:
        if node.op_type != "Constant":
            candidates += node.output
    return tuple(t for t in candidates if t in float_tensors and t not in constants)


def self_observing(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """A copy of `model` whose outputs are three scalars for each of `tensors`, nothing else."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    for tensor in tensors:
        for reduction in _REDUCTIONS:
            output = _scalar(tensor, reduction)
            node = onnx.helper.make_node(reduction, [tensor], [output], name=output, keepdims=0)
            copy.graph.node.append(node)
            copy.graph.output.append(
                onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, [])
            )
    return copy


def _scalar(tensor: str, reduction: str) -> str:
    return f"{tensor}/{reduction}"


def _producer(model: onnx.ModelProto, tensor: str) -> str:
    for node in model.graph.node:
        if tensor in node.output:
            return str(node.name or node.op_type)
    return "graph input"
