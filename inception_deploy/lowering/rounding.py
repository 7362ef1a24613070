"""A half-precision graph as an FP32 graph that rounds where a half-precision device would.

Engines without half-precision kernels run such a graph in FP32: ONNX Runtime's CPU provider puts
casts around each node and then removes the pairs it put there itself, so that nothing but the
weights is rounded, and an overflow stays unseen. Casts that are part of the graph are kept. So the
graph is written in FP32, and each tensor that was half precision goes through a pair of casts: sums
are FP32, as in the accumulators of a GPU, and each stored value is one that half precision holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from inception_deploy.lowering.schema import FLOAT, element_types, infer

__all__ = ["MOVES", "rounded"]

_LOW = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)

MOVES = frozenset(
    {
        "Concat",
        "Dropout",
        "Flatten",
        "Gather",
        "Identity",
        "MaxPool",
        "Relu",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
"""Operators whose outputs are values of their inputs (or zero): nothing is rounded there."""


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` in FP32, computing what its half-precision tensors would hold.

    Tensors keep their names; inputs and outputs become float32. A graph without half precision
    comes back as it is.

    Raises:
        StageError: the graph is not valid ONNX.
    """
    types = element_types(infer(model, stage="rounding").graph)
    if not any(kind in _LOW for kind in types.values()):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    nodes = list(_nodes(graph, types))
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    for info in (*graph.input, *graph.output):
        if types[info.name] in _LOW:
            info.type.tensor_type.elem_type = FLOAT
    for tensor in graph.initializer:
        if tensor.data_type in _LOW:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, str(tensor.name)))
    return infer(copy, stage="rounding")


def _nodes(graph: onnx.GraphProto, types: Mapping[str, int]) -> Iterator[onnx.NodeProto]:
    """The nodes of the FP32 graph, in order."""
    constants = {tensor.name for tensor in graph.initializer}
    renamed: dict[str, str] = {}
    for info in graph.input:
        if types[info.name] in _LOW and info.name not in constants:
            renamed[info.name] = f"{info.name}/rounded"
            yield from _pair(info.name, renamed[info.name], types[info.name])
    for original in graph.node:
        node = onnx.NodeProto.FromString(original.SerializeToString())
        node.input[:] = [renamed.get(name, name) for name in node.input]
        rounds = node.op_type not in MOVES
        if node.op_type == "Cast":  # it rounds by itself, and so needs no first half of the pair
            yield from _pair(node.input[0], node.output[0], types[node.output[0]], node.name)
            continue
        low = [n for n in node.output if rounds and types.get(n) in _LOW]
        node.output[:] = [f"{n}/exact" if n in low else n for n in node.output]
        yield node
        for name in low:
            yield from _pair(f"{name}/exact", name, types[name])


def _pair(source: str, target: str, kind: int, label: str = "") -> Iterator[onnx.NodeProto]:
    """`source` through the element type `kind` to float32 `target`."""
    label = label or f"{target}/round"
    if kind not in _LOW:
        yield helper.make_node("Cast", [source], [target], name=label, to=kind)
        return
    stored = f"{target}/stored"
    yield helper.make_node("Cast", [source], [stored], name=label, to=kind)
    yield helper.make_node("Cast", [stored], [target], name=f"{label}/back", to=FLOAT)
