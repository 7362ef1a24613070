"""ONNX Runtime: the CPU everywhere, CUDA where its provider is present and works."""

from __future__ import annotations

from pathlib import Path

from inception_deploy.engines._onnxruntime_library import REMEDY, cuda_problem, library
from inception_deploy.engines._onnxruntime_session import OnnxRuntimeSession
from inception_deploy.engines.base import Availability, Engine
from inception_deploy.errors import MissingDependency

__all__ = ["ENGINES", "OnnxRuntime", "OnnxRuntimeSession"]


class OnnxRuntime(Engine):
    """Microsoft's ONNX Runtime."""

    name = "onnxruntime"

    def availability(self) -> Availability:
        try:
            ort = library()
        except MissingDependency as missing:
            return Availability(version=None, remedy=REMEDY, detail=str(missing))
        problem = cuda_problem()
        return Availability(
            version=ort.__version__,
            devices=("CPU",) if problem else ("CPU", "CUDA"),
            detail=f"CPU only: {problem}" if problem else "CPU and CUDA",
        )

    def session(
        self,
        model: Path | bytes,
        *,
        threads: int | None = None,
        optimise: bool = True,
        lanes: bool | None = None,
    ) -> OnnxRuntimeSession:
        """As the base class says.

        Args:
            lanes: whether batches may be cut into parts that run side by side (see
                `OnnxRuntimeSession`); None cuts those of a file, which is what is deployed. Graphs
                in memory are tried on fewer images than pay for loading them twice.
        """
        library()
        if lanes is None:
            lanes = isinstance(model, Path)
        return OnnxRuntimeSession(model, threads=threads, optimise=optimise, lanes=lanes)


ENGINES = (OnnxRuntime(),)
