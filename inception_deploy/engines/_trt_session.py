"""A session on a serialised engine: PyTorch's CUDA memory and streams, TensorRT's kernels.

Inputs go from pinned host memory to the device, results the same way back, each timed by events of
its own. From the second run of a shape on, its kernels are replayed as a CUDA graph.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inception_deploy.engines._trt_inspect import kernels_of_json, precisions
from inception_deploy.engines._trt_kernels import CompiledKernels
from inception_deploy.engines._trt_library import Flavour, driver_problem, gpus, logger
from inception_deploy.engines.base import Array, Session, TensorSpec
from inception_deploy.errors import BadInput, MissingDependency, StageError

__all__ = ["PlanSource", "TensorrtSession", "Timing", "explained", "require_gpu"]

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

_CAUSES: Sequence[tuple[str, str]] = (
    (r"driver version is insufficient|no CUDA-capable", "there is no NVIDIA driver here"),
    (r"version tag|[Ss]erialization.*version|library version", "was built by another version"),
    (r"[Cc]ompute capability|incompatible.*device|different.*device", "was built for other GPUs"),
    (r"[Mm]agic|truncat|corrupt|size|read", "is truncated or no engine"),
)
"""What TensorRT logs when it does not take a plan → what that means."""


@dataclass(frozen=True)
class Timing:
    """One run in milliseconds, by the device's clock: to it, on it, and back."""

    to_device: float
    compute: float
    to_host: float


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


def explained(flavour: Flavour, version: str, messages: Sequence[str], here: Sequence[int]) -> str:
    """One line for a plan that the library did not take, from what it logged.

    Args:
        here: compute capabilities of the GPUs of this machine, times ten.
    """
    text = " ".join(messages)
    cause = next((said for pattern, said in _CAUSES if re.search(pattern, text)), None)
    if cause is None:
        last = " ".join(messages[-1].split())[:200] if messages else "no reason given"
        return f"{flavour.title} {version} does not load the engine: {last}; export it again"
    if cause.startswith("there is"):
        return f"{flavour.title} cannot load the engine: {cause}"
    sms = ", ".join(f"SM{sm}" for sm in here) or "no GPU"
    return f"the engine {cause} (here: {flavour.title} {version}, {sms}); export it again here"


