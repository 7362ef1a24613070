"""A GPU that is not there: what sessions ask of PyTorch's CUDA, played on NumPy arrays.

The device runs behind the host, as a real one does. What is put on a stream waits until somebody
synchronises with it; only then are bytes copied and kernels run, each taking its time by a clock of
the device's. So a session that reads results too early reads old ones, one that writes over what is
still to be sent sends that, and one that times the host's work with the device's shows it.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

__all__ = ["COPY_BACK", "COPY_TO", "HOST", "Graph", "Stream", "Tensor", "fake_torch", "kernel"]

COPY_TO, COPY_BACK, HOST = 3.0, 2.0, 1000.0
"""Milliseconds of a copy to the device, of one back, and of one within the host."""

_state = threading.local()
_capturing: list[Graph] = []
_memory: dict[int, Tensor] = {}
_addresses = itertools.count(1)


def _now(passed: float = 0.0) -> float:
    """The host's clock, `passed` milliseconds later."""
    _state.now = getattr(_state, "now", 0.0) + passed
    return float(_state.now)


@dataclass(eq=False)
class Stream:
    """Work in its order; `cuda_stream` is what a library is handed."""

    cuda_stream: int = field(default_factory=lambda: next(_addresses))
    waiting: list[tuple[float, Callable[[float], float]]] = field(default_factory=list)
    done: float = 0.0

    def put(self, work: Callable[[float], float]) -> None:
        """`work` takes the time it starts at and gives the time it ends at."""
        graph = next((g for g in _capturing if g.stream is self), None)
        if graph is not None:
            graph.work.append(work)
        else:
            self.waiting.append((_now(), work))

    def synchronize(self) -> None:
        assert all(g.stream is not self for g in _capturing), "the host waits for a capture"
        for asked, work in self.waiting:
            self.done = work(max(self.done, asked))
        self.waiting.clear()
        _now(max(0.0, self.done - _now()))


def current() -> Stream:
    stream = getattr(_state, "stream", None)
    assert isinstance(stream, Stream), "something runs on the default stream"
    return stream


def kernel(work: Callable[[], None], milliseconds: float) -> None:
    """Put a kernel on the current stream."""

    def run(start: float) -> float:
        work()
        return start + milliseconds

    current().put(run)


class Event:
    """Remembers when the device came past."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.at: float | None = None

    def record(self) -> None:
        self.at = None

        def mark(start: float) -> float:
            self.at = start
            return start

        current().put(mark)

    def elapsed_time(self, other: Event) -> float:
        assert self.at is not None, "the device has not come here yet"
        assert other.at is not None, "the device has not come here yet"
        return other.at - self.at


@dataclass(eq=False)
class Graph:
    """A CUDA graph."""

    work: list[Callable[[float], float]] = field(default_factory=list)
    stream: Stream | None = None

    def replay(self) -> None:
        def run(start: float) -> float:
            for work in self.work:
                start = work(start)
            return start

        current().put(run)


@contextmanager
def _capture(graph: Graph, stream: Stream, capture_error_mode: str) -> Iterator[None]:
    assert capture_error_mode == "thread_local"
    _wait_for_all()
    graph.stream = stream
    _capturing.append(graph)
    time.sleep(0.002)  # long enough for another thread to begin one of its own, if it may
    try:
        with _use(stream):
            yield
    finally:
        _capturing.remove(graph)


@contextmanager
def _use(stream: Stream) -> Iterator[None]:
    before = getattr(_state, "stream", None)
    _state.stream = stream
    try:
        yield
    finally:
        _state.stream = before


def _wait_for_all() -> None:
    assert not _capturing, "the device is waited for while a stream is captured"


class Tensor:
    """A NumPy array on the host, pinned or not, or on the device."""

    def __init__(self, array: np.ndarray[Any, Any], place: str = "host") -> None:
        self.array, self.place, self.address = array, place, next(_addresses)
        if place == "cuda":
            _memory[self.address] = self

    def pin_memory(self) -> Tensor:
        assert self.place == "host"
        return Tensor(self.array.copy(), "pinned")

    def numpy(self) -> np.ndarray[Any, Any]:
        assert self.place != "cuda", "memory of the device cannot be read here"
        return self.array

    def data_ptr(self) -> int:
        return self.address

    def to(self, device: str, *, non_blocking: bool) -> Tensor:
        made = Tensor(np.zeros_like(self.array), device)
        made.copy_(self, non_blocking=non_blocking)
        return made

    def copy_(self, source: Tensor, *, non_blocking: bool = False) -> None:
        assert source.array.shape == self.array.shape
        assert source.array.dtype == self.array.dtype
        if "cuda" not in (self.place, source.place):
            _now(HOST)
            self.array[...] = source.array
            return
        assert non_blocking, "the host waits for a copy"
        assert "pinned" in (self.place, source.place), "host memory is not pinned"
        assert not _capturing or all(g.stream is not current() for g in _capturing)

        def copy() -> None:
            self.array[...] = source.array

        kernel(copy, COPY_TO if self.place == "cuda" else COPY_BACK)


def at(address: int) -> np.ndarray[Any, Any]:
    """Memory of the device."""
    return _memory[address].array


def _empty_like(tensor: Tensor, *, device: str) -> Tensor:
    place = "cuda" if device == "cuda" else "host"
    return Tensor(np.zeros_like(tensor.array), place)


def fake_torch() -> Any:
    """What sessions call PyTorch."""
    cuda = SimpleNamespace(
        Stream=Stream,
        Event=Event,
        CUDAGraph=Graph,
        graph=_capture,
        stream=_use,
        synchronize=_wait_for_all,
        is_available=lambda: True,
    )

    @contextmanager
    def no_grad() -> Iterator[None]:
        yield

    return SimpleNamespace(
        cuda=cuda, no_grad=no_grad, from_numpy=Tensor, empty_like=_empty_like, __version__="0"
    )
