"""A session on an engine: what is run, captured, timed and read, and when.

The library and the GPU are played by fakes. That the names exist is `test_trt_api.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import fake_cuda
import numpy as np
import pytest

from inception_deploy.engines import _trt_plan, _trt_session
from inception_deploy.engines._trt_library import RTX, TENSORRT, Flavour, Gpu
from inception_deploy.engines._trt_session import TensorrtSession
from inception_deploy.errors import BadInput, StageError

COMPUTE = 7.0


@dataclass(eq=False)
class Context:
    """Adds up each image; `executed` counts launches, captured ones too."""

    engine: Engine
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    addresses: dict[str, int] = field(default_factory=dict)
    profile: int | None = None
    executed: int = 0
    fails_at: int | None = None

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        assert stream
        self.profile = index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self.profile is not None
        low, _, high = self.engine.profiles[self.profile]
        assert low <= shape[0] <= high
        self.shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.shapes["input"][0], 1)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == fake_cuda.current().cuda_stream
        self.executed += 1
        if self.executed == self.engine.fails_at:
            return False
        given, result = (fake_cuda.at(self.addresses[name]) for name in ("input", "output"))

        def work() -> None:
            result[:, 0] = given.sum((1, 2, 3))

        fake_cuda.kernel(work, COMPUTE)
        return True


@dataclass(eq=False)
class Engine:
    profiles: tuple[tuple[int, int, int], ...] = ((1, 2, 4),)
    fails_at: int | None = None
    contexts: list[Context] = field(default_factory=list)
    num_io_tensors: int = 2
    refittable: bool = False

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.profiles)

    def get_tensor_name(self, index: int) -> str:
        return ("input", "output")[index]

    def get_tensor_mode(self, name: str) -> str:
        return {"input": "in", "output": "out"}[name]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name="FLOAT")

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return {"input": (-1, 1, 2, 2), "output": (-1, 1)}[name]

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        return [(size, 1, 2, 2) for size in self.profiles[index]]

    def create_execution_context(self) -> Context:
        self.contexts.append(Context(self))
        return self.contexts[-1]


def library(engine: Engine | None, said: str = "") -> Any:
    """What the session asks of the vendor's module."""

    class Logger:
        def log(self, severity: Any, text: str) -> None:
            raise AssertionError("sessions pass the logger on, and log nothing")

    class Runtime:
        engine_host_code_allowed = True

        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
            assert plan == b"plan"
            assert not self.engine_host_code_allowed
            if engine is None:
                self.logger.log(SimpleNamespace(name="ERROR"), said)
            return engine

    return SimpleNamespace(
        __version__="11.0",
        ILogger=Logger,
        Runtime=Runtime,
        TensorIOMode=SimpleNamespace(INPUT="in"),
    )


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with a GPU; `engine` is what its plan holds."""
    held = SimpleNamespace(engine=Engine(), said="")
    monkeypatch.setattr(_trt_session, "require_gpu", lambda _flavour: fake_cuda.fake_torch())
    for module in (_trt_session, _trt_plan):
        monkeypatch.setattr(module, "gpus", lambda: (Gpu("GPU", 90),))
    monkeypatch.setattr(Flavour, "load", lambda _self: library(held.engine, held.said))
    return held


@contextmanager
def opened(**options: Any) -> Iterator[TensorrtSession]:
    with TensorrtSession(TENSORRT, lambda: b"plan", **options) as session:
        yield session


def batch(value: float, count: int = 2) -> np.ndarray[Any, Any]:
    return np.full((count, 1, 2, 2), value, np.float32)


@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_results_are_those_of_this_run(machine: Any, cuda_graphs: bool) -> None:
    with opened(cuda_graphs=cuda_graphs) as session:
        found = [session.run(batch(value)) for value in (1, 2, 3)]
    assert [result.tolist() for result in found] == [[[4.0]] * 2, [[8.0]] * 2, [[12.0]] * 2]
    # a first run for memory and shapes; then one capture, or a launch each time
    assert sum(c.executed for c in machine.engine.contexts) == (2 if cuda_graphs else 4)


@pytest.mark.parametrize("runs", [1, 3])
def test_the_hosts_work_is_in_no_part(machine: Any, runs: int) -> None:
    with opened() as session:
        for _ in range(runs):
            session.run(batch(1))
        timing = session.timing
        parts = session.parts()
    assert timing is not None
    assert (timing.to_device, timing.compute, timing.to_host) == (
        fake_cuda.COPY_TO,
        COMPUTE,
        fake_cuda.COPY_BACK,
    )
    assert parts["compute"] == pytest.approx(1e-3 * COMPUTE)


def test_shapes_have_contexts_and_graphs_of_their_own(machine: Any) -> None:
    with opened() as session:
        for count, value in ((2, 1.0), (3, 2.0), (2, 3.0), (3, 4.0)):
            assert session.run(batch(value, count)).tolist() == [[4 * value]] * count
    shapes = [context.shapes["input"][0] for context in machine.engine.contexts]
    assert sorted(shapes) == [2, 3]


def test_profiles_are_chosen_by_the_batch(machine: Any) -> None:
    machine.engine = Engine(profiles=((2, 2, 2), (4, 6, 8)))
    with opened() as session:
        assert session.run(batch(1, 10)).tolist() == [[4.0]] * 10  # 8 and 2
        with pytest.raises(BadInput, match=r"serves batches of 2:2:2, 4:6:8, not 3"):
            session.run(batch(1, 3))
    assert [c.profile for c in machine.engine.contexts if c.executed] == [0, 1]


def test_many_in_flight_come_back_in_order(machine: Any) -> None:
    with opened() as session:
        found = list(session.run_many(batch(value, 1 + value % 3) for value in range(7)))
    assert [result[0, 0] for result in found] == [4.0 * value for value in range(7)]
    assert [len(result) for result in found] == [1 + value % 3 for value in range(7)]


def test_threads_capture_one_after_the_other(machine: Any) -> None:
    def work(value: float) -> float:
        with opened() as session:
            return float(session.run(batch(value))[0, 0])

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(work, range(4))) == [0, 4, 8, 12]


@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_what_fails_on_the_device_is_one_line(machine: Any, fails_at: int) -> None:
    """The first run, the capture, and a later run without a graph."""
    machine.engine = Engine(fails_at=fails_at)
    with opened(cuda_graphs=fails_at != 3) as session:
        with pytest.raises(StageError, match="TensorRT failed while running") as caught:
            session.run(batch(1))
            session.run(batch(1))
        assert "\n" not in str(caught.value)
        if fails_at == 1:  # nothing half-made was kept
            assert session.run(batch(2)).tolist() == [[8.0]] * 2


def test_a_plan_of_another_version(machine: Any) -> None:
    machine.engine, machine.said = None, "The version tag of the plan does not match"
    with pytest.raises(StageError, match=r"another version .*SM90.*export it again"), opened():
        pass


def test_a_stream_that_cannot_be_captured_is_run(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT-RTX says so of some engines."""
    monkeypatch.setattr(Context, "is_stream_capturable", lambda *_: False, raising=False)
    with opened() as session:
        for value in (1, 2, 3):
            assert session.run(batch(value)).tolist() == [[4.0 * value]] * 2
    assert sum(c.executed for c in machine.engine.contexts) == 4


def test_the_device_has_a_context_before_the_engine_is_read(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT-RTX looks at it when kernels of an earlier process are offered."""
    order: list[str] = []
    torch = fake_cuda.fake_torch()
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: order.append("context"))
    monkeypatch.setattr(_trt_session, "require_gpu", lambda _flavour: torch)

    class Kernels:
        def __init__(self, _library: Any, engine: Engine, *_rest: object) -> None:
            order.append("kernels")
            self.context = engine.create_execution_context

        def keep(self) -> None:
            return None

    monkeypatch.setattr(_trt_session, "CompiledKernels", Kernels)
    with TensorrtSession(RTX, lambda: b"plan") as session:
        assert session.run(batch(1)).tolist() == [[4.0]] * 2
    assert order == ["context", "kernels"]
