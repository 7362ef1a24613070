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

from inception_deploy.engines._cuda_host import FIRST_RUN
from inception_deploy.engines._cuda_lane import CudaLane
from inception_deploy.engines._inductor_build import here, reason
from inception_deploy.engines._inductor_facts import Package
from inception_deploy.engines._recorded import read_recorded
from inception_deploy.engines.base import Array, Session, TensorSpec
from inception_deploy.errors import MissingDependency, StageError

__all__ = ["InductorSession"]

Model = Callable[[Tensor], Tensor]

_IDLE: dict[str, list[Model]] = {}
"""sha256 of a package → its code that closed sessions left, for the next ones to take. PyTorch
never unmaps the library it loads a package from, weights included: loading Inception v3 anew, as
`bench` does within a measurement, would take 97 MB more each time."""


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
        self._lanes: dict[int, CudaLane] = {}
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
        idle = _IDLE.get(self._sha256)
        if idle:
            self._model = idle.pop()
        else:
            with FIRST_RUN:
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
        """Free buffers on the device, and what lies there of the weights; on a CPU the code is kept
        for the next session on the package."""
        self._lanes.clear()
        if self._model is not None and self.device == "CPU":
            _IDLE.setdefault(self._sha256, []).append(self._model)
        self._model = None

    def _on_cpu(self, images: Array) -> Array:
        assert self._model is not None
        # PyTorch has no read-only tensors
        given = images if images.flags.writeable else images.copy()
        result: Array = self._model(torch.from_numpy(np.ascontiguousarray(given))).numpy()
        return result

    def _on_gpu(self, images: Array) -> Array:
        assert self._model is not None
        lane = self._lanes.get(len(images))
        if lane is None:
            lane = CudaLane(torch, self._model, images, capture=self._cuda_graphs)
            self._lanes[len(images)] = lane
        result, self._parts = lane.run(images)
        return result


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
