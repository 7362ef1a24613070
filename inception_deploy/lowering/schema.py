"""Which inputs and outputs of a node can take another float type: the ONNX schemas say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx.defs import OpSchema

from inception_deploy.errors import StageError

__all__ = ["FLOAT", "Slots", "captured", "element_types", "infer", "slots"]

FLOAT = onnx.TensorProto.FLOAT

_TYPE_STRINGS: Mapping[int, str] = {
    onnx.TensorProto.FLOAT16: "tensor(float16)",
    onnx.TensorProto.BFLOAT16: "tensor(bfloat16)",
}


@dataclass(frozen=True)
class Slots:
    """Positions of a node's inputs and outputs that change type together with the node."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def infer(model: onnx.ModelProto, *, stage: str) -> onnx.ModelProto:
    """`model` with the type and shape of every tensor, checked strictly.

    Raises:
        StageError: the graph is not valid ONNX; `stage` is named.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(
            model, check_type=True, strict_mode=True, data_prop=True
        )
        onnx.checker.check_model(inferred, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = " ".join(str(error).split())[:200]
        raise StageError(f"{stage}: the graph is not valid ONNX: {reason}") from error
    return inferred


def element_types(graph: onnx.GraphProto) -> dict[str, int]:
    """Tensor name → element type, for every tensor whose type is known."""
    types = {
        info.name: info.type.tensor_type.elem_type
        for info in (*graph.input, *graph.value_info, *graph.output)
        if info.type.HasField("tensor_type")
    }
    types.update({tensor.name: tensor.data_type for tensor in graph.initializer})
    return types


def captured(node: onnx.NodeProto) -> Iterator[str]:
    """Names of outer tensors that the node's subgraphs read."""
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            inside = {i.name for i in (*graph.input, *graph.initializer)}
            inside |= {name for inner in graph.node for name in inner.output}
            for inner in graph.node:
                for name in (*inner.input, *captured(inner)):
                    if name and name not in inside:
                        yield name


def slots(
    node: onnx.NodeProto, types: Mapping[str, int], opsets: Mapping[str, int], low: int
) -> Slots | str | None:
    """What would change if `node` ran in the element type `low`; a reason where it cannot.

    A node without float tensors gives None. Inputs that the schema ties to float32 (the `scales` of
    Resize) stay as they are; an output must share its type with a changed input, or nobody
    could tell its type.

    Args:
        types: tensor name → element type, of an FP32 graph.
        opsets: domain → version.
        low: `TensorProto.FLOAT16` or `BFLOAT16`.
    """
    if any(attribute.g.node or attribute.graphs for attribute in node.attribute):
        return f"{node.op_type} holds subgraphs"
    inputs = [i for i, name in enumerate(node.input) if types.get(name) == FLOAT]
    outputs = [i for i, name in enumerate(node.output) if types.get(name) == FLOAT]
    for name in filter(None, (*node.input, *node.output)):
        if name not in types:
            return f"the type of '{name}' is not known"
    if not inputs and not outputs:
        return None
    domain = "" if node.domain == "ai.onnx" else node.domain
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(domain, 1), domain)
    except onnx.defs.SchemaError:
        return f"{domain or 'ai.onnx'}.{node.op_type} is not a standard operator"
    if node.op_type == "Cast":  # its attribute says the output's type, and takes any
        return Slots(tuple(inputs), tuple(outputs))

    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    wanted = _TYPE_STRINGS[low]
    changing = {
        i: formal.type_str
        for i in inputs
        if (formal := _formal(schema.inputs, i)) and wanted in allowed.get(formal.type_str, ())
    }
    if not changing:
        return f"{node.op_type} takes no {wanted[7:-1]}"
    for i in outputs:
        formal = _formal(schema.outputs, i)
        if formal is None or formal.type_str not in changing.values():
            return f"the type of {node.op_type}'s output does not follow its inputs"
    return Slots(tuple(changing), tuple(outputs))


def _formal(
    formals: Sequence[OpSchema.FormalParameter], index: int
) -> OpSchema.FormalParameter | None:
    """The declared parameter at `index`; a variadic last one covers the rest."""
    if index < len(formals):
        return formals[index]
    variadic = OpSchema.FormalParameterOption.Variadic
    return formals[-1] if formals and formals[-1].option == variadic else None
