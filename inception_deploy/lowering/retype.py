"""Write a graph in two float types: casts where they meet, weights in the type of their reader.

The result is strongly typed: each node sees its inputs in the one type it runs in, so that a parser
without precision flags (TensorRT 11) takes the graph as it stands. A tensor is cast at most once
per type, and a cast never follows a cast. Tensors keep their names, in whichever type they are
computed; only where the graph's output must have another type does the cast take over the name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from inception_deploy.artifact import Applied
from inception_deploy.lowering.schema import FLOAT, Slots, captured, element_types

__all__ = ["hoist_constants", "retype"]

_SUFFIX: Mapping[int, str] = {
    FLOAT: "fp32",
    onnx.TensorProto.FLOAT16: "fp16",
    onnx.TensorProto.BFLOAT16: "bf16",
}


def hoist_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` whose Constant nodes holding a tensor are initialisers of the same name."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = []
    for node in copy.graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            tensor = copy.graph.initializer.add()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
        else:
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del copy.graph.node[:]
    copy.graph.node.extend(kept)
    return copy


def retype(
    model: onnx.ModelProto, changing: Mapping[int, Slots], *, low: int, fp32_io: bool = True
) -> tuple[onnx.ModelProto, tuple[Applied, ...]]:
    """A copy of `model` in which some nodes run in the element type `low`.

    Args:
        model: FP32, shapes inferred, no float Constant nodes, no initialiser that is an input too.
        changing: node index → what changes there (`schema.slots`); all others stay FP32.
        low: `TensorProto.FLOAT16` or `BFLOAT16`.
        fp32_io: whether float graph inputs and outputs stay FP32, or become `low` too.

    Returns:
        The graph, without the shapes of inner tensors, and its casts by name.
    """
    return _Retyping(model, changing, low, low if not fp32_io else FLOAT).result()


class _Retyping:
    """One run of `retype`: the tensors' types, and the casts made so far."""

    def __init__(
        self, model: onnx.ModelProto, changing: Mapping[int, Slots], low: int, io_type: int
    ) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.graph = self.model.graph
        self.changing = changing
        self.low = low
        self.io_type = io_type
        types = element_types(model.graph)
        self.weights = {t.name: t for t in model.graph.initializer if t.data_type == FLOAT}
        self.floats = {name for name, kind in types.items() if kind == FLOAT}
        self.outputs = {o.name for o in model.graph.output} & self.floats
        self.inputs = {i.name for i in model.graph.input} & self.floats
        self.taken = {*types, *(name for node in model.graph.node for name in node.output)}
        self.names: dict[tuple[str, int], str] = {}  # (tensor, type) → its name in that type
        self.sources: dict[str, str] = {}  # output of a Cast → what it was cast from
        self.demand = self._demand()
        self.casts: list[Applied] = []

    def result(self) -> tuple[onnx.ModelProto, tuple[Applied, ...]]:
        nodes = list(self._lead_in())
        for index, node in enumerate(self.graph.node):
            node = onnx.NodeProto.FromString(node.SerializeToString())
            nodes += self._node(index, node)
        self._write_weights()
        for info in (*self.graph.input, *self.graph.output):
            if info.name in self.floats:
                info.type.tensor_type.elem_type = self.io_type
        del self.graph.value_info[:]  # inferred anew by whoever closes the graph
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        return self.model, tuple(self.casts)

    def _wanted(self, index: int, node: onnx.NodeProto) -> Iterator[tuple[str, int]]:
        """The float tensors a node reads, each with the type it wants."""
        slots = self.changing.get(index)
        for position, name in enumerate(node.input):
            if name in self.floats:
                yield name, self.low if slots and position in slots.inputs else FLOAT
        for name in captured(node):
            if name in self.floats:
                yield name, FLOAT

    def _demand(self) -> dict[str, set[int]]:
        """In which types each float tensor is read."""
        demand: dict[str, set[int]] = {name: set() for name in self.floats}
        for index, node in enumerate(self.graph.node):
            for name, kind in self._wanted(index, node):
                demand[name].add(kind)
        for name in self.outputs:
            demand[name].add(self.io_type)
        return demand

    def _lead_in(self) -> Iterator[onnx.NodeProto]:
        """Names of weights in each type, and the casts of graph inputs and of returned weights."""
        for info in self.graph.input:
            if info.name in self.floats:
                self.names[info.name, self.io_type] = info.name
                yield from self._cast(info.name, self.io_type)
        for name in self.weights:
            kinds = self.demand[name]
            if name in self.outputs:  # a cast must not take over the name of a weight
                kinds.add(self.io_type)
            own = self.io_type if name in self.outputs else FLOAT if FLOAT in kinds else self.low
            for kind in kinds:
                self.names[name, kind] = (
                    name if kind == own else self._fresh(f"{name}.{_SUFFIX[kind]}")
                )

    def _node(self, index: int, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        slots = self.changing.get(index, Slots((), ()))
        for position, name in enumerate(node.input):
            if name in self.floats:
                kind = self.low if position in slots.inputs else FLOAT
                node.input[position] = self.names[name, kind]
        in_fp32 = {tensor: own for (tensor, kind), own in self.names.items() if kind == FLOAT}
        _rename_captured(node, in_fp32)
        for position, name in enumerate(node.output):
            if name not in self.floats:
                continue
            kind = self.low if position in slots.outputs else FLOAT
            own = name
            if name in self.outputs and kind != self.io_type:
                own = self._fresh(f"{name}.{_SUFFIX[kind]}")
            node.output[position] = own
            self.names[name, kind] = own
            if node.op_type == "Cast":
                self.sources[own] = node.input[0]
                for attribute in node.attribute:
                    if attribute.name == "to":
                        attribute.i = kind
        yield node
        for position, name in enumerate(self.model.graph.node[index].output):
            if name in self.floats:
                kind = self.low if position in slots.outputs else FLOAT
                yield from self._cast(name, kind)

    def _cast(self, name: str, have: int) -> Iterator[onnx.NodeProto]:
        """The cast of tensor `name`, which is there in type `have`, where another one is read."""
        for kind in self.demand[name] - {have}:
            takes_over = name in self.outputs and kind == self.io_type
            target = name if takes_over else self._fresh(f"{name}.{_SUFFIX[kind]}")
            self.names[name, kind] = target
            source = self.names[name, have]
            label = f"{name}.to_{_SUFFIX[kind]}"
            self.casts.append(Applied("cast", label, f"'{name}' → {_SUFFIX[kind]}"))
            yield helper.make_node(
                "Cast", [self.sources.get(source, source)], [target], name=label, to=kind
            )

    def _write_weights(self) -> None:
        others = [t for t in self.model.graph.initializer if t.name not in self.weights]
        kept = [onnx.TensorProto.FromString(t.SerializeToString()) for t in others]
        for name, tensor in self.weights.items():
            values = numpy_helper.to_array(tensor)
            for kind in sorted(self.demand[name]):
                dtype = helper.tensor_dtype_to_np_dtype(kind)
                with np.errstate(over="ignore"):  # readers of a huge weight in `low` are refused
                    kept.append(
                        numpy_helper.from_array(values.astype(dtype), self.names[name, kind])
                    )
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)

    def _fresh(self, wanted: str) -> str:
        name, number = wanted, 0
        while name in self.taken:
            number += 1
            name = f"{wanted}_{number}"
        self.taken.add(name)
        return name


def _rename_captured(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Let the subgraphs of `node` read outer tensors under their new names, in place."""
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                for position, name in enumerate(inner.input):
                    inner.input[position] = names.get(name, name)
                _rename_captured(inner, names)
