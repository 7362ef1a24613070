"""A session on a serialised engine: PyTorch's CUDA memory and streams, TensorRT's kernels.

Inputs go from pinned host memory to the device, results the same way back, each timed by events of
its own. The kernels of a shape are captured as a CUDA graph when it first comes, and replayed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from inception_deploy.engines._cuda_host import FIRST_RUN
from inception_deploy.engines._trt_inspect import kernels_of_json, precisions
from inception_deploy.engines._trt_kernels import CompiledKernels
from inception_deploy.engines._trt_lane import Timing, TrtLane
from inception_deploy.engines._trt_library import Flavour, driver_problem, gpus
from inception_deploy.engines._trt_plan import put_back, taken
from inception_deploy.engines.base import Array, Session, TensorSpec
from inception_deploy.errors import MissingDependency, StageError

__all__ = ["PlanSource", "TensorrtSession", "Timing", "require_gpu"]

PlanSource = Callable[[], bytes]

STREAMS = 2
"""Batches in flight in `run_many`: one computes while another one's data travel."""

_DTYPES: Mapping[str, np.dtype[Any]] = {
    "FLOAT": np.dtype(np.float32),
    "HALF": np.dtype(np.float16),
    "INT8": np.dtype(np.int8),
    "UINT8": np.dtype(np.uint8),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "BOOL": np.dtype(np.bool_),
}


def require_gpu(flavour: Flavour) -> Any:
    """PyTorch, with a GPU that it reaches.

    Raises:
        MissingDependency: there is no driver, no GPU, or PyTorch was built without CUDA.
    """
    problem = driver_problem()
    if problem is not None:
        raise MissingDependency(
            f"{flavour.title} cannot run here: {problem}; run the bundle on a machine with an "
            f"NVIDIA GPU (install: {flavour.remedy})"
        )
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        raise MissingDependency(
            f"this PyTorch ({torch.__version__}) has no CUDA, whose memory and streams "
            f"{flavour.title} runs on here; run: pip install torch (the CUDA build)"
        )
    return torch


class TensorrtSession(Session):
    """An engine loaded into TensorRT or TensorRT-RTX.

    Batches larger than every profile's are run in parts of the largest size; smaller ones than
    every profile's are refused.

    Args:
        source: gives the serialised engine; asked once per `load`.
        weights: the ONNX file that a stripped engine gets its weights from.
        cuda_graphs: capture the kernels of a shape, and replay them.
    """

    def __init__(
        self,
        flavour: Flavour,
        source: PlanSource,
        *,
        weights: Path | None = None,
        cuda_graphs: bool = True,
    ) -> None:
        self.name = flavour.name
        self._flavour, self._source, self._weights = flavour, source, weights
        self._cuda_graphs = cuda_graphs
        self._torch: Any = None
        self._runtime: Any = None
        self._engine: Any = None
        self._kernels: CompiledKernels | None = None
        self._lanes: list[TrtLane] = []
        self.timing: Timing | None = None
        self.not_kept: str | None = None
        """Why compiled kernels could not be kept for the next process, after `close`."""

    def load(self) -> None:
        """Deserialise the engine, for the first GPU.

        Raises:
            MissingDependency: the library, the driver, or a PyTorch with CUDA is missing.
            BadInput: the file is not the recorded one.
            StageError: it is of another version, for another GPU, or damaged.
        """
        library = self._flavour.load()
        self._torch = require_gpu(self._flavour)
        plan = self._source()
        with FIRST_RUN:
            self._take(library, plan)

    def _take(self, library: Any, plan: bytes) -> None:
        """What `load` does under the lock: everything that waits for the device, or allocates."""
        self._torch.cuda.synchronize()  # the first call makes the CUDA context of this thread
        self._runtime, engine = taken(self._flavour, library, plan)
        if self._weights is not None and engine.refittable:  # built without its weights
            put_back(library, engine, self._weights)
        self._engine = engine
        if self._flavour.ahead:
            self._kernels = CompiledKernels(library, engine, plan, gpus()[0])
        self.device = "CUDA"
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        given = library.TensorIOMode.INPUT
        specs = {name: _spec(engine, name) for name in names}
        self.inputs = tuple(s for n, s in specs.items() if engine.get_tensor_mode(n) == given)
        self.outputs = tuple(s for n, s in specs.items() if engine.get_tensor_mode(n) != given)
        self._lanes = [self._lane()]

    def infer_impl(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        size = next(iter(feeds.values())).shape[0]
        largest = max(last for _, _, last in self._lanes[0].ranges)
        parts = [
            self._lanes[0].start({n: v[at : at + largest] for n, v in feeds.items()}).wait()
            for at in range(0, size, largest)
        ]
        self.timing = self._lanes[0].timing()
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def run_many(self, batches: Iterable[Array]) -> Iterator[Array]:
        """As the base class says; `STREAMS` batches at once, each on a stream of its own."""
        self._opened()
        while len(self._lanes) < STREAMS:
            with FIRST_RUN:
                self._lanes.append(self._lane())
        busy: list[TrtLane] = []
        for index, batch in enumerate(batches):
            self.inputs[0].check(batch)
            if len(busy) == STREAMS:
                yield busy.pop(0).wait()[self.outputs[0].name]
            busy.append(self._lanes[index % STREAMS].start({self.inputs[0].name: batch}))
        for lane in busy:
            yield lane.wait()[self.outputs[0].name]

    def executed_precisions(self) -> Mapping[str, str]:
        """As the base class says, from the engine's own description of its kernels."""
        self._opened()
        library = self._flavour.load()
        inspector = self._engine.create_engine_inspector()
        text = inspector.get_engine_information(library.LayerInformationFormat.JSON)
        return precisions(kernels_of_json(text))

    def parts(self) -> Mapping[str, float]:
        """As the base class says; of the last part of a batch that was run in several."""
        if self.timing is None:
            return super().parts()
        taken = self.timing.to_device, self.timing.compute, self.timing.to_host
        seconds = (1e-3 * milliseconds for milliseconds in taken)
        return {**super().parts(), **dict(zip(("h2d", "compute", "d2h"), seconds, strict=True))}

    def close(self) -> None:
        """Keep the kernels that were compiled; free contexts, buffers and the engine."""
        if self._kernels is not None:
            self.not_kept = self._kernels.keep()
        self._lanes.clear()
        self._kernels = self._engine = None
        self._runtime = None  # after all that it made

    def _lane(self) -> TrtLane:
        kernels = self._kernels
        contexts = self._engine.create_execution_context if kernels is None else kernels.context
        return TrtLane(
            self._torch, self._engine, contexts, self.inputs, self.outputs, self._cuda_graphs
        )


def _spec(engine: Any, name: str) -> TensorSpec:
    kind = engine.get_tensor_dtype(name).name
    if kind not in _DTYPES:
        raise StageError(f"'{name}' is {kind}, which has no NumPy counterpart")
    shape = tuple(engine.get_tensor_shape(name))
    names = ("batch", *("?" for _ in shape[1:]))
    free = tuple(name if size < 0 else size for name, size in zip(names, shape, strict=True))
    return TensorSpec(name, _DTYPES[kind], free)
