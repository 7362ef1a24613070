"""A stream on which an engine of TensorRT's runs: contexts, buffers and CUDA graphs per shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inception_deploy.engines._cuda_host import FIRST_RUN, stage
from inception_deploy.engines.base import Array, TensorSpec
from inception_deploy.errors import BadInput, StageError

__all__ = ["Timing", "TrtLane"]


@dataclass(frozen=True)
class Timing:
    """One run in milliseconds, by the device's clock: to it, on it, and back."""

    to_device: float
    compute: float
    to_host: float


class TrtLane:
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

    def start(self, feeds: Mapping[str, Array]) -> TrtLane:
        """Send inputs, kernels and results down the stream; `wait` gives the results."""
        torch = self._torch
        key = tuple(tuple(feeds[spec.name].shape) for spec in self._inputs)
        buffers = self._shapes.get(key)
        if buffers is None:
            with FIRST_RUN:
                buffers = self._prepared(key)
                self._first(buffers, feeds)
            self._shapes[key] = buffers
        self._stage(buffers, feeds)
        with torch.cuda.stream(self._stream):
            self._events[0].record()
            self._send(buffers)
            self._events[1].record()
            if buffers.graph is None:
                self._execute(buffers)
            else:
                buffers.graph.replay()
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

    def _stage(self, buffers: _Buffers, feeds: Mapping[str, Array]) -> None:
        for spec in self._inputs:
            stage(self._torch, buffers.tensors[spec.name][0], feeds[spec.name])

    def _send(self, buffers: _Buffers) -> None:
        for spec in self._inputs:
            host, device = buffers.tensors[spec.name]
            device.copy_(host, non_blocking=True)

    def _execute(self, buffers: _Buffers) -> None:
        if not buffers.context.execute_async_v3(self._stream.cuda_stream):
            raise StageError("TensorRT failed while running; see the driver's log")

    def _first(self, buffers: _Buffers, feeds: Mapping[str, Array]) -> None:
        """A first run settles shapes and takes memory; only then can one be captured."""
        self._stage(buffers, feeds)
        with self._torch.cuda.stream(self._stream):
            self._send(buffers)
            self._execute(buffers)
        self._stream.synchronize()
        capturable = getattr(buffers.context, "is_stream_capturable", None)  # TensorRT-RTX has it
        if not self._cuda_graphs or (capturable and not capturable(self._stream.cuda_stream)):
            return
        cuda = self._torch.cuda
        graph = cuda.CUDAGraph()
        try:
            # other threads may go on with theirs meanwhile
            with cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._execute(buffers)
        except RuntimeError as error:
            said = next(iter(str(error).splitlines()), "")
            raise StageError(
                f"the kernels of this engine cannot be captured as a CUDA graph: {said}; export it "
                "again here"
            ) from error
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
    graph: Any = None
