"""What an engine reaches here at best: large matrix products in a row, in the same precision.

Utilisation needs a peak, and a data sheet's is no measurement: clocks fall under vector load, and
machines are shared. So a graph of four products of 1,024 × 1,024 matrices runs on the same engine,
with the same threads, in the same run, and what it reaches is called the peak. Convolutions that
suit an engine better than a plain product may come out above it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from inception_deploy.engines import Session

__all__ = ["GEMM_PRECISIONS", "GemmRunner", "gemm_model", "precision_run"]

SIDE = 1024
LAYERS = 4

GEMM_PRECISIONS = ("fp32", "fp16", "bf16", "int8")

_TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


class GemmRunner:
    """Runs the graph of `gemm_model`, `SIDE` rows at a time whatever the batch.

    Args:
        session: of that graph, open.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._rows = np.random.default_rng(0).random((SIDE, SIDE), dtype=np.float32)

    def __call__(self, images: NDArray[Any]) -> None:
        del images
        self._session.run(self._rows)

    @staticmethod
    def macs(batch: int) -> int:
        """Multiply-adds of a run, as `Candidate.macs`: the same for every batch."""
        del batch
        return LAYERS * SIDE**3


def gemm_model(precision: str, *, signed: bool) -> bytes:
    """The graph, serialised: input "input" and output "output", float32 (rows, 1024).

    Args:
        precision: of `GEMM_PRECISIONS`.
        signed: INT8 activations are int8, as TensorRT wants them, instead of uint8.
    """
    # of mean 0 and so small that values neither grow nor die out from product to product
    weights = np.random.default_rng(0).normal(0, SIDE**-0.5, (LAYERS, SIDE, SIDE))
    build = _quantised(weights, signed) if precision == "int8" else _float(weights, precision)
    nodes, constants = build
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "gemm",
        [value("input", TensorProto.FLOAT, ["batch", SIDE])],
        [value("output", TensorProto.FLOAT, ["batch", SIDE])],
        constants,
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    return bytes(model.SerializeToString())


def precision_run(session: Session) -> str | None:
    """What the engine computes the products in; None where it does not tell."""
    executed = session.executed_precisions()
    found = Counter(p for node, p in (executed or {}).items() if node.startswith("gemm"))
    return found.most_common(1)[0][0] if found else None


_Built = tuple[list[onnx.NodeProto], list[onnx.TensorProto]]


def _float(weights: NDArray[np.float64], precision: str) -> _Built:
    kind = _TYPES.get(precision, TensorProto.FLOAT)
    nodes = [helper.make_node("Cast", ["input"], ["y"], name="begin", to=kind)]
    constants, last = [], "y"
    for n, weight in enumerate(weights):
        constants.append(_constant(weight.astype(np.float32), kind, f"w{n}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{n}"], [f"y{n}"], name=f"gemm{n}"))
        last = f"y{n}"
    nodes.append(helper.make_node("Cast", [last], ["output"], name="end", to=TensorProto.FLOAT))
    return nodes, constants


def _quantised(weights: NDArray[np.float64], signed: bool) -> _Built:
    step = 4 * SIDE**-0.5 / 127
    zero = np.array(0, np.int8) if signed else np.array(128, np.uint8)
    constants = [
        numpy_helper.from_array(np.array(1 / 32, np.float32), "scale"),
        numpy_helper.from_array(zero, "zero"),
        numpy_helper.from_array(np.array(step, np.float32), "weight_scale"),
        numpy_helper.from_array(np.array(0, np.int8), "weight_zero"),
    ]
    nodes: list[onnx.NodeProto] = []
    last = "input"
    for n, weight in enumerate(weights):
        codes = np.clip(np.rint(weight / step), -127, 127).astype(np.int8)
        constants.append(numpy_helper.from_array(codes, f"w{n}"))
        nodes += _through(last, f"x{n}")
        nodes.append(_dequantise(f"w{n}", "weight_", f"v{n}"))
        nodes.append(helper.make_node("MatMul", [f"x{n}", f"v{n}"], [f"y{n}"], name=f"gemm{n}"))
        last = f"y{n}"
    return [*nodes, *_through(last, "output")], constants


def _through(source: str, target: str) -> Iterator[onnx.NodeProto]:
    """A quantiser and its inverse."""
    code = f"{target}.code"
    yield helper.make_node(
        "QuantizeLinear", [source, "scale", "zero"], [code], name=f"{target}.quantise"
    )
    yield _dequantise(code, "", target)


def _dequantise(source: str, grid: str, target: str) -> onnx.NodeProto:
    names = [source, f"{grid}scale", f"{grid}zero"]
    return helper.make_node("DequantizeLinear", names, [target], name=f"{target}.dequantise")


def _constant(values: NDArray[np.float32], kind: int, name: str) -> onnx.TensorProto:
    if kind != TensorProto.BFLOAT16:
        return numpy_helper.from_array(values.astype(helper.tensor_dtype_to_np_dtype(kind)), name)
    # NumPy has no bfloat16: the upper half of a float32 is one
    halves = (values.view(np.uint32) >> 16).astype(np.uint16)
    return helper.make_tensor(name, kind, values.shape, halves.tobytes(), raw=True)
