"""Building with TensorRT-RTX on a machine without a GPU: engines, progress, and what goes wrong."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import onnx
import pytest
from small_graphs import build as graph
from small_graphs import observe_on
from small_networks import exported

from inception_deploy.build_options import BatchProfile, BuildOptions
from inception_deploy.engines import ENGINES
from inception_deploy.engines._recorded import read_recorded
from inception_deploy.engines._trt_build import build, check_options
from inception_deploy.engines._trt_cache import VARIABLE
from inception_deploy.engines._trt_library import RTX, TENSORRT, driver_problem
from inception_deploy.engines._trt_plan import explained
from inception_deploy.engines.tensorrt import Tensorrt
from inception_deploy.errors import BadInput, MissingDependency, StageError
from inception_deploy.precisions.int8 import Int8
from inception_deploy.progress import SilentProgress

pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-rtx is not installed")
no_gpu = pytest.mark.skipif(driver_problem() is None, reason="this machine has an NVIDIA GPU")

T = TypeVar("T")
MODEL = graph("a = Conv(input, w)\n output = Relu(a)", {"w": (8, 4, 3, 3)})
GRAPH = MODEL.SerializeToString()
FOR_89 = BuildOptions(sm=(89,))
ONE = (BatchProfile(),)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))


class Listener(SilentProgress):
    """Remembers what it was told; raises at a step if asked to."""

    def __init__(self, interrupt_at: int | None = None) -> None:
        self.stages: list[str] = []
        self.steps: list[tuple[str, int]] = []
        self.notes: list[str] = []
        self.interrupt_at = interrupt_at

    def track(self, items: Iterable[T], description: str, total: int) -> Iterator[T]:
        for item in items:
            self.steps.append((description, total))
            if self.interrupt_at == len(self.steps):
                raise KeyboardInterrupt
            yield item

    def stage(self, description: str) -> AbstractContextManager[None]:
        self.stages.append(description)
        return nullcontext()

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_one_engine_for_several_gpus_with_progress() -> None:
    listener = Listener()
    profiles = (BatchProfile(1, 1, 1), BatchProfile(2, 8, 32))
    options = BuildOptions(sm=(75, 80, 86, 89, 120, 121), builder_level=1, workspace=64)
    done = build(RTX, GRAPH, profiles, options, listener)
    assert len(done.plan) > 1000
    assert "LayerType: " in done.layers
    assert done.seconds > 0
    assert listener.stages == ["parse for TensorRT-RTX"]
    assert listener.steps
    assert len(listener.steps) <= listener.steps[0][1] + 1


def test_ctrl_c_stops_the_builder() -> None:
    model = exported("inception_v3").model.SerializeToString()
    started = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        build(RTX, model, ONE, FOR_89, Listener(interrupt_at=1))
    assert time.perf_counter() - started < 30
    assert "build" not in {thread.name for thread in threading.enumerate()}


def test_a_parser_error_names_the_node_and_the_way_out() -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(MODEL)
    broken.graph.node[1].name = "Mixed_6c.branch_pool.act"
    broken.graph.node[1].op_type = "Nonsense"
    message = r"does not parse Mixed_6c\.branch_pool\.act \(Nonsense\): .*--target onnxruntime"
    with pytest.raises(StageError, match=message) as caught:
        build(RTX, broken.SerializeToString(), ONE, FOR_89, SilentProgress())
    assert "\n" not in str(caught.value)


def test_a_graph_for_another_target_is_refused_before_it_is_parsed() -> None:
    model = graph("a = Conv(input, w)\n output = Sigmoid(a)", {"w": (8, 4, 3, 3)})
    lowered = Int8().at("onnxruntime", reduce_range=False).lower(model, observe_on(model)).model
    with pytest.raises(StageError, match="uint8"):
        build(RTX, lowered.SerializeToString(), ONE, FOR_89, Listener())


def test_a_fixed_batch_and_a_free_image_size() -> None:
    fixed = graph("output = Relu(input)", shape="2, 4, 6, 6").SerializeToString()
    assert build(RTX, fixed, (BatchProfile(2, 2, 2),), FOR_89, SilentProgress()).plan
    with pytest.raises(BadInput, match="fixed batch 2, not 1:1:8"):
        build(RTX, fixed, ONE, FOR_89, SilentProgress())
    free = graph("output = Relu(input)", shape="batch, 4, height, 6").SerializeToString()
    with pytest.raises(StageError, match="more than its batch free"):
        build(RTX, free, ONE, FOR_89, SilentProgress())


@no_gpu
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (BuildOptions(), "no NVIDIA driver.*--sm 89"),
        (BuildOptions(sm=(89,), timing_cache="timings"), "leave out --timing-cache"),
        (BuildOptions(sm=(89,), hardware_compatible="ampere+"), "use --sm"),
        (BuildOptions(sm=(89,), stripped=True), "leave out --stripped"),
        (BuildOptions(sm=(89,), version_compatible=True), "leave out --version-compatible"),
    ],
)
def test_options_that_rtx_does_not_have_here(options: BuildOptions, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        check_options(RTX, options)


@no_gpu
def test_tensorrt_builds_where_its_gpu_is() -> None:
    with pytest.raises(MissingDependency, match="use --target tensorrt-rtx"):
        check_options(TENSORRT, BuildOptions())


MISSING = replace(RTX, name="nothing-here", module="nothing_here")


def test_a_library_that_is_missing_or_too_old() -> None:
    with pytest.raises(MissingDependency, match="pip install nothing-here"):
        MISSING.load()
    with pytest.raises(MissingDependency, match=r"older than 99\.0 \(it is no good\); run: pip"):
        replace(RTX, oldest=(99, 0), because="it is no good").load()
    assert Tensorrt(MISSING).availability().remedy == "pip install nothing-here"


@no_gpu
def test_installed_and_no_gpu() -> None:
    found = ENGINES.get("tensorrt-rtx").availability()
    assert found.version
    assert not found.ok
    assert "builds engines for --sm" in found.detail
    with (
        pytest.raises(MissingDependency, match="cannot run here: no NVIDIA driver"),
        ENGINES.get("tensorrt-rtx").session(GRAPH),
    ):
        pass


def test_a_second_build_comes_from_the_cache(tmp_path: Path) -> None:
    model, listener = tmp_path / "model.onnx", Listener()
    onnx.save(MODEL, model)
    engine = ENGINES.get("tensorrt-rtx")
    first = engine.compiled(model, tmp_path, options=FOR_89, progress=listener)
    digest = hashlib.sha256((tmp_path / "model.engine").read_bytes()).hexdigest()
    again = engine.compiled(model, tmp_path, options=FOR_89, progress=listener)
    assert (first.facts["cached"], again.facts["cached"]) == (False, True)
    assert hashlib.sha256((tmp_path / "model.engine").read_bytes()).hexdigest() == digest
    assert first.executed == again.executed == {"node.a": "float32", "node.output": "float32"}
    other = engine.compiled(model, tmp_path, options=BuildOptions(sm=(80,)), progress=listener)
    assert not other.facts["cached"]
    assert listener.stages == 2 * ["parse for TensorRT-RTX"]


def test_what_is_no_model_is_bad_input(tmp_path: Path) -> None:
    engine = ENGINES.get("tensorrt-rtx")
    with pytest.raises(BadInput, match="not a file"):
        engine.compiled(tmp_path / "none.onnx", tmp_path, options=FOR_89)
    for content in (b"", b"this is no protobuf", GRAPH[: len(GRAPH) // 2]):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(BadInput, match="export it again"):
            engine.compiled(tmp_path / "bad.onnx", tmp_path, options=FOR_89)


def test_an_engine_of_another_hash_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(b"plan")
    assert read_recorded(path, hashlib.sha256(b"plan").hexdigest()) == b"plan"
    path.write_bytes(b"plaN")
    with pytest.raises(BadInput, match=r"not the engine that was exported.*not loaded"):
        read_recorded(path, hashlib.sha256(b"plan").hexdigest())
    with pytest.raises(BadInput, match="cannot read"):
        read_recorded(tmp_path / "none.engine", "")


@no_gpu
def test_what_the_library_says_without_a_driver() -> None:
    """The real library, a real plan: it gives None, and its log says why."""
    import tensorrt_rtx

    from inception_deploy.engines._trt_library import logger

    plan = build(RTX, GRAPH, ONE, FOR_89, SilentProgress()).plan
    said: list[str] = []
    runtime = tensorrt_rtx.Runtime(logger(tensorrt_rtx, lambda _, text: said.append(text)))
    assert not runtime.engine_host_code_allowed
    assert runtime.deserialize_cuda_engine(plan) is None
    assert "no NVIDIA driver" in explained(RTX, "1.7.1", said, [])
