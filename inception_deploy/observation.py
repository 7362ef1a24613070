"""A graph that observes itself: what calibration needs to know leaves the engine, and no more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from inception_deploy.errors import StageError

__all__ = [
    "MAXIMA",
    "MINIMA",
    "SAMPLED",
    "SAMPLES",
    "SUMS",
    "observed",
    "producer",
    "self_observing",
    "sizes",
    "stride",
]

SAMPLES = 2048
"""Most elements of one tensor that are counted per image; its range is taken over all of them."""

MINIMA, MAXIMA, SUMS, SAMPLED = (
    f"calibration/{what}" for what in ("minima", "maxima", "sums", "samples")
)
# Minimum and maximum skip NaN on some engines (ONNX Runtime's CPU provider does); a sum does not.
_REDUCTIONS = {MINIMA: "ReduceMin", MAXIMA: "ReduceMax", SUMS: "ReduceSum"}


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


def sizes(model: onnx.ModelProto, tensors: Sequence[str]) -> tuple[int, ...]:
    """Elements per image of each of `tensors`.

    Raises:
        StageError: one is none of the graph's float32 activations, or has no fixed size.
    """
    values = _values(model)
    known = set(_observed(model, values))
    found = []
    for tensor in tensors:
        if tensor not in known:
            raise StageError(f"calibrate: '{tensor}' is no float32 activation of this graph")
        dims = values[tensor].shape.dim
        fixed = [dim.dim_value for dim in dims if dim.HasField("dim_value")]
        if not values[tensor].HasField("shape") or len(fixed) < len(dims) - 1:
            raise StageError(
                f"calibrate: '{tensor}' ({producer(model, tensor)}) has no fixed size per image; "
                "export for one image size, with only the batch free"
            )
        found.append(math.prod(fixed))
    return tuple(found)


def producer(model: onnx.ModelProto, tensor: str) -> str:
    """The node that `tensor` comes from, by name, for messages."""
    for node in model.graph.node:
        if tensor in node.output:
            return str(node.name or node.op_type)
    return "graph input"


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
        parts[SAMPLED] = []

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
            parts[SAMPLED].append(node("Slice", every, f"{SAMPLED}/{index}"))
    for output, names in parts.items():
        node("Concat", names, output, axis=0)
        graph.output.append(
            onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, [None])
        )
    return copy


def _values(model: onnx.ModelProto) -> dict[str, onnx.TypeProto.Tensor]:
    """Type and shape of inputs, outputs and what lies between, as far as they can be inferred."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    return {
        info.name: info.type.tensor_type
        for info in (*graph.input, *graph.value_info, *graph.output)
    }
