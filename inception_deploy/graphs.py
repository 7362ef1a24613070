"""Shared work on ONNX graphs: opening one for editing, closing it again, and asking about tensors.

onnx-graphsurgeon edits graphs comfortably, but it forgets the model around them (metadata,
documentation) and shares weights with the model it came from. `open_graph` and `close_graph` are
the only way in and out, so that no rewrite has to remember that. Between them, and for checks and
shape inference, weights stay where they are (`outline.py`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx.shape_inference import InferenceError

from inception_deploy.errors import StageError
from inception_deploy.outline import (
    Map,
    as_inputs,
    attach_weights,
    mapped,
    outlined,
    put_back,
    weights_aside,
)

__all__ = [
    "METADATA_PREFIX",
    "absorb",
    "attribute",
    "close_graph",
    "constant_values",
    "fits_float32",
    "fresh_name",
    "is_constant",
    "is_op",
    "is_output",
    "map_constant",
    "metadata",
    "numbered",
    "open_graph",
    "producer",
    "release",
    "replace_constant",
    "set_metadata",
    "tensor_names",
    "used_elsewhere",
]

BATCH = "batch"

METADATA_PREFIX = "inception_deploy."
"""Of the keys under which a graph's metadata says what a reader has to know."""


def open_graph(model: onnx.ModelProto) -> gs.Graph:
    """An editable graph of `model`, with a type and shape for every tensor.

    `model` is not changed, but weights are read from it when they are needed.

    Raises:
        StageError: the model is not valid, or an initialiser is a graph input too, so that its
            value is not known.
    """
    overridable = {i.name for i in model.graph.input} & {i.name for i in model.graph.initializer}
    if overridable:
        raise StageError(
            f"initialiser '{min(overridable)}' is also a graph input and can be overridden at run "
            "time; export with keep_initializers_as_inputs=False"
        )
    graph = gs.import_onnx(_inferred(outlined(model), "opening the graph"))
    attach_weights(graph, model)
    return graph


def close_graph(graph: gs.Graph, like: onnx.ModelProto, *, stage: str) -> onnx.ModelProto:
    """The edited graph as a valid model, with everything around the graph taken from `like`.

    Unused nodes and initialisers are removed, nodes sorted, shapes inferred anew, and the result is
    checked: unique node names, onnx.checker, a known type and shape for every tensor, and a free
    first dimension `batch` of every input and output that had one in `like`.

    Args:
        like: gives IR version, opsets, metadata, producer, documentation and functions.
        stage: named in messages.

    Raises:
        StageError: the graph is not valid.
    """
    try:
        graph.cleanup().toposort()
    except Exception as error:  # GraphSurgeon raises anything on a malformed graph
        raise StageError(f"{stage}: the graph cannot be sorted: {_line(error)}") from error
    model = onnx.ModelProto(
        ir_version=like.ir_version,
        opset_import=like.opset_import,
        producer_name=like.producer_name,
        producer_version=like.producer_version,
        domain=like.domain,
        model_version=like.model_version,
        doc_string=like.doc_string,
        metadata_props=like.metadata_props,
        functions=like.functions,
    )
    with weights_aside(graph) as weights:
        model.graph.CopyFrom(gs.export_onnx(graph).graph)
    order = as_inputs(model, weights)
    del model.graph.value_info[:]  # shapes of before the rewrite
    model = _checked(model, like, stage)
    put_back(model, weights, order)
    return model


def _checked(model: onnx.ModelProto, like: onnx.ModelProto, stage: str) -> onnx.ModelProto:
    names = [node.name for node in model.graph.node]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise StageError(f"{stage}: two nodes are named '{twice}'; names must be unique")
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise StageError(f"{stage}: the graph is not valid ONNX: {_line(error)}") from error
    model = _inferred(model, stage)
    known = {v.name: v for v in (*model.graph.value_info, *model.graph.output)}
    for node in model.graph.node:
        for name in filter(None, node.output):
            if name not in known or not known[name].type.tensor_type.HasField("shape"):
                raise StageError(f"{stage}: no shape can be inferred for '{name}' ({node.op_type})")

    free = {v.name for v in (*like.graph.input, *like.graph.output) if _is_free(v)}
    for value in (*model.graph.input, *model.graph.output):
        if value.name in free and not _is_free(value):
            raise StageError(f"{stage}: the first dimension of '{value.name}' is no longer free")
    return model


def _inferred(model: onnx.ModelProto, stage: str) -> onnx.ModelProto:
    """A copy of `model` that knows the type and shape of every tensor they can be inferred for."""
    try:
        return onnx.shape_inference.infer_shapes(
            model, check_type=True, strict_mode=True, data_prop=True
        )
    except InferenceError as error:
        raise StageError(f"{stage}: the shapes do not fit: {_line(error)}") from error


