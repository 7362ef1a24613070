"""A model without its weights: what can be checked, inferred and edited at no cost.

ONNX's checker and its shape inference serialise what they are given, and graph editors copy it. The
weights are a hundred times the rest and nothing of it looks into them; in an outline they are
inputs, known by type and shape only.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx_graphsurgeon.ir.tensor import LazyValues

__all__ = [
    "Map",
    "Weights",
    "as_inputs",
    "attach_weights",
    "mapped",
    "outlined",
    "put_back",
    "read",
    "weights_aside",
]

Map: TypeAlias = Callable[[NDArray[Any]], NDArray[Any]]

Weights: TypeAlias = Mapping[str, gs.Constant]

LARGE = 1024
"""Elements: shapes, axes and pads, whose values inference has to know, are far below."""


class _StoredValues(LazyValues):  # type: ignore[misc]
    """Values that are read with one copy: those of the base class exist three times meanwhile."""

    def load(self) -> NDArray[Any]:
        raw = self.tensor.raw_data
        if not raw or not isinstance(self.dtype, np.dtype) or sys.byteorder != "little":
            return np.asarray(super().load())
        return np.frombuffer(raw, self.dtype).reshape(self.shape)


class _MappedValues(LazyValues):  # type: ignore[misc]
    """Values that are computed from stored ones, of equal shape and type, when they are needed."""

    def __init__(self, source: LazyValues, function: Map) -> None:
        self.source, self.function = source, function
        self.shape, self.dtype, self.nbytes = source.shape, source.dtype, source.nbytes

    def load(self) -> NDArray[Any]:
        return self.function(self.source.load())


def read(tensor: gs.Constant) -> NDArray[Any]:
    """The values of a constant, which does not keep them if they are only stored yet."""
    values = tensor._values
    return np.asarray(values.load() if isinstance(values, LazyValues) else values)


def mapped(tensor: gs.Constant, function: Map) -> gs.Constant:
    """A constant, equally named, of `function` of the values of `tensor`.

    Large values that are only stored yet stay so: `function` has its turn when the graph is closed,
    tensor after tensor, so that a graph whose weights all change needs no room for them.

    Args:
        function: keeps shape and dtype, and does not change what it is given.
    """
    values = tensor._values
    if isinstance(values, LazyValues) and _is_large(values.shape):
        return gs.Constant(tensor.name, _MappedValues(values, function))
    return gs.Constant(tensor.name, np.ascontiguousarray(function(tensor.values), tensor.dtype))


def outlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` in which every large initialiser is one more input, at the end."""
    outline = onnx.ModelProto()
    _copy_fields(model, outline, besides="graph")
    _copy_fields(model.graph, outline.graph, besides="initializer")
    for tensor in model.graph.initializer:
        if _is_large(tensor.dims):
            outline.graph.input.append(_as_input(tensor.name, tensor.data_type, tensor.dims))
        else:
            outline.graph.initializer.append(tensor)
    return outline


def attach_weights(graph: gs.Graph, model: onnx.ModelProto) -> None:
    """Make constants of the weights that are inputs in `graph`, opened from the outline of `model`.

    They are read from `model` when somebody asks for them.
    """
    inputs = {tensor.name: tensor for tensor in graph.inputs}
    for tensor in model.graph.initializer:
        if _is_large(tensor.dims):
            inputs[tensor.name].to_constant(_StoredValues(tensor))
    graph.inputs = graph.inputs[: len(model.graph.input)]


@contextmanager
def weights_aside(graph: gs.Graph) -> Iterator[Weights]:
    """The large constants of `graph` by name; in the meantime they export without their data."""
    weights = {
        tensor.name: tensor
        for tensor in graph.tensors().values()
        if isinstance(tensor, gs.Constant) and _is_large(tensor.shape)
    }
    held = {name: tensor._values for name, tensor in weights.items()}
    try:
        for name, tensor in weights.items():
            bare = onnx.TensorProto(name=name, dims=tensor.shape, data_type=_type(held[name]))
            tensor.values = LazyValues(bare)
        yield weights
    finally:
        for name, tensor in weights.items():
            tensor.values = held[name]


def put_back(model: onnx.ModelProto, weights: Weights, order: list[str]) -> None:
    """Give an outline (in place) its initialisers: its own and `weights`, in the given order.

    An array is let go as soon as it is copied, so that all weights exist once, not twice; the
    graph's constants then read from `model`.
    """
    del model.graph.input[len(model.graph.input) - len(weights) :]
    own = {tensor.name: onnx.TensorProto() for tensor in model.graph.initializer}
    for tensor in model.graph.initializer:
        own[tensor.name].CopyFrom(tensor)
    del model.graph.initializer[:]
    for name in order:
        target = model.graph.initializer.add()
        if name in own:
            target.CopyFrom(own[name])
            continue
        values = weights[name]._values
        if isinstance(values, _MappedValues):
            values = values.load()
        if isinstance(values, LazyValues):
            target.CopyFrom(values.tensor)
        else:  # as numpy_helper.from_array does, with two copies less
            target.data_type = _type(values)
            target.dims.extend(values.shape)
            raw = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
            # the array goes before its bytes are copied
            weights[name].values = values = None
            target.raw_data = raw
            del raw
        target.name = name
        weights[name].values = _StoredValues(target)


def as_inputs(model: onnx.ModelProto, weights: Weights) -> list[str]:
    """Turn exported constants without data into inputs (in place); all initialisers' order."""
    order = [tensor.name for tensor in model.graph.initializer]
    small = [tensor for tensor in model.graph.initializer if tensor.name not in weights]
    bare = [tensor for tensor in model.graph.initializer if tensor.name in weights]
    model.graph.input.extend(_as_input(t.name, t.data_type, t.dims) for t in bare)
    kept = onnx.GraphProto(initializer=small)
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept.initializer)
    return order


def _copy_fields(source: Any, target: Any, *, besides: str) -> None:
    for field, value in source.ListFields():
        if field.name == besides:
            continue
        if hasattr(value, "CopyFrom"):
            getattr(target, field.name).CopyFrom(value)
        elif hasattr(value, "append"):
            getattr(target, field.name).extend(value)
        else:
            setattr(target, field.name, value)


def _is_large(shape: Any) -> bool:
    return bool(math.prod(shape) > LARGE)


def _as_input(name: str, kind: int, shape: Any) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, kind, list(shape))


def _type(values: Any) -> int:
    """The ONNX type of a constant's values, read or not."""
    if isinstance(values, LazyValues) and not isinstance(values, _MappedValues):
        return int(values.tensor.data_type)
    return int(onnx.helper.np_dtype_to_tensor_dtype(values.dtype))
