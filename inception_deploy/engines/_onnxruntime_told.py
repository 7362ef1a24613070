"""What ONNX Runtime tells of a graph that it has made its own: types and times, node by node."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

import onnx

__all__ = ["precisions", "seconds_per_node"]

_ADDED = re.compile(r"(_token_\d+|_nchwc|_nhwc)+$")
"""What the optimiser appends to the name of a node that it replaces."""

_KERNEL = "_kernel_time"
"""What the profiler appends to the name of a node whose computation it timed."""


def precisions(executed: onnx.ModelProto) -> dict[str, str]:
    """Node of the optimised graph → what it computes in, by the name the node had before.

    The optimiser appends to the names of nodes it replaces. Its own operators have no schema that
    shape inference could ask, so that types are followed from the inputs: a node computes in the
    type of its first input, and puts that type out, unless its kind says otherwise.
    """
    floats = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}
    bytes_ = {2: "int8", 3: "int8"}
    kinds = floats | bytes_
    tensors = {v.name: kinds.get(v.type.tensor_type.elem_type, "") for v in executed.graph.input}
    tensors |= {t.name: kinds.get(t.data_type, "") for t in executed.graph.initializer}
    found: dict[str, str] = {}
    for node in executed.graph.node:
        inputs = [tensors.get(name, "") for name in node.input]
        quantised = node.op_type.startswith("QLinear") or node.op_type == "QGemm"
        computes = "int8" if quantised else inputs[0] if inputs else ""
        result = computes
        if node.op_type == "QuantizeLinear":
            result = "int8"
        elif node.op_type in ("DequantizeLinear", "MatMulIntegerToFloat"):
            result = "float32"
        elif node.op_type == "QGemm" and len(inputs) < 9:
            result = "float32"  # without a scale for its output
        elif node.op_type == "MatMulInteger":
            result = ""  # int32, which no precision is named after
        elif node.op_type == "Cast":
            (to,) = (a.i for a in node.attribute if a.name == "to")
            result = kinds.get(to, "")
        tensors |= dict.fromkeys(node.output, result)
        if computes:
            found[_ADDED.sub("", node.name)] = computes
    return found


def seconds_per_node(events: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Profiler events of several runs, the first of which warms up → median seconds per node.

    Several kernels that were made of one node count together.
    """
    microseconds: dict[str, list[float]] = {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(_KERNEL):
            microseconds.setdefault(event["name"], []).append(event["dur"])
    found: dict[str, float] = {}
    for name, values in microseconds.items():
        node = _ADDED.sub("", name.removesuffix(_KERNEL))
        found[node] = found.get(node, 0.0) + 1e-6 * statistics.median(values[1:])
    return found
