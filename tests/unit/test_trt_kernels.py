"""Kernels that TensorRT-RTX compiled: kept between processes, and used only where they fit.

The library is played by a fake: its own needs a GPU. That the names exist is `test_trt_api.py`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inception_deploy.engines import _trt_session
from inception_deploy.engines._trt_cache import VARIABLE
from inception_deploy.engines._trt_kernels import CompiledKernels
from inception_deploy.engines._trt_library import RTX, Gpu
from inception_deploy.engines._trt_session import TensorrtSession, Timing

GPU = Gpu("RTX 4090", 89)
EAGER = "eager"


@dataclass
class Cache:
    """Accepts what starts with `accepts`, as the library looks at the environment."""

    accepts: bytes
    content: bytes = b""

    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(self.accepts):
            return False
        self.content = blob
        return True

    def serialize(self) -> bytes:
        return self.content or self.accepts


@dataclass
class Config:
    cache: Cache
    dynamic_shapes_kernel_specialization_strategy: str = "lazy"
    taken: list[Cache] = field(default_factory=list)

    def create_runtime_cache(self) -> Cache:
        return self.cache

    def set_runtime_cache(self, cache: Cache) -> bool:
        self.taken.append(cache)
        return True


@dataclass
class Engine:
    """Compiles a kernel for each context that it makes with a configuration."""

    driver: bytes = b"580:"
    configs: list[Config] = field(default_factory=list)

    def create_runtime_config(self) -> Config:
        self.configs.append(Config(Cache(self.driver)))
        return self.configs[-1]

    def create_execution_context(self, config: Config | None = None) -> object:
        if config is not None:
            assert config.taken == [config.cache]
            assert config.dynamic_shapes_kernel_specialization_strategy == EAGER
            if b"conv" not in config.cache.content:
                config.cache.content = self.driver + b"conv"
        return object()


LIBRARY = SimpleNamespace(
    __version__="1.7.1", DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER=EAGER)
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))


def kernels(engine: Engine, plan: bytes = b"plan", gpu: Gpu = GPU) -> CompiledKernels:
    return CompiledKernels(LIBRARY, engine, plan, gpu)


def kept(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in (folder / "cache" / "kernels").glob("*")}


def test_the_next_process_takes_them_over(tmp_path: Path) -> None:
    first = kernels(Engine())
    assert not first.reused
    assert first.context() is not None
    assert first.keep() is None
    files = kept(tmp_path)
    assert sorted(Path(name).suffix for name in files) == [".engine", ".json"]
    engine = Engine()
    second = kernels(engine)
    assert second.reused
    second.context()
    assert engine.configs[0].cache.content == b"580:conv"
    assert second.keep() is None
    assert kept(tmp_path) == files  # nothing new, nothing written


def test_other_engines_and_gpus_have_their_own() -> None:
    first = kernels(Engine())
    first.context()
    first.keep()
    assert not kernels(Engine(), plan=b"other").reused
    assert not kernels(Engine(), gpu=Gpu("RTX 5090", 120)).reused
    assert kernels(Engine()).reused


def test_what_the_library_declines_is_compiled_and_kept_anew() -> None:
    before = kernels(Engine(driver=b"570:"))
    before.context()
    before.keep()
    updated = kernels(Engine())
    assert not updated.reused
    updated.context()
    updated.keep()
    assert kernels(Engine()).reused


def test_a_damaged_file_is_not_handed_to_the_library(tmp_path: Path) -> None:
    first = kernels(Engine())
    first.context()
    first.keep()
    (path,) = (tmp_path / "cache" / "kernels").glob("*.engine")
    path.write_bytes(path.read_bytes() + b"more")  # which the fake would accept
    assert not kernels(Engine()).reused


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    made = kernels(Engine())
    made.context()
    said = made.keep()
    assert said is not None
    assert "cannot be kept" in said


class Session(TensorrtSession):
    """As after `load`: the rest of that needs a GPU."""

    def __init__(self, made: CompiledKernels | None) -> None:
        super().__init__(RTX, lambda: b"")
        self._kernels = made


def test_a_session_keeps_them_when_it_closes(tmp_path: Path) -> None:
    made = kernels(Engine())
    made.context()
    session = Session(made)
    session.close()
    assert session.not_kept is None
    assert len(kept(tmp_path)) == 2
    session.close()  # and once more does nothing
    assert Session(None).not_kept is None


def test_lanes_ask_for_contexts_with_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(_trt_session, "TrtLane", lambda *given: seen.append(given[2]))
    engine = Engine()
    made = kernels(engine)
    session = Session(made)
    session._engine = engine
    session._lane()
    plain = Session(None)
    plain._engine = engine
    plain._lane()
    assert seen == [made.context, engine.create_execution_context]


def test_a_sessions_parts_are_seconds() -> None:
    session = Session(None)
    assert set(session.parts()) == {"engine"}
    session.timing = Timing(to_device=1.0, compute=2.0, to_host=0.5)
    assert session.parts() == {"engine": 0.0, "h2d": 0.001, "compute": 0.002, "d2h": 0.0005}