class TensorrtSession(Session):
    """An engine loaded into TensorRT or TensorRT-RTX.

    Batches larger than every profile's are run in parts of the largest size; smaller ones than
    every profile's are refused.

    Args:
        source: gives the serialised engine; asked once per `load`.
        weights: the ONNX file that a stripped engine gets its weights from.
        cuda_graphs: replay the kernels of a shape from its second run on.
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
        self._messages: list[str] = []
        self._torch: Any = None
        self._engine: Any = None
        self._kernels: CompiledKernels | None = None
        self._lanes: list[_Lane] = []
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
        runtime = library.Runtime(logger(library, self._heard))
        runtime.engine_host_code_allowed = False
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            here = [gpu.sm for gpu in gpus()]
            raise StageError(explained(self._flavour, library.__version__, self._messages, here))
        if self._weights is not None and engine.refittable:  # built without its weights
            refitter = library.Refitter(engine, logger(library, self._heard))
            parser = library.OnnxParserRefitter(refitter, logger(library, self._heard))
            if not (parser.refit_from_file(str(self._weights)) and refitter.refit_cuda_engine()):
                raise StageError(
                    f"{self._weights} does not hold the weights of this engine; export it again"
                )
        self._engine = engine
        if self._flavour.ahead:
            self._torch.cuda.synchronize()  # the first call makes the thread's CUDA context
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
            self._lanes.append(self._lane())
        busy: list[_Lane] = []
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

    def _heard(self, severity: str, text: str) -> None:
        if severity in ("INTERNAL_ERROR", "ERROR"):
            self._messages.append(text)

    def _lane(self) -> _Lane:
        kernels = self._kernels
        contexts = self._engine.create_execution_context if kernels is None else kernels.context
        return _Lane(
            self._torch, self._engine, contexts, self.inputs, self.outputs, self._cuda_graphs
        )


class _Lane:
    """One stream with an execution context per profile, and buffers per shape."""

    def __init__(
        self,
        torch: Any,
        engine: Any,
        new_context: Callable[[], Any],
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        cuda_graphs: bool,
    ) -> None:
        self._torch, self._new_context = torch, new_context
        self._inputs, self._outputs = inputs, outputs
        self._cuda_graphs = cuda_graphs
        self._stream = torch.cuda.Stream()
        first = inputs[0].name
        self.ranges: list[tuple[int, int, int]] = []
        self._contexts = []
        for index in range(engine.num_optimization_profiles):
            low, best, high = engine.get_tensor_profile_shape(first, index)
            self.ranges.append((low[0], best[0], high[0]))
            context = new_context()
            if context is None:
                raise StageError("the GPU has not enough free memory for this engine")
            context.set_optimization_profile_async(index, self._stream.cuda_stream)
            self._contexts.append(context)
        self._stream.synchronize()
        self._shapes: dict[tuple[tuple[int, ...], ...], _Buffers] = {}
        self._running: _Buffers | None = None
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(4)]

    def start(self, feeds: Mapping[str, Array]) -> _Lane:
        """Send inputs, kernels and results down the stream; `wait` gives the results."""
        torch = self._torch
        key = tuple(tuple(feeds[spec.name].shape) for spec in self._inputs)
        buffers = self._shapes.get(key)
        if buffers is None:
            buffers = self._shapes[key] = self._prepared(key)
        with torch.cuda.stream(self._stream):
            self._events[0].record()
            for spec in self._inputs:
                host, device = buffers.tensors[spec.name]
                np.copyto(host.numpy(), feeds[spec.name])
                device.copy_(host, non_blocking=True)
            self._events[1].record()
            self._compute(buffers)
            self._events[2].record()
            for spec in self._outputs:
                host, device = buffers.tensors[spec.name]
                host.copy_(device, non_blocking=True)
            self._events[3].record()
        self._running = buffers
        return self

    def wait(self) -> dict[str, Array]:
        """Copies of the results: the next run writes over the buffers."""
        self._stream.synchronize()
        assert self._running is not None
        found = self._running.tensors
        return {spec.name: np.array(found[spec.name][0].numpy()) for spec in self._outputs}

    def timing(self) -> Timing:
        """Of the last run."""
        pairs = zip(self._events, self._events[1:], strict=False)
        return Timing(*(before.elapsed_time(after) for before, after in pairs))

    def _compute(self, buffers: _Buffers) -> None:
        if buffers.graph is not None:
            buffers.graph.replay()
            return
        # shapes are settled, and memory taken, by a first run; only then can one be captured
        if not buffers.context.execute_async_v3(self._stream.cuda_stream):
            raise StageError("TensorRT failed while running; see the driver's log")
        buffers.runs += 1
        if self._cuda_graphs and buffers.runs == 1:
            self._capture(buffers)

    def _capture(self, buffers: _Buffers) -> None:
        self._stream.synchronize()
        graph = self._torch.cuda.CUDAGraph()
        capturable = getattr(buffers.context, "is_stream_capturable", None)
        if capturable is not None and not capturable(self._stream.cuda_stream):
            return
        # other threads may go on with theirs meanwhile
        with self._torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            buffers.context.execute_async_v3(self._stream.cuda_stream)
        buffers.graph = graph

    def _prepared(self, shapes: Sequence[tuple[int, ...]]) -> _Buffers:
        """Buffers, and a context that is set to them: a graph is bound to shapes and addresses."""
        batch = shapes[0][0]
        index = next((i for i, r in enumerate(self.ranges) if r[0] <= batch <= r[2]), None)
        if index is None:
            served = ", ".join(":".join(map(str, r)) for r in self.ranges)
            raise BadInput(
                f"the engine serves batches of {served}, not {batch}; export it with --batch"
            )
        context = self._contexts[index]
        if any(buffers.context is context for buffers in self._shapes.values()):
            context = self._new_context()
            context.set_optimization_profile_async(index, self._stream.cuda_stream)
        tensors: dict[str, tuple[Any, Any]] = {}
        for spec, shape in zip(self._inputs, shapes, strict=True):
            context.set_input_shape(spec.name, shape)
            tensors[spec.name] = self._pair(shape, spec.dtype)
        for spec in self._outputs:
            tensors[spec.name] = self._pair(tuple(context.get_tensor_shape(spec.name)), spec.dtype)
        for name, (_, device) in tensors.items():
            context.set_tensor_address(name, device.data_ptr())
        return _Buffers(context, tensors)

    def _pair(self, shape: Sequence[int], dtype: np.dtype[Any]) -> tuple[Any, Any]:
        """Pinned host memory and device memory."""
        host = self._torch.from_numpy(np.empty(tuple(shape), dtype)).pin_memory()
        return host, self._torch.empty_like(host, device="cuda")


@dataclass
class _Buffers:
    """What belongs to one combination of input shapes."""

    context: Any
    tensors: dict[str, tuple[Any, Any]]
    runs: int = 0
    graph: Any = None


def _spec(engine: Any, name: str) -> TensorSpec:
    kind = engine.get_tensor_dtype(name).name
    if kind not in _DTYPES:
        raise StageError(f"'{name}' is {kind}, which has no NumPy counterpart")
    shape = tuple(engine.get_tensor_shape(name))
    names = ("batch", *("?" for _ in shape[1:]))
    free = tuple(name if size < 0 else size for name, size in zip(names, shape, strict=True))
    return TensorSpec(name, _DTYPES[kind], free)
