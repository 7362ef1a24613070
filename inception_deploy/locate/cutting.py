"""A graph cut at named tensors: any part of it, as a graph of its own.

Tensors keep their names from the export to the engine's graph, so two graphs of one network can be
cut at the same places. What lies between the cuts is a piece: it reads cut tensors, and puts out
one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx
from onnx import helper

from inception_deploy.errors import StageError
from inception_deploy.outline import outlined

__all__ = ["OWN", "CutGraph", "captured_names", "shared_tensors"]

OWN = "//own"
"""Appended to a tensor that a piece puts out, so that it is not the one other pieces read."""

_FLOAT = onnx.TensorProto.FLOAT


@dataclass(frozen=True)
class CutGraph:
    """A graph of which parts are taken. All its floating tensors are float32.

    Args:
        model: types and shapes of inner tensors are inferred where they are missing.
        stage: named in messages.
    """

    model: onnx.ModelProto
    stage: str

    @cached_property
    def values(self) -> Mapping[str, onnx.ValueInfoProto]:
        """Type and shape of inputs, outputs and what lies between, as they follow from the nodes.

        Raises `StageError` where shapes do not fit each other.
        """
        bare = outlined(self.model)
        del bare.graph.value_info[:]  # what a graph says of itself may be what is wrong with it
        try:
            graph = onnx.shape_inference.infer_shapes(bare, strict_mode=True, data_prop=True).graph
        except onnx.shape_inference.InferenceError as error:
            reason = " ".join(str(error).split())[:200]
            raise StageError(f"{self.stage}: the shapes do not fit: {reason}") from error
        return {v.name: v for v in (*graph.input, *graph.value_info, *graph.output)}

    @cached_property
    def writers(self) -> Mapping[str, int]:
        """Tensor → index of the node that puts it out."""
        return {
            name: index
            for index, node in enumerate(self.model.graph.node)
            for name in node.output
            if name
        }

    @cached_property
    def _weights(self) -> Mapping[str, onnx.TensorProto]:
        return {tensor.name: tensor for tensor in self.model.graph.initializer}

    @property
    def feed(self) -> str:
        """The graph's one input."""
        return str(self.model.graph.input[0].name)

    @cached_property
    def floats(self) -> tuple[str, ...]:
        """float32 tensors that depend on the input, in the order in which they are computed."""
        alive = {self.feed}
        found = []
        for node in self.model.graph.node:
            if alive.intersection(node.input):
                alive.update(node.output)
                found += [n for n in node.output if self._is_float(n)]
        return tuple(found)

    def _is_float(self, name: str) -> bool:
        value = self.values.get(name)
        return value is not None and value.type.tensor_type.elem_type == _FLOAT

    def elements(self, tensor: str) -> int:
        """Elements per image; free dimensions beyond the batch count as one."""
        dims = self.values[tensor].type.tensor_type.shape.dim[1:]
        return math.prod(d.dim_value or 1 for d in dims)

    def dims(self, tensor: str) -> tuple[int | str, ...]:
        """Shape; free dimensions are their names."""
        return tuple(
            d.dim_value if d.HasField("dim_value") else d.dim_param or "?"
            for d in self.values[tensor].type.tensor_type.shape.dim
        )

    def node_of(self, tensor: str) -> onnx.NodeProto:
        """The node that puts `tensor` out."""
        node: onnx.NodeProto = self.model.graph.node[self.writers[tensor]]
        return node

    def piece(self, tensor: str, cuts: Collection[str]) -> tuple[int, ...]:
        """Indices of the nodes between the `cuts` and `tensor`, which may be one itself."""
        found: set[int] = set()
        waiting = [tensor]
        while waiting:
            name = waiting.pop()
            index = self.writers.get(name)
            if index is None or index in found or (name in cuts and name != tensor):
                continue
            found.add(index)
            waiting.extend(filter(None, self.model.graph.node[index].input))
        return tuple(sorted(found))

    def reads(self, nodes: Collection[int], cuts: Collection[str]) -> Iterator[str]:
        """Cut tensors and the graph's input that `nodes` read, each once."""
        seen: set[str] = set()
        for index in sorted(nodes):
            for name in self.model.graph.node[index].input:
                if name not in seen and (name in cuts or name == self.feed):
                    seen.add(name)
                    yield name

    def chain(self, tensors: Sequence[str], given: Collection[str]) -> onnx.ModelProto:
        """The part that computes `tensors` from those `given`, one through the other."""
        nodes: set[int] = set()
        for tensor in tensors:
            nodes.update(self.piece(tensor, given))
        return self._part(nodes, list(self.reads(nodes, given)), {t: t for t in tensors})

    def alone(self, tensors: Sequence[str], cuts: Collection[str]) -> onnx.ModelProto:
        """The pieces of `tensors` side by side: each reads cuts, none reads another's output.

        What they put out is called `OWN`.
        """
        nodes: set[int] = set()
        for tensor in tensors:
            nodes.update(self.piece(tensor, cuts))
        return self._part(nodes, list(self.reads(nodes, cuts)), {t: t + OWN for t in tensors})

    def _part(
        self, chosen: Collection[int], inputs: Sequence[str], outputs: Mapping[str, str]
    ) -> onnx.ModelProto:
        part = onnx.ModelProto(
            ir_version=self.model.ir_version,
            opset_import=self.model.opset_import,
            functions=self.model.functions,
        )
        part.graph.name = "part"
        used: set[str] = set()
        for index in sorted(chosen):
            node = part.graph.node.add()
            node.CopyFrom(self.model.graph.node[index])
            for position, name in enumerate(node.output):
                # a node of several outputs may put out what this part is given
                spare = f"{name}//spare" if name in inputs else name
                node.output[position] = outputs.get(name, spare)
            used.update(node.input)
            used.update(captured_names(node))
        for name in inputs:
            part.graph.input.append(self._value(name, name))
        for name, called in outputs.items():
            part.graph.output.append(self._value(name, called))
        part.graph.initializer.extend(t for name, t in self._weights.items() if name in used)
        return part

    def _value(self, name: str, called: str) -> onnx.ValueInfoProto:
        """Type and shape of a tensor, its first dimension left free."""
        known = self.values[name].type.tensor_type
        dims = [d.dim_value or None for d in known.shape.dim]
        if dims:
            dims[0] = None
        return helper.make_tensor_value_info(called, known.elem_type, dims)


def shared_tensors(before: CutGraph, after: CutGraph) -> tuple[str, ...]:
    """Tensors that both graphs compute under one name, in the order of `after`.

    Tensors of another shape are left out: they are compared by shape only.
    """
    there = set(before.floats)
    return tuple(n for n in after.floats if n in there and before.dims(n) == after.dims(n))


def captured_names(node: onnx.NodeProto) -> Iterator[str]:
    """Names that subgraphs of `node` read, as far as they may be the outer graph's."""
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from inner.input
                yield from captured_names(inner)
