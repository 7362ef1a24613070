"""Which runtime takes a plan, what is said when none does, and weights that are put back.

The library is played by fakes; that its names exist is `test_trt_api.py`'s. Texts are its own.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inception_deploy.engines import _trt_plan
from inception_deploy.engines._trt_library import RTX, TENSORRT
from inception_deploy.engines._trt_plan import LEAN, explained, put_back, taken
from inception_deploy.errors import StageError

OTHER_VERSION = "Version tag does not match. Note: Current Version: 241, Serialized Version: 239"


class Library:
    """Takes plans of its own version; a lean runtime takes those of `lean_takes`."""

    __version__ = "11.4"

    def __init__(self, lean_takes: bytes = b"", says: str = OTHER_VERSION) -> None:
        self.lean_takes, self.says = lean_takes, says
        self.loaded: list[str] = []
        library = self

        class Logger:
            def log(self, severity: Any, text: str) -> None:
                raise AssertionError("sessions pass the logger on, and log nothing")

        class Runtime:
            engine_host_code_allowed = True

            def __init__(self, logger: Any, takes: bytes = b"own") -> None:
                self.logger, self.takes = logger, takes

            def deserialize_cuda_engine(self, plan: bytes) -> str | None:
                if plan == self.takes:
                    return f"engine of {plan!r}"
                self.logger.log(SimpleNamespace(name="ERROR"), library.says)
                return None

            def load_runtime(self, path: str) -> Runtime | None:
                assert not self.engine_host_code_allowed
                library.loaded.append(path)
                if not library.lean_takes:
                    self.logger.log(SimpleNamespace(name="ERROR"), "no runtime at all")
                    return None
                return Runtime(self.logger, library.lean_takes)

        self.ILogger, self.Runtime = Logger, Runtime


@pytest.fixture
def lean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A lean runtime that is installed."""
    library = tmp_path / "libnvinfer_lean.so.11"
    library.touch()
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", {LEAN: spec}.get)
    monkeypatch.setattr(_trt_plan, "gpus", lambda: ())
    return library


def test_a_plan_of_this_version_is_taken_without_its_code(lean: Path) -> None:
    library = Library()
    runtime, engine = taken(TENSORRT, library, b"own")
    assert engine == "engine of b'own'"
    assert not runtime.engine_host_code_allowed
    assert library.loaded == []


def test_a_plan_of_another_version_goes_to_its_lean_runtime(lean: Path) -> None:
    library = Library(lean_takes=b"older")
    (runtime, loader), engine = taken(TENSORRT, library, b"older")
    assert engine == "engine of b'older'"
    assert library.loaded == [str(lean)]
    assert (runtime.takes, loader.takes) == (b"older", b"own")  # both live as long as the engine


@pytest.mark.parametrize(("lean_takes", "said"), [(b"another", "Version tag"), (b"", "no runtime")])
def test_a_plan_that_no_runtime_takes(lean: Path, lean_takes: bytes, said: str) -> None:
    library = Library(lean_takes)
    wanted = f"built by another version .*nor does the lean runtime {lean.name} load it: {said}"
    with pytest.raises(StageError, match=wanted):
        taken(TENSORRT, library, b"older")


def test_other_plans_are_no_business_of_the_lean_runtime(
    lean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = Library(lean_takes=b"plan", says="Magic tag does not match")
    with pytest.raises(StageError, match="truncated or no engine"):
        taken(TENSORRT, damaged, b"plan")
    rtx = Library(lean_takes=b"plan")  # of which no version loads another's
    with pytest.raises(StageError, match="another version"):
        taken(RTX, rtx, b"plan")
    assert damaged.loaded == rtx.loaded == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        StageError, match=r"another version \(here: TensorRT 11.4, no GPU\); export"
    ):
        taken(TENSORRT, Library(), b"plan")


TEXTS = {
    "Version tag does not match": "another version",
    "The engine plan file is not compatible with this version of TensorRT, expecting library "
    "version ": "another version",
    "Failed due to an old deserialization call on a newer plan file": "another version",
    "Trying to load an engine created with incompatible serialization version": "another version",
    "The engine plan file is generated on an incompatible device, expecting compute ": "other GPUs",
    "The current device is not compatible with this hardware-compatible engine. Expected compute "
    "capability >=": "other GPUs",
    "Cannot deserialize engine with lean runtime since": "which is not run",
    "Magic tag does not match": "truncated or no engine",
    "Serialization assertion header.magicTag == kEXPECTED_MAGIC_TAG failed": "truncated",
    "Serialization assertion plan.header.size == blobSize failed": "truncated",
    "CUDA driver version is insufficient for CUDA runtime version": "no NVIDIA driver",
}
"""What both libraries say → what is said of it."""

FURTHER = {
    "Platform specific tag mismatch detected. TensorRT plan files are only supported on the target "
    "runtime platform they were created on": "another system",
    "Not enough data to deserialize vector": "truncated or no engine",
    "something nobody has seen": "something nobody has seen",
}
"""What TensorRT alone says."""


@pytest.mark.parametrize(("text", "cause"), [*TEXTS.items(), *FURTHER.items()])
def test_why_a_plan_is_not_taken(text: str, cause: str) -> None:
    message = (
        f"IRuntime::deserializeCudaEngine: Error Code 1: Serialization ({text} In f at a.cpp:1)"
    )
    said = explained(TENSORRT, "11.4", [message], [90])
    assert cause in said
    assert "export it again" in said or "no NVIDIA driver" in said
    assert "\n" not in said


def test_the_library_has_these_texts() -> None:
    import_spec = importlib.util.find_spec("tensorrt_rtx_libs")
    if import_spec is None or not import_spec.submodule_search_locations:
        pytest.skip("the extra tensorrt-rtx is not installed")
    (place,) = import_spec.submodule_search_locations
    content = next(Path(place).glob("libtensorrt_rtx.so*")).read_bytes()
    absent = [text for text in TEXTS if not all(p.encode() in content for p in text.split(" == "))]
    assert absent == []


@pytest.mark.parametrize("fails", ["parse", "refit", None])
def test_weights_are_put_back_or_the_reason_is_given(fails: str | None, tmp_path: Path) -> None:
    asked: list[str] = []

    class Parser:
        def __init__(self, refitter: Any, logger: Any) -> None:
            self.logger = logger

        def refit_from_file(self, path: str) -> bool:
            asked.append(path)
            self.logger.log(SimpleNamespace(name="ERROR"), "no weights\nfor conv1")
            return fails != "parse"

    class Refitter:
        def __init__(self, engine: Any, logger: Any) -> None:
            assert engine == "engine"

        def refit_cuda_engine(self) -> bool:
            asked.append("refit")
            return fails != "refit"

    library = SimpleNamespace(
        ILogger=Library().ILogger, Refitter=Refitter, OnnxParserRefitter=Parser
    )
    weights = tmp_path / "model.onnx"
    if fails is None:
        put_back(library, "engine", weights)
        assert asked == [str(weights), "refit"]
    else:
        with pytest.raises(
            StageError, match=r"does not hold the weights .*: no weights for conv1;"
        ):
            put_back(library, "engine", weights)
