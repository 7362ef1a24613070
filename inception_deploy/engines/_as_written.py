"""A stand-in for engines whose device is not here: the graph as written, on ONNX Runtime's CPU.

That has no kernels for bfloat16. A graph that holds such tensors runs in FP32 with each of them
rounded to what a device would store (`lowering/rounding.py`).
"""

from __future__ import annotations

from pathlib import Path

import onnx

from inception_deploy.engines.base import Availability, Engine, Session
from inception_deploy.engines.onnxruntime import OnnxRuntime
from inception_deploy.lowering.rounding import rounded

__all__ = ["AsWritten"]


class AsWritten(Engine):
    """Runs every graph node by node, quantisers and casts included, without any optimiser."""

    name = "onnxruntime, as written"

    def __init__(self) -> None:
        self._engine = OnnxRuntime()

    def availability(self) -> Availability:
        return self._engine.availability()

    def session(
        self, model: Path | bytes, *, threads: int | None = None, optimise: bool = True
    ) -> Session:
        del optimise  # an optimiser would fuse quantisers into kernels of the CPU's own
        return self._engine.session(_runnable(model), threads=threads, optimise=False)


def _runnable(model: Path | bytes) -> Path | bytes:
    """The graph, or one that rounds where it holds bfloat16."""
    written = model if isinstance(model, bytes) else model.read_bytes()
    graph = onnx.load_model_from_string(written)
    kinds = {tensor.data_type for tensor in graph.graph.initializer}
    kinds |= {int(a.i) for n in graph.graph.node if n.op_type == "Cast" for a in n.attribute}
    if onnx.TensorProto.BFLOAT16 not in kinds:
        return model
    return bytes(rounded(graph).SerializeToString())
