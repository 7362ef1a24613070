"""What clipping does to the logits: a graph whose convolutions read 8-bit activations.

Weights stay float and nothing else is quantised, so that the calibrators are all that differs.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import helper, numpy_helper

from inception_deploy.artifact import FloatArray
from inception_deploy.calibrators import Grid
from inception_deploy.engines import ENGINES
from inception_deploy.ranges import Ranges

__all__ = ["logits_of", "quantise_activations", "read_by_weights", "sqnr_db"]


def read_by_weights(model: onnx.ModelProto) -> tuple[str, ...]:
    """Activations that convolutions and linear layers read, each once, in node order."""
    reading = (node for node in model.graph.node if node.op_type in ("Conv", "Gemm"))
    return tuple(dict.fromkeys(node.input[0] for node in reading))


def quantise_activations(model: onnx.ModelProto, ranges: Ranges, grid: Grid) -> onnx.ModelProto:
    """A copy in which convolutions and linear layers read `ranges.tensors` through quantisers."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    quantisers: list[onnx.NodeProto] = []
    renamed = {}
    for tensor, seen in ranges.tensors.items():
        step, lowest, _ = grid.quantiser(seen.minimum, seen.maximum)
        zero = np.int8(0) if grid.symmetric else np.uint8(-float(lowest))
        step_name, zero_name = f"{tensor}/step", f"{tensor}/zero"
        graph.initializer.append(numpy_helper.from_array(np.asarray(step, np.float32), step_name))
        graph.initializer.append(numpy_helper.from_array(np.asarray(zero), zero_name))
        codes, renamed[tensor] = f"{tensor}/codes", f"{tensor}/quantised"
        scale = [step_name, zero_name]
        quantisers += [
            helper.make_node("QuantizeLinear", [tensor, *scale], [codes]),
            helper.make_node("DequantizeLinear", [codes, *scale], [renamed[tensor]]),
        ]
    nodes = list(graph.node)
    for node in nodes:
        if node.op_type in ("Conv", "Gemm"):
            node.input[0] = renamed.get(node.input[0], node.input[0])
    del graph.node[:]
    waiting = {node.input[0]: node for node in quantisers}
    following = {node.input[0]: node for node in quantisers if node.op_type == "DequantizeLinear"}

    def emit(tensor: str) -> None:
        if tensor in waiting:
            first = waiting[tensor]
            graph.node.extend([first, following[first.output[0]]])

    emit(graph.input[0].name)
    for node in nodes:
        graph.node.append(node)
        for output in node.output:
            emit(output)
    onnx.checker.check_model(copy)
    return copy


def logits_of(model: onnx.ModelProto, images: FloatArray) -> FloatArray:
    """Run as written, float32 (N, K)."""
    engine = ENGINES.get("onnxruntime")
    with engine.session(model.SerializeToString(), optimise=False) as session:
        pieces = [session.run(images[i : i + 32]) for i in range(0, len(images), 32)]
    return np.concatenate(pieces)


def sqnr_db(reference: FloatArray, other: FloatArray) -> float:
    """10·log10(Σ reference² / Σ (other − reference)²)."""
    wanted, got = reference.astype(np.float64), other.astype(np.float64)
    return 10 * math.log10(float((wanted**2).sum() / ((got - wanted) ** 2).sum()))
