"""The shape of an engine, and of a session that runs one graph on it."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from inception_deploy.build_options import BatchProfile, BuildOptions
from inception_deploy.errors import BadInput
from inception_deploy.progress import Progress

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Array", "Availability", "Compiled", "Engine", "Network", "Session", "TensorSpec"]

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class Availability:
    """Whether an engine works here.

    Args:
        version: of the vendor's library; None where it is missing.
        devices: what it can run on, e.g. ("CPU", "CUDA").
        remedy: the command that adds what is missing; None where nothing is.
        detail: one line for `doctor`.
        obstacle: why what is installed cannot run here, though it may build; None where it can.
    """

    version: str | None
    devices: tuple[str, ...] = ()
    remedy: str | None = None
    detail: str = ""
    obstacle: str | None = None

    @property
    def ok(self) -> bool:
        return self.version is not None and self.remedy is None and self.obstacle is None


@dataclass(frozen=True)
class Compiled:
    """What an engine made of an ONNX file.

    Args:
        files: its own files, the main one first; empty where it loads ONNX files as they are.
        executed: node name → the precision it was built to run in; None where that is told by
            sessions (`Session.executed_precisions`), or by nobody.
        facts: of the build, JSON values.
    """

    files: tuple[Path, ...] = ()
    executed: Mapping[str, str] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Network:
    """What a graph was exported from, for engines that compile PyTorch and not the graph.

    Args:
        module: float32, in evaluation mode: images (N, 3, H, W) to (N, K). It is not modified.
        precision: what it is to compute in: "fp32", "fp16" or "bf16".
        example: what will be fed, N >= 1: float32 (N, 3, H, W), or what `front` takes.
        front: makes images of what is fed, in float32; None where images are.
    """

    module: nn.Module
    precision: str
    example: Array
    front: nn.Module | None = None


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of an input or output; a free dimension is its name, a string."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]

    def check(self, value: Array) -> None:
        """Raises `BadInput` unless `value` has this dtype and fits this shape."""
        if value.dtype != self.dtype:
            raise BadInput(f"'{self.name}' must be {self.dtype}, not {value.dtype}; cast it first")
        fits = value.ndim == len(self.shape) and all(
            isinstance(want, str) or want == have
            for want, have in zip(self.shape, value.shape, strict=True)
        )
        if not fits:
            raise BadInput(
                f"'{self.name}' must have shape {self._printed()}, not {tuple(value.shape)}"
            )
        if value.shape and value.shape[0] == 0:
            raise BadInput(f"'{self.name}' holds no images: shape {tuple(value.shape)}")

    def _printed(self) -> str:
        return "(" + ", ".join(map(str, self.shape)) + ")"


class Session(ABC):
    """One graph, loaded and ready to run; a context manager that frees the engine at the end.

    Outside of its `with` block a session has no inputs and no outputs.
    """

    name: str
    device: str = ""
    """Where the graph runs, e.g. "CPU"; known once it is loaded."""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    load_seconds: float = 0.0
    engine_seconds: float = 0.0
    """What the vendor's part of the last `infer` took."""

    def __enter__(self) -> Self:
        started = time.perf_counter()
        self.load()
        self.load_seconds = time.perf_counter() - started
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        self.inputs = self.outputs = ()

    def infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once.

        Raises:
            BadInput: an input is missing, unknown, of another dtype or shape, or an empty batch.
            StageError: the engine fails on it.
            RuntimeError: the session is not open.
        """
        self._opened()
        wanted = {spec.name: spec for spec in self.inputs}
        if set(feeds) != set(wanted):
            raise BadInput(f"inputs must be {sorted(wanted)}, not {sorted(feeds)}")
        for name, value in feeds.items():
            wanted[name].check(value)
        started = time.perf_counter()
        found = self.infer_impl(feeds)
        self.engine_seconds = time.perf_counter() - started
        return found

    def parts(self) -> Mapping[str, float]:
        """Seconds of the parts of the last run: "engine", the vendor's part of it.

        Engines on a GPU say more, as trtexec does: "enqueue", "h2d", "compute", "d2h".
        """
        return {"engine": self.engine_seconds}

    def run(self, images: Array) -> Array:
        """The common case: the single input in, the first output out."""
        self._opened()
        return self.infer({self.inputs[0].name: images})[self.outputs[0].name]

    def run_many(self, batches: Iterable[Array]) -> Iterator[Array]:
        """`run` for each of `batches`, in their order; engines that can keep several in flight."""
        return map(self.run, batches)

    def executed_precisions(self) -> Mapping[str, str] | None:
        """What the engine made of the graph: node name → "int8", "float16", "bfloat16", "float32".

        None where the engine does not tell. Nodes that it dropped, or of which it does not tell,
        are missing; a node fused into its only reader has the reader's precision.

        Raises:
            RuntimeError: the session is not open.
        """
        return None

    def profile(self, images: Array, *, runs: int = 10) -> Mapping[str, float] | None:
        """What single nodes take: node name → median seconds per run, over `runs` runs.

        Nodes that the engine adds go by the names it gives them, those that it fuses by the name of
        one of them. The single input is fed. None where the engine does not tell.

        Raises:
            RuntimeError: the session is not open.
        """
        del images, runs
        self._opened()
        return None

    def _opened(self) -> None:
        if not self.inputs:
            raise RuntimeError(f"this {self.name} session is not open; use it in a `with` block")

    @abstractmethod
    def load(self) -> None:
        """Load the graph and fill in `inputs` and `outputs`."""

    @abstractmethod
    def infer_impl(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once on validated inputs."""

    @abstractmethod
    def close(self) -> None:
        """Free what `load` took."""


class Engine(ABC):
    """Runs graphs; importing its vendor's library waits until it is asked for."""

    name: str
    """As asked for with --target: "onnxruntime"."""

    takes_graphs: bool = True
    """Whether `session` runs any ONNX graph; False where it runs only what `compiled` wrote."""

    @abstractmethod
    def availability(self) -> Availability:
        """Whether it works here; never raises for a missing library."""

    @abstractmethod
    def session(
        self, model: Path | bytes, *, threads: int | None = None, optimise: bool = True
    ) -> Session:
        """A session for an ONNX file or its bytes, to be entered with `with`.

        Args:
            threads: intra-op threads; None leaves the choice to the engine.
            optimise: False runs the graph as written, node by node (for parity of intermediates).

        Raises:
            MissingDependency: the vendor's library is not installed.
        """

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
        """Write what this engine makes of an ONNX file into `directory`.

        Args:
            batch: sizes that will be served, for engines that are built for some.
            options: of the build, for engines that are built ahead of time.
            network: what the file was exported from; None where that is not PyTorch.

        Raises:
            MissingDependency: the vendor's library is not installed, or lacks its device.
            BadInput: options that the library does not have.
            StageError: the engine refuses the graph.
        """
        del model, directory, batch, options, network, progress
        return Compiled()

    def require_buildable(self, options: BuildOptions) -> None:
        """What `compiled` would say of the options alone; asked before the long work begins.

        Raises:
            MissingDependency, BadInput: as there.
        """
        del options

    def deployed(
        self, engine: Path, sha256: str, *, model: Path, threads: int | None = None
    ) -> Session:
        """A session for what `compiled` wrote: its main file, whose hash must be `sha256`.

        Args:
            model: the ONNX file that it was made of.

        Raises:
            MissingDependency: the vendor's library is not installed.
        """
        del engine, sha256
        return self.session(model, threads=threads)
