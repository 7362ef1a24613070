"""Write a quantised graph: QuantizeLinear and DequantizeLinear around what a plan names.

A quantised activation T keeps its name where it is used: what its producer puts out becomes
`T:float`, the integers are `T:int8` (or `T:uint8`), and T is what DequantizeLinear makes of them.
Weights are stored as integers behind a DequantizeLinear of their own.

Of a tensor that is stored moved (`placements/_shifts.py`), `T:moved` is what its readers see, and T
still holds the values of T: an Add puts the shift back. Nobody reads that, and an engine drops it;
but who asks for T by its name gets T.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from inception_deploy.placements.base import (
    ACTIVATIONS,
    FACTORS,
    WEIGHTED,
    BiasForm,
    LinearForm,
    Plan,
)
from inception_deploy.quantisation import (
    QuantisedWeights,
    Quantiser,
    exact_grid,
    quantised_bias,
)

__all__ = ["MOVED", "RESTORED", "quantised"]

MOVED = ":moved"
"""Ends the names of tensors that are stored moved."""

RESTORED = ":restored"
"""Ends the names of nodes that put a shift back, for no reader."""


def quantised(
    model: onnx.ModelProto,
    plan: Plan,
    grids: Mapping[str, Quantiser],
    weights: Mapping[str, QuantisedWeights],
    biases: Mapping[str, NDArray[np.float64]],
    *,
    bias_form: BiasForm,
    linear_form: LinearForm,
) -> onnx.ModelProto:
    """A copy of `model` in which the nodes of `plan` stand between quantisers.

    Args:
        model: FP32, constants as initialisers.
        grids: quantised activation → its grid; where the plan moves it, one whose zero point is its
            lowest integer, written as 0.
        weights: node name → its weights in integers, axis 0.
        biases: node name → its bias in float64 (channels,), where it has one, with the shifts that
            the plan has it carry; also of convolutions that stay float, where it differs there.
        bias_form: of convolutions; linear layers written as `MatMul` add theirs in float.
        linear_form: "MatMul" writes a `Gemm` as `MatMul` and `Add`.
    """
    return _Writer(model, plan, grids, weights, biases, bias_form, linear_form).write()


class _Writer:
    """One run of `quantised`."""

    def __init__(
        self,
        model: onnx.ModelProto,
        plan: Plan,
        grids: Mapping[str, Quantiser],
        weights: Mapping[str, QuantisedWeights],
        biases: Mapping[str, NDArray[np.float64]],
        bias_form: BiasForm,
        linear_form: LinearForm,
    ) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.plan, self.grids, self.weights, self.biases = plan, grids, weights, biases
        self.bias_form, self.linear_form = bias_form, linear_form
        self.nodes: list[onnx.NodeProto] = []
        self.moved = plan.shifts.tensors
        self.cut = {  # what an activation reads that its quantiser takes in → what it puts out
            str(node.input[0]): str(node.output[0])
            for node in model.graph.node
            if node.name in plan.shifts.activations
        }
        self.summands = {  # convolution behind which a sum is moved → by how much, down
            str(node.output[0]): self._shift(carried.writes) - self._shift(carried.beside)
            for node in model.graph.node
            if (carried := plan.shifts.biases.get(node.name)) is not None
            and (carried.writes or carried.beside)
            and node.output[0] not in self.cut
        }
        self.initialisers = {t.name: t for t in self.model.graph.initializer}

    def write(self) -> onnx.ModelProto:
        graph = self.model.graph
        for value in graph.input:
            if value.name in self.grids:
                self._pair(value.name, value.name, f"{value.name}:quantised")
        inputs = {v.name: f"{v.name}:quantised" for v in graph.input if v.name in self.grids}
        inputs |= {name: f"{name}{MOVED}" for name in (*self.moved, *self.summands)}
        placed = set(self.plan.nodes)
        for node in list(graph.node):
            for index, name in enumerate(node.input):
                node.input[index] = inputs.get(name, name)
            if node.name in placed and node.op_type in ACTIVATIONS:
                self._cut(node)
                continue
            if node.name in self.plan.shifts.activations:
                self._taken_in(node)
                continue
            names = list(node.output)
            for index, name in enumerate(names):
                node.output[index] = self._raw(name)
            if node.name in self.plan.products:
                self._product(node)
            elif node.name in placed and node.op_type in WEIGHTED:
                self._weighted(node)
            else:
                if node.name in placed and node.op_type in FACTORS:
                    self._factors(node)
                if node.name in self.biases:
                    self._moved_bias(node)
                self.nodes.append(node)
            for name in names:
                self._finished(name)
        used = {name for node in self.nodes for name in node.input}
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        graph.initializer.extend(t for name, t in self.initialisers.items() if name in used)
        return self.model

    def _raw(self, name: str) -> str:
        """What a node puts out under `name`, before quantisers, and without the shift."""
        behind = self.cut.get(name, name)
        if behind in self.grids:
            return f"{behind}:float"
        return f"{behind}{MOVED}" if behind in self.moved or behind in self.summands else name

    def _finished(self, name: str) -> None:
        """What follows behind a node that put out `name`: quantisers, and the shift put back."""
        if name in self.cut:
            self._restored(name, self._raw(name), self._shift(self.moved[self.cut[name]]))
        elif name in self.grids:
            self._quantise(name)
        elif name in self.summands:
            self._restored(name, f"{name}{MOVED}", self.summands[name])
        elif name in self.moved:  # ahead of a quantiser nothing has cut at zero yet
            shift = self._shift(self.moved[name])
            signed = self._restored(f"{name}:signed", f"{name}{MOVED}", shift)
            self._add("Relu", [signed], name, name=f"{name}{RESTORED}")

    def _quantise(self, name: str) -> None:
        if name not in self.moved:
            self._pair(name, f"{name}:float", name)
            return
        self._pair(name, f"{name}:float", f"{name}{MOVED}")
        self._restored(name, f"{name}{MOVED}", self._shift(self.moved[name]))

    def _taken_in(self, node: onnx.NodeProto) -> None:
        """A ReLU that the quantiser behind it takes in. In front of a concatenation it stays for
        its name's sake, behind the shift put back."""
        (name,) = node.output
        if name in self.grids:
            self._quantise(name)
        else:
            self.nodes.append(node)

    def _shift(self, tensor: str) -> float:
        """How far down the values of a quantised tensor are stored; 0 for none."""
        return self.grids[tensor].shift if tensor else 0.0

    def _restored(self, name: str, moved: str, shift: float) -> str:
        """`name`: what is `moved`, with the shift put back."""
        constant = self._constant(f"{name}:shift", np.float32(shift))
        return self._add("Add", [moved, constant], name, name=f"{name}{RESTORED}")

    def _moved_bias(self, node: onnx.NodeProto) -> None:
        """The bias of a convolution that stays float."""
        del node.input[2:]
        bias = self.biases[node.name].astype(np.float32)
        node.input.append(self._constant(f"{node.name}.bias", bias))

    def _pair(self, tensor: str, source: str, result: str) -> None:
        """source → QuantizeLinear → DequantizeLinear → result, on the grid of `tensor`."""
        scale, zero = self._grid(tensor)
        integers = f"{tensor}:{self.grids[tensor].dtype}"
        self._add("QuantizeLinear", [source, scale, zero], integers)
        self._add("DequantizeLinear", [integers, scale, zero], result)

    def _grid(self, tensor: str) -> tuple[str, str]:
        """Names of scale and zero point of a quantised activation."""
        grid = self.grids[tensor]
        zero = 0 if tensor in self.moved else grid.zero_point
        return (
            self._constant(f"{tensor}:scale", np.float32(grid.scale)),
            self._constant(f"{tensor}:zero_point", np.array(zero, grid.dtype)),
        )

    def _cut(self, node: onnx.NodeProto) -> None:
        """A ReLU on one grid: max(q, zero point), on the integers.

        Where what it reads has no quantiser it gets one here, on the grid of the output: cutting at
        zero and rounding may change places.
        """
        (name,) = node.output
        source, dtype = self._data(node), self.grids[name].dtype
        scale, zero = self._grid(name)
        integers, cut = f"{source}:{dtype}", f"{name}:{dtype}"
        if source not in self.grids:
            self._add("QuantizeLinear", [source, scale, zero], integers)
        self._add("Clip", [integers, zero], cut, name=node.name)
        self._add("DequantizeLinear", [cut, scale, zero], name)

    def _weighted(self, node: onnx.NodeProto) -> None:
        """A convolution or linear layer with its weights, and maybe its bias, in integers."""
        linear = node.op_type == "Gemm" and self.linear_form == "MatMul"
        grid = self.weights[node.name]
        bias = self.biases.get(node.name)
        integers = np.ascontiguousarray(grid.integers.T) if linear else grid.integers
        axis = integers.ndim - 1 if linear else 0
        name = f"{node.name}.weight"
        weight = self._dequantised(name, integers, grid.scales, axis)
        if linear:
            result = node.output[0]
            product = f"{node.name}:product" if bias is not None else result
            matmul = helper.make_node("MatMul", [node.input[0], weight], [product], node.name)
            self.nodes.append(matmul)
            if bias is not None:
                shift = self._constant(f"{node.name}.bias", bias.astype(np.float32))
                self._add("Add", [product, shift], result, name=f"{node.name}.bias_add")
            return
        inputs = [node.input[0], weight]
        if bias is not None and self.bias_form == "int32":
            steps, scales = quantised_bias(bias, self.grids[self._data(node)].scale, grid.scales)
            inputs.append(self._dequantised(f"{node.name}.bias", steps, scales, 0))
        elif bias is not None:
            inputs.append(self._constant(f"{node.name}.bias", bias.astype(np.float32)))
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        del copy.input[:]
        copy.input.extend(inputs)
        self.nodes.append(copy)

    def _product(self, node: onnx.NodeProto) -> None:
        """A 1×1 convolution as a product of integers, pixels by channels, with a float result.

        ONNX Runtime makes one kernel of MatMulInteger, Cast, Mul and Add, but only where the scales
        are a product of two that it has not multiplied itself: it computes with constants first,
        and stops at DequantizeLinear. So the weights' scales are written as that of ones.
        """
        grid, bias, name = self.weights[node.name], self.biases.get(node.name), node.name
        scale, zero = self._grid(self._data(node))
        columns = np.ascontiguousarray(grid.integers[:, :, 0, 0].T)
        weight = self._constant(f"{name}.weight:{columns.dtype}", columns)
        ones = np.ones(len(grid.scales), np.int8)
        steps = self._dequantised(f"{name}.weight:steps", ones, grid.scales)
        scales = self._add("Mul", [scale, steps], f"{name}.scales")
        # from the float tensor and back, which is a move of bytes in the end: what read the bytes
        # themselves would leave a DequantizeLinear behind that nobody reads, and that is computed
        rows = self._add("Transpose", [node.input[0]], f"{name}:rows", perm=[0, 2, 3, 1])
        rows = self._add("QuantizeLinear", [rows, scale, zero], f"{name}:rows:integers")
        sums = self._add("MatMulInteger", [rows, weight, zero], f"{name}:sums", name=name)
        floats = self._add("Cast", [sums], f"{name}:cast", to=onnx.TensorProto.FLOAT)
        floats = self._add("Mul", [floats, scales], f"{name}:product")
        if bias is not None:
            shift = self._constant(f"{name}.bias", bias.astype(np.float32))
            floats = self._add("Add", [floats, shift], f"{name}:sum")
        self._add("Transpose", [floats], node.output[0], perm=[0, 3, 1, 2])

    def _factors(self, node: onnx.NodeProto) -> None:
        """Constant factors, on the grid that holds them exactly."""
        for index, name in enumerate(node.input):
            if name in self.initialisers:
                values = numpy_helper.to_array(self.initialisers[name])
                grid = exact_grid(values)
                assert grid is not None, f"the plan has '{node.name}', whose factors are on no grid"
                scale, integers = np.float32(grid.scale), grid.quantise(values)
                node.input[index] = self._dequantised(name, integers, scale)

    def _data(self, node: onnx.NodeProto) -> str:
        """The activation a node reads first, by its own name also where it is the graph's input."""
        return str(node.input[0]).removesuffix(":quantised")

    def _dequantised(
        self,
        name: str,
        integers: NDArray[np.generic],
        scales: NDArray[np.float32] | np.float32,
        axis: int = 0,
    ) -> str:
        """Integers stored in the graph, and the name of the float tensor made of them."""
        stored = self._constant(f"{name}:{integers.dtype.name}", integers)
        scale = self._constant(f"{name}:scale", scales)
        zero = self._constant(f"{name}:zero_point", np.zeros(scales.shape, integers.dtype))
        return self._add(
            "DequantizeLinear", [stored, scale, zero], f"{name}:dequantised", axis=axis
        )

    def _constant(self, name: str, values: NDArray[np.generic] | np.generic) -> str:
        self.initialisers[name] = numpy_helper.from_array(np.asarray(values), name)
        return name

    def _add(
        self, op: str, inputs: list[str], output: str, *, name: str = "", **attributes: Any
    ) -> str:
        self.nodes.append(
            helper.make_node(op, inputs, [output], name or f"{output}.{op}", **attributes)
        )
        return output
