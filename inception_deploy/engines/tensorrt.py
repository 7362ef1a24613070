"""TensorRT and TensorRT-RTX: one engine module for two libraries with one Python interface.

TensorRT builds for the GPU it runs on; TensorRT-RTX also builds for GPUs that are not here, without
a driver. Either takes the same strongly typed graph.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from inception_deploy.build_options import BatchProfile, BuildOptions
from inception_deploy.engines._executed import by_node
from inception_deploy.engines._recorded import exported_with, read_recorded
from inception_deploy.engines._trt_build import Built, build, check_options
from inception_deploy.engines._trt_cache import BuildCache, cache_key
from inception_deploy.engines._trt_inspect import kernels_of_log, precisions, reformats
from inception_deploy.engines._trt_library import RTX, TENSORRT, Flavour, driver_problem, gpus
from inception_deploy.engines._trt_session import TensorrtSession, require_gpu
from inception_deploy.engines.base import Availability, Compiled, Engine, Network
from inception_deploy.errors import BadInput, MissingDependency
from inception_deploy.progress import Progress, SilentProgress

__all__ = ["ENGINES", "Tensorrt"]

FILE = "model.engine"


class Tensorrt(Engine):
    """One of the two libraries."""

    def __init__(self, flavour: Flavour) -> None:
        self.flavour = flavour
        self.name = flavour.name

    def availability(self) -> Availability:
        try:
            library = self.flavour.load()
        except MissingDependency as missing:
            return Availability(version=None, remedy=self.flavour.remedy, detail=str(missing))
        version = str(library.__version__)
        problem = driver_problem()
        if problem is not None:
            able = "builds engines for --sm, runs none" if self.flavour.ahead else "runs nothing"
            return Availability(version, detail=f"{problem}: {able}", obstacle=problem)
        detail = ", ".join(f"{gpu.name} (SM{gpu.sm})" for gpu in gpus())
        return Availability(version, devices=("CUDA",), detail=detail)

    def session(
        self, model: Path | bytes, *, threads: int | None = None, optimise: bool = True
    ) -> TensorrtSession:
        """As the base class says; the engine is built first, or taken from the cache of engines.

        The model of a bundle is run by the engine that was exported with it.

        Args:
            threads: have no meaning here.
            optimise: False builds at level 0. TensorRT has no mode that runs a graph as written.
        """
        del threads
        self.flavour.load()
        exported = exported_with(model) if optimise else None
        if exported is not None:
            assert isinstance(model, Path)
            return self.deployed(*exported, model=model)
        options = BuildOptions(builder_level=3 if optimise else 0)

        def source() -> bytes:
            require_gpu(self.flavour)
            graph = _graph_bytes(model)
            built, _ = self._built(graph, (BatchProfile(),), options, SilentProgress())
            return built.plan

        return TensorrtSession(self.flavour, source)

    def deployed(
        self, engine: Path, sha256: str, *, model: Path, threads: int | None = None
    ) -> TensorrtSession:
        """As the base class says. A stripped engine finds its weights in `model`."""
        del threads
        self.flavour.load()
        return TensorrtSession(self.flavour, lambda: read_recorded(engine, sha256), weights=model)

    def require_buildable(self, options: BuildOptions) -> None:
        self.flavour.load()
        check_options(self.flavour, options)

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
        del network
        options = options or BuildOptions()
        listener = progress or SilentProgress()
        graph = _graph_bytes(model)
        profiles = (batch or BatchProfile(), *options.profiles)
        built, cached = self._built(graph, profiles, options, listener)
        target = directory / FILE
        target.write_bytes(built.plan)
        if built.timing_cache is not None:
            assert options.timing_cache is not None
            _write_beside(Path(options.timing_cache).expanduser(), built.timing_cache)
        kernels = kernels_of_log(built.layers)
        written = onnx.load_model_from_string(graph)
        return Compiled(
            files=(target,),
            executed=by_node(written, precisions(kernels)) if kernels else None,
            facts={
                "library": self.flavour.name,
                "version": str(self.flavour.load().__version__),
                "bytes": len(built.plan),
                "sm": list(options.sm) or [gpu.sm for gpu in gpus()[:1]],
                "batches": [str(profile) for profile in profiles],
                "options": options.to_dict(),
                "seconds": built.seconds,
                "cached": cached,
                "kernels": len(kernels),
                "reformats": reformats(kernels),
                "warnings": list(built.warnings),
                "not_executed": driver_problem(),
            },
        )

    def _built(
        self,
        graph: bytes,
        profiles: Sequence[BatchProfile],
        options: BuildOptions,
        progress: Progress,
    ) -> tuple[Built, bool]:
        """An engine, and whether it was built before."""
        version = str(self.flavour.load().__version__)
        facts: Mapping[str, Any] = {
            "library": self.flavour.name,
            "version": version,
            "options": options.to_dict(),
            "profiles": [str(profile) for profile in profiles],
            "gpus": [] if options.sm else [(gpu.name, gpu.sm) for gpu in gpus()],
        }
        cache, key = BuildCache(), cache_key(graph, facts)
        # timings are read from and written to a file: such a build is not the graph's alone
        known = cache.read(key) if options.timing_cache is None else None
        if known is not None:
            plan, noted = known
            seconds, warnings = float(noted["seconds"]), tuple(map(str, noted["warnings"]))
            return Built(plan, str(noted["layers"]), seconds, warnings), True
        built = build(self.flavour, graph, profiles, options, progress)
        if options.timing_cache is None:
            problem = cache.write(
                key,
                built.plan,
                {
                    "layers": built.layers,
                    "seconds": built.seconds,
                    "warnings": list(built.warnings),
                    "facts": facts,
                },
            )
            if problem is not None:
                progress.note(problem)
        return built, False


def _graph_bytes(model: Path | bytes) -> bytes:
    """The bytes of an ONNX graph that can be read.

    Raises:
        BadInput: the file is missing, empty, or no ONNX graph.
    """
    where = "the graph" if isinstance(model, bytes) else str(model)
    if isinstance(model, Path) and not model.is_file():
        raise BadInput(f"{where} is not a file; give the path of an ONNX model")
    graph = model if isinstance(model, bytes) else model.read_bytes()
    if not graph:
        raise BadInput(f"{where} is empty; export it again")
    try:
        outputs = onnx.load_model_from_string(graph).graph.output
    except DecodeError as error:
        raise BadInput(f"{where} is not an ONNX model; export it again") from error
    if not outputs:
        raise BadInput(f"{where} is not an ONNX model: it has no outputs; export it again")
    return graph


def _write_beside(path: Path, content: bytes) -> None:
    """Through a temporary sibling; its sha256 pins it for a later build."""
    temporary = path.with_name(f".{path.name}.{hashlib.sha256(content).hexdigest()[:8]}")
    temporary.write_bytes(content)
    temporary.replace(path)


ENGINES = (Tensorrt(TENSORRT), Tensorrt(RTX))
