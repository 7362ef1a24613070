"""What the nodes of a graph are made of: attributes, weights as floats, and grids of activations.

Quantised and half-precision weights are given as the floats they stand for, with the unit that each
may be off from the float it was made of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from inception_deploy.artifact import opset_of
from inception_deploy.lowering.qdq import MOVED, RESTORED
from inception_deploy.weight_rounding import REACH

__all__ = ["Anatomy", "Grid", "Weights"]

_HALF: Mapping[int, float] = {
    onnx.TensorProto.FLOAT16: 2.0**-11,
    onnx.TensorProto.BFLOAT16: 2.0**-8,
}
"""Unit roundoff of the half-precision types."""

_SMALLEST: Mapping[int, float] = {
    onnx.TensorProto.FLOAT16: 2.0**-25,
    onnx.TensorProto.BFLOAT16: 0.0,
}
"""Half the distance of their subnormal numbers; bfloat16 reaches as low as float32."""

_FLOAT32_UNIT = 2.0**-20
"""A weight that stayed float32 was copied; a few units in the last place are for one that another
version of a rewrite computed anew."""

_SLACK = 1.002
"""Of half a step: scales are float32, and a tie may be rounded either way."""

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, *_HALF)

_QUANTISERS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Grid:
    """The grid of a quantised activation: values are `scale` apart, from `low` to `high`."""

    scale: float
    low: float
    high: float


@dataclass(frozen=True)
class Weights:
    """Constant input of a node.

    Args:
        values: float32, as the node computes with them; output channels first.
        unit: how far each may be from the float that it was made of, broadcastable to `values`.
        cut: where a value lies at the end of its grid: beyond it anything may have been cut off.
        exact: the values are written in float32.
        reach: how much further each may be where weights are rounded by what their layers read,
            and not to nearest; broadcastable to `values`.
    """

    values: NDArray[np.float32]
    unit: NDArray[np.float64]
    cut: NDArray[np.bool_] | None
    exact: bool
    reach: NDArray[np.float64] | float = 0.0


@dataclass(frozen=True)
class Anatomy:
    """Looks into a graph by the names of its nodes and tensors."""

    model: onnx.ModelProto

    @cached_property
    def constants(self) -> Mapping[str, onnx.TensorProto]:
        """Initialisers by name."""
        return {tensor.name: tensor for tensor in self.model.graph.initializer}

    @cached_property
    def nodes(self) -> Mapping[str, onnx.NodeProto]:
        """Nodes by name."""
        return {node.name: node for node in self.model.graph.node}

    @cached_property
    def writers(self) -> Mapping[str, onnx.NodeProto]:
        """Tensor → the node that puts it out."""
        return {name: node for node in self.model.graph.node for name in node.output if name}

    @cached_property
    def readers(self) -> Mapping[str, list[onnx.NodeProto]]:
        """Tensor → the nodes that read it."""
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self.model.graph.node:
            for name in node.input:
                found.setdefault(name, []).append(node)
        return found

    def attributes(self, node: onnx.NodeProto) -> dict[str, Any]:
        """Attributes with the defaults of the operator filled in; strings decoded."""
        found: dict[str, Any] = {}
        if node.domain in ("", "ai.onnx"):
            schema = onnx.defs.get_schema(node.op_type, opset_of(self.model), "")
            found = {
                name: helper.get_attribute_value(attribute.default_value)
                for name, attribute in schema.attributes.items()
                if attribute.default_value.name
            }
        found |= {a.name: helper.get_attribute_value(a) for a in node.attribute}
        return {k: v.decode() if isinstance(v, bytes) else v for k, v in found.items()}

    def weights(self, node: onnx.NodeProto) -> dict[int, Weights]:
        """Position → constant input, for those that are floats or stand for floats."""
        found = {}
        product = self._product(node) if node.op_type == "MatMulInteger" else None
        if product is not None:
            found[1] = product
        for position, name in enumerate(node.input):
            weights = self._weights(name)
            if weights is not None:
                found[position] = _channels_first(node, position, weights, self.attributes(node))
        return found

    def _weights(self, name: str) -> Weights | None:
        tensor = self.constants.get(name)
        if tensor is not None:
            return _plain(tensor) if tensor.data_type in _FLOATS else None
        writer = self.writers.get(name)
        if writer is None:
            return None
        if writer.op_type == "Cast":
            return self._weights(writer.input[0])
        if writer.op_type == "DequantizeLinear" and writer.input[0] in self.constants:
            return self._integers(writer)
        return None

    def _integers(self, node: onnx.NodeProto) -> Weights:
        steps, scale, *rest = (numpy_helper.to_array(self.constants[n]) for n in node.input)
        if steps.dtype.kind not in "iu":
            return _eight_bit_floats(steps, scale)
        zero = rest[0].astype(np.int64) if rest else np.zeros_like(scale, np.int64)
        shape = [1] * steps.ndim
        if scale.ndim:
            shape[self.attributes(node)["axis"]] = -1
        offsets = steps.astype(np.int64) - zero.reshape(shape if zero.ndim else ())
        wide = scale.astype(np.float64).reshape(shape if scale.ndim else ())
        values = (offsets * wide).astype(np.float32)
        cut = None
        if steps.dtype != np.int32:  # a bias: 32 bits cut nothing
            cut = np.abs(offsets) == np.abs(offsets).max(initial=0)
        unit = np.broadcast_to(_SLACK * wide / 2, values.shape)
        return Weights(values, unit, cut, False, 0.0 if cut is None else 2 * REACH * unit)

    def _product(self, node: onnx.NodeProto) -> Weights | None:
        """Weights of a 1×1 convolution that was lowered to a product of integers, whose scales are
        multiplied with its sums; None where there are none such."""
        steps = self.constants.get(node.input[1])
        scales = self._scales_behind(node)
        if steps is None or scales is None:
            return None
        offsets = numpy_helper.to_array(steps).T.astype(np.int64)[:, :, None, None]
        wide = scales.astype(np.float64).reshape(-1, 1, 1, 1)
        values = (offsets * wide).astype(np.float32)
        cut = np.abs(offsets) == np.abs(offsets).max(initial=0)
        unit = np.broadcast_to(_SLACK * wide / 2, values.shape)
        return Weights(values, unit, cut, False, 2 * REACH * unit)

    def _scales_behind(self, node: onnx.NodeProto) -> NDArray[Any] | None:
        """The scales per channel in: sums → Cast → Mul by (scale of the input × scales)."""
        for cast in self.readers.get(node.output[0], ()):
            for factor in self.readers.get(cast.output[0], ()):
                for name in factor.input if factor.op_type == "Mul" else ():
                    both = self.writers.get(name)
                    for part in both.input if both is not None and both.op_type == "Mul" else ():
                        found = self._weights(part)
                        if found is not None and found.values.ndim == 1:
                            return found.values
        return None

    def grid(self, tensor: str) -> Grid | None:
        """The grid that `tensor` was put on last; None where it was not."""
        stored, shift = self._stored(tensor)
        writer = self.writers.get(stored)
        if writer is None or writer.op_type != "DequantizeLinear":
            return None
        if any(name not in self.constants for name in writer.input[1:]):
            return None
        scale, *rest = (numpy_helper.to_array(self.constants[n]) for n in writer.input[1:])
        zero = rest[0] if rest else np.zeros((), np.uint8)
        if scale.size != 1 or zero.size != 1:
            return None
        if zero.dtype.kind not in "iu":  # E4M3: ±448, whose neighbours are 32 apart
            unit = float(scale.reshape(()))
            return Grid(32 * unit, -448 * unit, 448 * unit)
        limits, step = np.iinfo(zero.dtype), float(scale.reshape(()))
        origin = int(zero.reshape(()))
        low, high = (limits.min - origin) * step, (limits.max - origin) * step
        return Grid(step, low + shift, high + shift)

    def shift(self, tensor: str) -> float:
        """What the stored values of `tensor` lack (`placements/_shifts.py`); 0 for most."""
        return self._stored(tensor)[1]

    def _stored(self, tensor: str) -> tuple[str, float]:
        """The tensor that is stored for `tensor`, maybe itself, and what it lacks."""
        writer = self.writers.get(tensor)
        if writer is None or not writer.name.endswith(RESTORED):
            return tensor, 0.0
        if writer.op_type == "Relu":
            return self._stored(writer.input[0])
        behind = self.writers[writer.input[0]]
        stored = behind.input[0] if behind.op_type == "Cast" else writer.input[0]
        return stored, float(numpy_helper.to_array(self.constants[writer.input[1]]))

    def carries(self, node: onnx.NodeProto) -> bool:
        """Whether the bias of a node carries the shift of what it reads or writes."""
        readers = [r for name in node.output for r in self.readers.get(name, ())]
        casts = [name for r in readers if r.op_type == "Cast" for name in r.output]
        readers += [r for name in casts for r in self.readers.get(name, ())]
        return MOVED in node.input[0] or any(r.name.endswith(RESTORED) for r in readers)

    def scales_apart(self, tensor: str) -> tuple[float, float] | None:
        """Scales that a tensor is quantised and dequantised with, where they are not the same."""
        back = self.writers.get(self._stored(tensor)[0])
        if back is None or back.op_type != "DequantizeLinear":
            return None
        there = self.writers.get(back.input[0])
        while there is not None and there.op_type not in _QUANTISERS:
            there = self.writers.get(there.input[0])
        if there is None or there.op_type != "QuantizeLinear":
            return None
        names = (there.input[1], back.input[1])
        if any(name not in self.constants for name in names):
            return None
        scales = (numpy_helper.to_array(self.constants[n]).reshape(-1)[0] for n in names)
        first, second = (float(scale) for scale in scales)
        return (first, second) if first != second else None

    def steps(self, nodes: Iterator[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """Those of `nodes` that compute something: no quantisers, no casts, no weights' way, and
        nothing that puts a shift back."""
        others = (*_QUANTISERS, "Cast", "Identity")
        return [n for n in nodes if n.op_type not in others and not n.name.endswith(RESTORED)]


def _eight_bit_floats(steps: NDArray[Any], scale: NDArray[Any]) -> Weights:
    """E4M3: three bits of a mantissa, subnormal numbers in steps of 2⁻⁹, the largest is 448."""
    exact = steps.astype(np.float64)
    step = float(scale.reshape(-1)[0]) if scale.size == 1 else scale.astype(np.float64)
    if scale.size != 1:
        step = np.reshape(step, (-1, *[1] * (steps.ndim - 1)))
    unit = _SLACK * step * np.maximum(np.abs(exact) * 2.0**-4, 2.0**-10)
    return Weights((exact * step).astype(np.float32), unit, np.abs(exact) == 448.0, False)


def _plain(tensor: onnx.TensorProto) -> Weights:
    values = numpy_helper.to_array(tensor).astype(np.float32)
    kind = tensor.data_type
    if kind in _HALF:
        magnitude = np.abs(values).astype(np.float64)
        unit = _SLACK * np.maximum(_HALF[kind] * magnitude, _SMALLEST[kind])
        return Weights(values, unit, None, False)
    return Weights(values, _FLOAT32_UNIT * np.abs(values).astype(np.float64), None, True)


def _channels_first(
    node: onnx.NodeProto, position: int, weights: Weights, attributes: Mapping[str, Any]
) -> Weights:
    """A linear layer's matrix as (out, in), however it is written."""
    turned = (node.op_type == "MatMul" and position == 1) or (
        node.op_type == "Gemm" and position == 1 and not attributes.get("transB")
    )
    if not turned or weights.values.ndim != 2:
        return weights
    cut = None if weights.cut is None else weights.cut.T
    reach = weights.reach if isinstance(weights.reach, float) else weights.reach.T
    return Weights(weights.values.T, weights.unit.T, cut, weights.exact, reach)
