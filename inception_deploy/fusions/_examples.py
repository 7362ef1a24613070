"""Small graphs for the examples of fusions, from ONNX's textual syntax."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

__all__ = ["Weights", "graph"]

Weights: TypeAlias = Mapping[str, tuple[int, ...] | NDArray[Any]]


def graph(
    body: str,
    weights: Weights,
    *,
    shape: str = "batch, 4, 6, 6",
    dtype: str = "float",
    outputs: tuple[str, ...] = ("output",),
) -> Callable[[], onnx.ModelProto]:
    """A builder of a model, opset 20, from `body`: one assignment per line, from `input`.

    Each node is called as its first output. A weight given as a shape is drawn from a standard
    normal seeded by its name; where the name ends in `var`, its magnitude plus one half. Weights
    that `body` does not name are left out.

    Args:
        shape, dtype: of the input, in ONNX's syntax.
        outputs: tensors that leave the graph, of the same dtype.
    """
    leaving = ", ".join(f"{dtype} {name}" for name in outputs)
    header = '<ir_version: 9, opset_import: ["": 20]>'
    text = f"{header} example ({dtype}[{shape}] input) => ({leaving}) {{{body}}}"
    return partial(_build, text, weights)


def _build(text: str, weights: Weights) -> onnx.ModelProto:
    model = onnx.parser.parse_model(text)
    for node in model.graph.node:
        node.name = node.output[0]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")  # the syntax has scalars, but no unknown shape
    used = {name for node in model.graph.node for name in node.input}
    for name, values in weights.items():
        if name not in used:
            continue
        array = values if isinstance(values, np.ndarray) else _drawn(name, values)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)


def _drawn(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    return (np.abs(values) + 0.5 if name.endswith("var") else values).astype(np.float32)