def _is_free(value: onnx.ValueInfoProto) -> bool:
    dims = value.type.tensor_type.shape.dim
    return len(dims) > 0 and dims[0].dim_param == BATCH


def _line(error: Exception) -> str:
    """The first line of a library's message that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    """What the metadata of `model` says, by key."""
    return {entry.key: entry.value for entry in model.metadata_props}


def set_metadata(model: onnx.ModelProto, entries: dict[str, str]) -> None:
    """Replace the metadata of `model` (in place); keys are sorted, so that order says nothing."""
    onnx.helper.set_model_props(model, dict(sorted(entries.items())))


def attribute(node: onnx.NodeProto, name: str) -> Any:
    """An attribute's value; None where the node does not state it."""
    found = (a for a in node.attribute if a.name == name)
    return next(map(onnx.helper.get_attribute_value, found), None)


def tensor_names(model: onnx.ModelProto) -> set[str]:
    """Names of all tensors that nodes of `model` put out."""
    return {name for node in model.graph.node for name in node.output if name}


def is_op(node: gs.Node, *types: str) -> bool:
    """Whether `node` is one of the ONNX operators `types`, and not a namesake of another domain."""
    return node.op in types and node.domain in (None, "", "ai.onnx")


def producer(tensor: gs.Tensor) -> gs.Node | None:
    """The node that puts out `tensor`; None for graph inputs and constants."""
    return tensor.inputs[0] if tensor.inputs else None


def is_constant(tensor: gs.Tensor) -> bool:
    """Whether the values of `tensor` are known; asking for its type and shape reads none."""
    return isinstance(tensor, gs.Constant)


def constant_values(tensor: gs.Tensor) -> NDArray[Any] | None:
    """The values of a constant; None where they are only known at run time."""
    return np.asarray(tensor.values) if is_constant(tensor) else None


def is_output(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    """Whether `tensor` leaves the graph."""
    return any(tensor is output for output in graph.outputs)


def used_elsewhere(graph: gs.Graph, tensor: gs.Tensor, consumer: gs.Node) -> str | None:
    """Who needs `tensor` besides one input of `consumer`, for a refusal; None where nobody does."""
    if is_output(graph, tensor):
        return "is an output of the graph or of a block"
    others = [node for node in tensor.outputs if node is not consumer]
    if others:
        return f"is used by '{others[0].name}' too"
    if len(tensor.outputs) > 1:
        return f"is used twice by '{consumer.name}'"
    return None


def fits_float32(values: NDArray[Any]) -> bool:
    """Whether `values` stay finite when rounded to float32."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite(values.astype(np.float32, copy=False)).all())


def fresh_name(graph: gs.Graph, wanted: str) -> str:
    """`wanted`, or with the first number appended under which no tensor is known yet."""
    taken = {tensor.name for tensor in (*graph.inputs, *graph.outputs)}
    for node in graph.nodes:  # a third of the time of graph.tensors(), and asked hundreds of times
        taken.update([tensor.name for tensor in node.inputs])
        taken.update([tensor.name for tensor in node.outputs])
    return numbered(wanted, taken)


def numbered(wanted: str, taken: Collection[str]) -> str:
    """`wanted`, or with the first number appended that makes it none of `taken`."""
    name, number = wanted, 0
    while name in taken:
        number += 1
        name = f"{wanted}_{number}"
    return name


def replace_constant(node: gs.Node, index: int, values: NDArray[Any]) -> None:
    """Give input `index` of `node`, a constant nobody else uses, other values of its own dtype."""
    old = node.inputs[index]
    node.inputs[index] = gs.Constant(old.name, np.ascontiguousarray(values, old.dtype))
    release(old)


def map_constant(node: gs.Node, index: int, function: Map) -> None:
    """Give input `index` of `node`, a constant nobody else uses, `function` of its values.

    Computed late, see `outline.mapped`.
    """
    old = node.inputs[index]
    node.inputs[index] = mapped(old, function)
    release(old)


def release(tensor: gs.Tensor) -> None:
    """Let go of the values of a constant that nobody uses any more.

    A graph is full of cycles: it would keep them until the collector comes.
    """
    if is_constant(tensor) and not tensor.outputs:
        tensor.values = np.empty(0, tensor.dtype)


def absorb(node: gs.Node, successor: gs.Node) -> None:
    """Let `node` put out what `successor` did, under its name; `successor` is cut off."""
    output = successor.outputs[0]
    successor.outputs.clear()
    successor.inputs.clear()
    node.outputs.clear()
    node.outputs.append(output)
