"""Graphs made by hand, and what makes a graph strongly typed, for tests of lower precisions."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from inception_deploy.artifact import FloatArray
from inception_deploy.calibrate import observe
from inception_deploy.engines import ENGINES
from inception_deploy.ranges import Ranges

__all__ = [
    "CLASSIFIER",
    "Weights",
    "build",
    "noise",
    "observe_on",
    "op_types",
    "quarrels",
    "types_of",
    "useless_casts",
    "weights_of",
]

Weights: TypeAlias = Mapping[str, tuple[int, ...] | NDArray[Any]]

CLASSIFIER = """
 c = Conv<pads = [1, 1, 1, 1]>(input, w, b)
 r = Relu(c)
 pooled = GlobalAveragePool(r)
 flat = Flatten(pooled)
 output = Gemm<transB = 1>(flat, v)"""
"""A convolution and a linear layer, for `build`; weights w (c, 4, k, k), b (c,) and v (n, c)."""

FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16}


def build(
    body: str,
    weights: Weights | None = None,
    *,
    shape: str = "batch, 4, 6, 6",
    dtype: str = "float",
    outputs: Sequence[str] = ("output",),
    opset: int = 20,
) -> onnx.ModelProto:
    """A model from ONNX's textual syntax: assignments from `input`; nodes are called as their
    first output. Weights given by shape are drawn from a standard normal seeded by their name."""
    leaving = ", ".join(f"float {name}" for name in outputs)
    header = f'<ir_version: 9, opset_import: ["": {opset}, "local": 1]>'
    model = onnx.parser.parse_model(
        f"{header} g ({dtype}[{shape}] input) => ({leaving}) {{{body}}}"
    )
    for node in model.graph.node:
        node.name = f"node.{node.output[0]}"
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    for name, values in (weights or {}).items():
        if isinstance(values, tuple):
            generator = np.random.default_rng(zlib.crc32(name.encode()))
            values = generator.standard_normal(values, np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)


def noise(model: onnx.ModelProto, batch: int = 4, scale: float = 1.0, seed: int = 0) -> FloatArray:
    """Seeded images for the input of `model`."""
    dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    values = np.random.default_rng(seed).standard_normal((batch, *dims), np.float32)
    return np.float32(scale) * values


def observe_on(model: onnx.ModelProto, images: FloatArray | None = None) -> Ranges:
    """Ranges of `model` on some images."""
    images = noise(model) if images is None else images
    engine = ENGINES.get("onnxruntime")
    return observe(model, [images], engine=engine, data_digest="images", total=1)


def op_types(model: onnx.ModelProto) -> list[str]:
    """Operators in node order."""
    return [node.op_type for node in model.graph.node]


def types_of(model: onnx.ModelProto) -> dict[str, str]:
    """Tensor or weight name → "FLOAT", "FLOAT16", …, from strict inference."""
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    found = {v.name: v.type.tensor_type.elem_type for v in graph.input}
    found |= {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.output)}
    found |= {t.name: t.data_type for t in graph.initializer}
    return {name: TensorProto.DataType.Name(kind) for name, kind in found.items()}


def weights_of(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """Name → values of the initialisers."""
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def quarrels(model: onnx.ModelProto) -> Iterator[str]:
    """Where `model` is not strongly typed; nothing for a graph that TensorRT may parse.

    The checker and strict inference must pass. Beyond them, the float tensors of a node must agree:
    ONNX lets some operators (BatchNormalization, Pow) mix types that strongly typed parsers refuse.
    Inputs whose schema allows a single type (the `scales` of Resize) are not asked.
    """
    onnx.checker.check_model(model, full_check=True)
    types = {name: getattr(TensorProto, kind) for name, kind in types_of(model).items()}
    for node in model.graph.node:
        if node.op_type == "Cast" or node.domain:
            continue
        schema = onnx.defs.get_schema(node.op_type, model.opset_import[0].version, "")
        seen = set()
        for position, name in enumerate(node.input):
            formal = schema.inputs[min(position, len(schema.inputs) - 1)]
            if name and not formal.type_str.startswith("tensor("):
                seen.add(types.get(name, TensorProto.UNDEFINED))
        seen |= {types.get(name, TensorProto.UNDEFINED) for name in node.output}
        if len(seen & FLOATS) > 1:
            yield f"{node.name} ({node.op_type}) mixes {sorted(seen & FLOATS)}"


def useless_casts(model: onnx.ModelProto) -> Iterator[str]:
    """Casts of casts, second casts of a tensor to the same type, and casts that nobody reads."""
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    made = {node.output[0] for node in casts}
    read = {*_read(model.graph), *(output.name for output in model.graph.output)}
    seen = set()
    for node in casts:
        key = (node.input[0], node.attribute[0].i)
        if node.input[0] in made:
            yield f"{node.name} casts a cast"
        if key in seen:
            yield f"{node.name} casts '{key[0]}' a second time"
        if node.output[0] not in read:
            yield f"nobody reads {node.name}"
        seen.add(key)


def _read(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            yield from _read(attribute.g)
