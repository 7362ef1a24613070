"""PyTorch's own compiler: torch.export and an AOTInductor package, the network without the graph.

It is what a PyTorch user gets without leaving PyTorch, so it stands here beside the others,
compiled from the very network that the ONNX graph was exported from. It runs on the GPU where
PyTorch has one, and on the CPU elsewhere.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import onnx

from inception_deploy.build_options import BatchProfile, BuildOptions
from inception_deploy.engines._as_written import AsWritten
from inception_deploy.engines._cuda_toolkit import compiling_for_cuda, find_headers, remedy
from inception_deploy.engines._recorded import exported_with
from inception_deploy.engines.base import Availability, Compiled, Engine, Network, Session
from inception_deploy.errors import BadInput, MissingDependency
from inception_deploy.progress import Progress, SilentProgress

__all__ = ["ENGINES", "TorchInductor"]

FILE = "model.pt2"

_REMEDY = "pip install 'torch>=2.7'"
_NO_COMPILER = "no C++ compiler: packages can be run here, not compiled"
_COMPILER_REMEDY = "apt-get install g++ (or name a C++ compiler in the environment variable CXX)"
_NO_HEADERS = "CUDA's headers are incomplete: packages can be run here, not compiled for the GPU"
_NO_TRITON = "no Triton, which compiles the GPU's kernels: packages can be run here, not compiled"
_TRITON_REMEDY = "pip install triton"


class TorchInductor(Engine):
    """AOTInductor packages."""

    name = "torch-inductor"
    takes_graphs = False

    def availability(self) -> Availability:
        try:
            torch = importlib.import_module("torch")
            importlib.import_module("torch._inductor").aoti_compile_and_package  # noqa: B018
        except (ImportError, AttributeError):
            return Availability(None, remedy=_REMEDY, detail=f"no AOTInductor; run: {_REMEDY}")
        version, cuda = str(torch.__version__), torch.cuda.is_available()
        devices = ("CPU", "CUDA") if cuda else ("CPU",)
        compiler = _compiler()
        if compiler is None:
            return Availability(version, devices, _COMPILER_REMEDY, _NO_COMPILER)
        if cuda and find_headers(torch.version.cuda) is None:
            return Availability(version, devices, remedy(torch.version.cuda), _NO_HEADERS)
        if cuda and importlib.util.find_spec("triton") is None:
            return Availability(version, devices, _TRITON_REMEDY, _NO_TRITON)
        return Availability(version, devices, detail=f"{devices[-1]}, compiled with {compiler}")

    def session(
        self, model: Path | bytes, *, threads: int | None = None, optimise: bool = True
    ) -> Session:
        """As the base class says, for the model of a bundle: its package is run.

        Args:
            optimise: False runs the graph as written, on ONNX Runtime's CPU: compiled kernels hold
                none of the tensors between the nodes.

        Raises:
            BadInput: it is another graph. There is no way here from ONNX to PyTorch.
        """
        if not optimise:
            return AsWritten().session(model, threads=threads)
        exported = exported_with(model)
        if exported is None:
            where = "this graph" if isinstance(model, bytes) else str(model)
            raise BadInput(
                f"{self.name} compiles PyTorch networks and no ONNX graphs, and {where} comes with "
                "no package; export the network with --target torch-inductor"
            )
        return self.deployed(*exported, model=Path(), threads=threads)

    def deployed(
        self, engine: Path, sha256: str, *, model: Path, threads: int | None = None
    ) -> Session:
        del model
        from inception_deploy.engines._inductor_session import InductorSession

        return InductorSession(engine, sha256, threads=threads)

    def require_buildable(self, options: BuildOptions) -> None:
        del options
        found = self.availability()
        if found.remedy is not None:
            raise MissingDependency(f"{self.name}: {found.detail}; run: {found.remedy}")

    def compiled(
        self,
        model: Path,
        directory: Path,
        *,
        batch: BatchProfile | None = None,
        options: BuildOptions | None = None,
        network: Network | None = None,
        progress: Progress | None = None,
    ) -> Compiled:
        """As the base class says. Of the file, only the names of input and output are taken.

        Raises:
            BadInput: there is no PyTorch network, or its precision is none of PyTorch's.
        """
        self.require_buildable(options or BuildOptions())
        if network is None:
            raise BadInput(
                f"{self.name} compiles PyTorch networks and no ONNX graphs; choose --target "
                "onnxruntime, openvino or tensorrt for an ONNX file"
            )
        from inception_deploy.engines._inductor_build import compile_network

        graph = onnx.load(model, load_external_data=False).graph
        names = graph.input[0].name, graph.output[0].name
        batch, path = batch or BatchProfile(), directory / FILE
        started = time.perf_counter()
        with (progress or SilentProgress()).stage("compile with AOTInductor"), _headers():
            package = compile_network(network, batch, names, path)
        return Compiled(
            files=(path,),
            facts={
                "library": "torch",
                "version": package.place.torch,
                "device": package.place.device,
                "sm": [] if package.place.sm is None else [package.place.sm],
                "isa": list(package.place.isa),
                "precision": package.precision,
                "batches": [f"1:{batch.optimum}:{batch.maximum}"],
                "frozen": package.frozen,
                "bytes": path.stat().st_size,
                "seconds": round(time.perf_counter() - started, 3),
            },
        )


def _compiler() -> str | None:
    """The C++ compiler that AOTInductor will call; None where there is none."""
    named = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    return named if shutil.which(named) else None


def _headers() -> AbstractContextManager[None]:
    """Around a compilation; what `availability` asked for is there."""
    torch, compiler = importlib.import_module("torch"), _compiler()
    if not torch.cuda.is_available():
        return nullcontext()
    home = find_headers(torch.version.cuda)
    assert home is not None
    assert compiler is not None
    return compiling_for_cuda(home, compiler)


ENGINES = (TorchInductor(),)
