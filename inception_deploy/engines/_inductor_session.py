"""A session on a package of AOTInductor's, on the CPU or on a GPU.

On a GPU, inputs go from pinned host memory to the device and results the same way back, each timed
by events of its own; the kernels of a batch size are captured as a CUDA graph when it first comes,
and replayed from then on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inception_deploy.engines._inductor_build import exact_float32, here, reason
from inception_deploy.engines._inductor_facts import Package
from inception_deploy.engines._recorded import read_recorded
from inception_deploy.engines.base import Array, Session, TensorSpec
from inception_deploy.errors import MissingDependency, StageError

__all__ = ["InductorSession"]

Model = Callable[[Tensor], Tensor]


class InductorSession(Session):
    """A package loaded into this process. Larger batches than its largest are run in parts.

    Args:
        path: of the package.
        sha256: that it must have.
        threads: of PyTorch while this session runs; None leaves them as they are.
        cuda_graphs: capture and replay the kernels of a batch size, on a GPU.
    """

    name = "torch-inductor"

    def __init__(
        self, path: Path, sha256: str, *, threads: int | None = None, cuda_graphs: bool = True
    ) -> None:
        self._path, self._sha256 = path, sha256
        self._threads, self._cuda_graphs = threads, cuda_graphs
        self._model: Model | None = None
        self._largest = 1
        self._lanes: dict[int, _Lane] = {}
        self._parts: Mapping[str, float] = {}

    def load(self) -> None:
        """Check that the package is the recorded one and fits this machine, then load its code.

        Raises:
            BadInput: the file is missing, is not the recorded one, or is no package.
            MissingDependency: it was compiled by another PyTorch, or for another CPU or GPU.
            StageError: PyTorch does not load it.
        """
        content = read_recorded(self._path, self._sha256)
        package, place = Package.read(content, self._path), here()
        misfit = package.place.misfit(place)
        if misfit is not None:
            raise MissingDependency(f"{self._path} {misfit}; export the bundle again here")
        self._model = _loaded(content, self._path, alone=place.device == "cuda")
        self._largest = package.largest
        self.device = place.device.upper()
        self.inputs = (_spec(*package.input),)
        self.outputs = (_spec(*package.output),)

    def infer_impl(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        (images,) = feeds.values()
        run = self._on_gpu if self.device == "CUDA" else self._on_cpu
        try:
            with torch.no_grad(), _threads(self._threads):
                parts = [
                    run(images[at : at + self._largest])
                    for at in range(0, len(images), self._largest)
                ]
        except RuntimeError as error:
            raise StageError(f"PyTorch failed while running: {reason(error)}") from error
        return {self.outputs[0].name: parts[0] if len(parts) == 1 else np.concatenate(parts)}

    def parts(self) -> Mapping[str, float]:
        """As the base class says; of the last part of a batch that was run in several."""
        return {**super().parts(), **self._parts}

    def close(self) -> None:
        """Free the code, its weights, and buffers on the device."""
        self._lanes.clear()
        self._model = None

    def _on_cpu(self, images: Array) -> Array:
        assert self._model is not None
        # PyTorch has no read-only tensors
        given = images if images.flags.writeable else images.copy()
        result: Array = self._model(torch.from_numpy(np.ascontiguousarray(given))).numpy()
        return result

    def _on_gpu(self, images: Array) -> Array:
        assert self._model is not None
        with exact_float32():
            lane = self._lanes.get(len(images))
            if lane is None:
                lane = self._lanes[len(images)] = _Lane(self._model, images, self._cuda_graphs)
            result, self._parts = lane.run(images)
        return result


class _Lane:
    """Buffers, stream and CUDA graph of one batch size."""

    def __init__(self, model: Model, images: Array, capture: bool) -> None:
        self._model = model
        cuda: Any = torch.cuda  # whose streams and events are not annotated
        self._stream = cuda.Stream()
        self._events = [cuda.Event(enable_timing=True) for _ in range(4)]
        self._host = torch.from_numpy(np.array(images)).pin_memory()
        self._graph: torch.cuda.CUDAGraph | None = None
        with torch.cuda.stream(self._stream):
            self._given = self._host.to("cuda", non_blocking=True)
            self._result = model(self._given)  # memory is taken by a first run, before a capture
        self._stream.synchronize()
        if capture:
            graph = torch.cuda.CUDAGraph()
            # other threads may go on with theirs meanwhile
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._result = model(self._given)
            self._graph = graph
        self._back = torch.empty_like(self._result, device="cpu").pin_memory()

    def run(self, images: Array) -> tuple[Array, dict[str, float]]:
        """The result, a copy, and seconds by the device's clock: "h2d", "compute", "d2h"."""
        np.copyto(self._host.numpy(), images)
        with torch.cuda.stream(self._stream):
            self._events[0].record()
            self._given.copy_(self._host, non_blocking=True)
            self._events[1].record()
            if self._graph is None:
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


def _loaded(content: bytes, path: Path, *, alone: bool) -> Model:
    """The code of a package: of these bytes, which were hashed, not of the file read again.

    Args:
        alone: without the synchronisation of several threads, which a CUDA graph cannot hold.

    Raises:
        StageError: PyTorch does not take it.
    """
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder, "model.pt2")
        copied.write_bytes(content)
        try:
            options = {"run_single_threaded": True} if alone else {}
            loaded: Any = torch._inductor.aoti_load_package(str(copied), **options)
        except Exception as error:  # the loader of shared objects raises what C++ throws
            raise StageError(
                f"PyTorch does not load {path}: {reason(error)}; export the bundle again here"
            ) from error
    model: Model = loaded
    return model


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """PyTorch has one number of threads for the whole process; it is lent, and given back."""
    before = torch.get_num_threads()
    if count in (None, before):
        yield
        return
    assert count is not None
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _spec(name: str, dtype: str, shape: tuple[int, ...]) -> TensorSpec:
    return TensorSpec(name, np.dtype(dtype), ("batch", *shape))
