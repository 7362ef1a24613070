"""How many multiply-adds a graph takes, node by node."""

from __future__ import annotations

import math

import onnx

from inception_deploy.outline import outlined

__all__ = ["macs_per_node"]

_SAME_SHAPE = ("QuantizeLinear", "DequantizeLinear", "Cast")


def macs_per_node(model: onnx.ModelProto) -> dict[str, int]:
    """Node name → multiply-adds per image, of convolutions and matrix products with weights.

    A convolution takes one per output element and weight of its filter, padding included; a product
    one per output element and row of its matrix. Weights may stand behind quantisers and casts.
    Nodes of unknown shape are left out.
    """
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    inferred = onnx.shape_inference.infer_shapes(outlined(model))
    graph = inferred.graph
    sizes: dict[str, tuple[int, ...]] = {}
    for info in (*graph.input, *graph.value_info, *graph.output):
        # a free dimension is the batch, and counts as one image
        sizes[info.name] = tuple(d.dim_value or 1 for d in info.type.tensor_type.shape.dim)
    found: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in _SAME_SHAPE and node.input[0] in shapes:
            shapes[node.output[0]] = shapes[node.input[0]]
        weight = shapes.get(node.input[1]) if len(node.input) > 1 else None
        output = sizes.get(node.output[0])
        if weight is None or output is None:
            continue
        if node.op_type == "Conv":
            work = math.prod(output) * math.prod(weight[1:])
        elif node.op_type == "Gemm":
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            work = math.prod(output) * weight[1 if transposed else 0]
        elif node.op_type == "MatMul":
            work = math.prod(output) * weight[0]
        else:
            continue
        found[node.name] = found.get(node.name, 0) + work  # nodes without a name share ""
    return found
