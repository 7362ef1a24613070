"""ONNX Runtime's library: imported when asked for, made quiet, and asked what it can do here."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
from functools import cache
from typing import Any

import onnx

from inception_deploy.errors import MissingDependency

__all__ = ["REMEDY", "SILENT", "cuda_problem", "library", "reason"]

REMEDY = "pip install onnxruntime"

SILENT = 4
"""ONNX Runtime's "fatal": everything below arrives as an exception, not on the terminal."""


def library() -> Any:
    """The vendor's module, made quiet. Raises `MissingDependency` where it is not installed."""
    try:
        ort = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise MissingDependency(f"ONNX Runtime cannot be imported; run: {REMEDY}") from error
    ort.set_default_logger_severity(SILENT)
    return ort


@cache
def cuda_problem() -> str | None:
    """Why CUDA cannot be used here; None where it can.

    The provider being listed says only that this build has it: without a driver, cuDNN or a GPU,
    ONNX Runtime falls back to the CPU. So a one-node graph is loaded, and asked where it went.
    """
    ort = library()
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return "this build has no CUDA provider (pip install onnxruntime-gpu)"
    options = ort.SessionOptions()
    options.log_severity_level = SILENT
    with contextlib.redirect_stdout(io.StringIO()):  # both report their failures by print
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
        try:
            session = ort.InferenceSession(
                _probe(), options, providers=["CUDAExecutionProvider"], enable_fallback=False
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
            return reason(error)
    if "CUDAExecutionProvider" not in session.get_providers():
        return "the CUDA provider does not load (driver, CUDA or cuDNN library missing)"
    return None


def _probe() -> bytes:
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "probe",
        [value("x", onnx.TensorProto.FLOAT, [1])],
        [value("y", onnx.TensorProto.FLOAT, [1])],
    )
    opset = [onnx.helper.make_opsetid("", 13)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    return bytes(model.SerializeToString())


def reason(error: Exception) -> str:
    """One line of what ONNX Runtime says: without its prefix, source paths and stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:2]) if lines else type(error).__name__
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    return re.sub(r"/\S+\.(?:h|cc|cu|cuh|hpp):\d+ .*?\)(?: const)? ", "", text)[:300]
