"""Which channels of a graph can be scaled, and which of them only together.

A convolution takes any factor of a channel that it reads out of its weights again, and gives any
factor to what it puts out. What stands in between passes a positive factor on: ReLUs, pools,
products with constants. A concatenation lines channels up; a sum wants one factor on both sides.
Everything else wants channels as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import networkx as nx
import numpy as np
import onnx
from numpy.typing import NDArray

from inception_deploy.graphs import attribute
from inception_deploy.outline import outlined

__all__ = ["FIXED", "Groups", "absorbing", "channel_groups"]

Groups = NDArray[np.int64]
"""Of one tensor: the group of each channel, (C,)."""

FIXED = 0
"""The group of channels that keep the factor 1."""

_ALIKE = frozenset(
    {
        *("Relu", "LeakyRelu", "Identity", "Dropout", "Flatten"),
        *("Mul", "Div"),
        *("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"),
    }
)
"""Put out channel by channel what they read, times any positive factor that is read with it."""


def absorbing(model: onnx.ModelProto) -> Mapping[str, onnx.NodeProto]:
    """Name → node, of convolutions and linear layers whose weights and biases are initialisers."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return {
        node.name: node
        for node in model.graph.node
        if node.op_type in ("Conv", "Gemm")
        and node.input[0] not in stored
        and stored.issuperset(filter(None, node.input[1:]))
        and not attribute(node, "transA")
    }


def channel_groups(model: onnx.ModelProto) -> Mapping[str, Groups]:
    """Activation → the groups of its channels, for all that have a known number of channels.

    Channels of one group have one factor in every scaling that leaves the outputs as they are.

    Args:
        model: its inputs and outputs are `FIXED`.
    """
    return _Walk(model).run()


class _Walk:
    """One way through a graph: a variable for each channel that a convolution puts out."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.absorbing = absorbing(model)
        inferred = onnx.shape_inference.infer_shapes(outlined(model)).graph
        self.channels = {
            value.name: value.type.tensor_type.shape.dim[1].dim_value
            for value in (*inferred.input, *inferred.value_info, *inferred.output)
            if len(value.type.tensor_type.shape.dim) > 1
        }
        self.shapes = {
            value.name: [d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim]
            for value in inferred.value_info
        }
        self.found: dict[str, Groups] = {}
        self.count = 1  # `FIXED` is the first
        self.equal: list[tuple[Groups, Groups]] = []

    def run(self) -> dict[str, Groups]:
        stored = {tensor.name for tensor in self.graph.initializer}
        for value in self.graph.input:
            if value.name not in stored:
                self._fix(value.name)
        for node in self.graph.node:
            self._take(node)
        for value in self.graph.output:
            self._pin(value.name)
        return self._joined()

    def _take(self, node: onnx.NodeProto) -> None:
        read = [name for name in node.input if name in self.found]
        if not read:
            return  # computes constants
        output = node.output[0]
        groups, count = self.found[read[0]], self.channels.get(output, 0)
        if node.name in self.absorbing:
            if node.op_type == "Conv" and count:
                self.found[output] = np.arange(self.count, self.count + count)
                self.count += count
            else:
                self._fix(output)
        elif self._passes(node, read) and count == len(groups):
            self.found[output] = groups
        elif self._sums(node, read):
            self.equal.append((groups, self.found[read[1]]))
            self.found[output] = groups
        elif self._concatenates(node, read) and count == self._width(read):
            self.found[output] = np.concatenate([self.found[name] for name in read])
        elif node.op_type == "Split" and attribute(node, "axis") == 1:
            ends = np.cumsum([self.channels.get(name, 0) for name in node.output])
            self.found |= zip(node.output, np.split(groups, ends[:-1]), strict=True)
        else:
            for name in read:
                self._pin(name)
            for name in filter(None, node.output):
                self._fix(name)

    def _passes(self, node: onnx.NodeProto, read: Sequence[str]) -> bool:
        """Whether it puts out the one activation that it reads, channel by channel."""
        if node.op_type == "Div" and node.input[0] != read[0]:
            return False  # a constant over it
        return len(read) == 1 and node.op_type in _ALIKE

    def _sums(self, node: onnx.NodeProto, read: Sequence[str]) -> bool:
        shapes = [self.shapes.get(name) for name in read]
        return (
            node.op_type == "Add"
            and len(read) == 2
            and None not in shapes
            and shapes[0] == shapes[1]
        )

    def _concatenates(self, node: onnx.NodeProto, read: Sequence[str]) -> bool:
        whole = len(read) == len(node.input)
        return node.op_type == "Concat" and whole and attribute(node, "axis") == 1

    def _width(self, tensors: Sequence[str]) -> int:
        return sum(len(self.found[name]) for name in tensors)

    def _fix(self, name: str) -> None:
        self.found[name] = np.full(self.channels.get(name, 0), FIXED)

    def _pin(self, name: str) -> None:
        groups = self.found[name]
        self.equal.append((groups, np.full_like(groups, FIXED)))

    def _joined(self) -> dict[str, Groups]:
        links = nx.Graph()
        for left, right in self.equal:
            links.add_edges_from(zip(left.tolist(), right.tolist(), strict=True))
        named = np.arange(self.count)
        for members in nx.connected_components(links):
            named[list(members)] = min(members)  # `FIXED` where it is one of them
        return {name: named[groups] for name, groups in self.found.items()}
