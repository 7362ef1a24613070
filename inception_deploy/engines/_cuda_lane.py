"""A PyTorch callable on a GPU at one batch size: transfers and kernels on one stream, timed apart.

Inputs go from pinned host memory to the device and results the same way back. The kernels are
captured as a CUDA graph by the first run, and replayed from then on.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np

from inception_deploy.engines._cuda_host import FIRST_RUN, Array, stage
from inception_deploy.tf32 import without_tf32

__all__ = ["CudaLane"]


class CudaLane:
    """Buffers, stream and CUDA graph of one batch size.

    Args:
        torch: PyTorch, with a GPU.
        model: tensors on the device in, a tensor on the device out; the same shapes each time.
        images: one batch, of the shape and dtype of all that will follow.
        capture: record the kernels as a CUDA graph; otherwise they are launched one by one.
        exact: float32 without TF32; where nothing is float32, launching need not wait for that.
    """

    def __init__(
        self,
        torch: Any,
        model: Callable[[Any], Any],
        images: Array,
        *,
        capture: bool,
        exact: bool = True,
    ) -> None:
        self._torch, self._model = torch, model
        self._arithmetic = without_tf32 if exact else nullcontext
        cuda = torch.cuda
        self._graph: Any = None
        with FIRST_RUN, torch.no_grad(), self._arithmetic():
            self._stream = cuda.Stream()
            self._events = [cuda.Event(enable_timing=True) for _ in range(4)]
            self._host = torch.from_numpy(np.array(images, order="C")).pin_memory()
            with cuda.stream(self._stream):
                self._given = self._host.to("cuda", non_blocking=True)
                # libraries load, and memory is taken, by a first run: a capture can hold neither
                self._result = model(self._given)
            self._stream.synchronize()
            if capture:
                graph = cuda.CUDAGraph()
                # other threads may go on with theirs meanwhile
                with cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                    self._result = model(self._given)
                self._graph = graph
            self._back = torch.empty_like(self._result, device="cpu").pin_memory()

    def run(self, images: Array) -> tuple[Array, dict[str, float]]:
        """The result, a copy, and seconds by the device's clock: "h2d", "compute", "d2h"."""
        stage(self._torch, self._host, images)
        with self._torch.cuda.stream(self._stream):
            self._events[0].record()
            self._given.copy_(self._host, non_blocking=True)
            self._events[1].record()
            if self._graph is None:
                with self._torch.no_grad(), self._arithmetic():
                    self._result = self._model(self._given)
            else:
                self._graph.replay()
            self._events[2].record()
            self._back.copy_(self._result, non_blocking=True)
            self._events[3].record()
        self._stream.synchronize()
        pairs = zip(self._events, self._events[1:], strict=False)
        taken = [1e-3 * before.elapsed_time(after) for before, after in pairs]
        seconds = dict(zip(("h2d", "compute", "d2h"), taken, strict=True))
        return np.array(self._back.numpy()), seconds
