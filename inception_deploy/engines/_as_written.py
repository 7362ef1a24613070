"""A stand-in for engines whose device is not here: the graph as written, on ONNX Runtime's CPU."""

from __future__ import annotations

from pathlib import Path

from inception_deploy.engines.base import Availability, Engine, Session
from inception_deploy.engines.onnxruntime import OnnxRuntime

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
        return self._engine.session(model, threads=threads, optimise=False)
