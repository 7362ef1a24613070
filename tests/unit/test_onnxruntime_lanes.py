"""Lanes of the ONNX Runtime session: which batches are cut, and that no value tells of it."""

from __future__ import annotations

import gc
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from small_graphs import CLASSIFIER, build, noise

from inception_deploy.artifact import FloatArray
from inception_deploy.engines import _onnxruntime_lanes, _onnxruntime_session
from inception_deploy.engines._onnxruntime_lanes import Lanes, own_threads, separable
from inception_deploy.engines.base import TensorSpec
from inception_deploy.engines.onnxruntime import OnnxRuntime, OnnxRuntimeSession
from inception_deploy.errors import StageError

ENGINE = OnnxRuntime()
MODEL = build(
    CLASSIFIER, {"w": (8, 4, 3, 3), "b": (8,), "v": (5, 8)}, outputs=("output", "pooled", "r")
)
GRAPH = MODEL.SerializeToString()
STATUS = Path("/proc/self/status")


@pytest.fixture
def cuts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(images, lanes) of every batch that is cut."""
    seen: list[tuple[int, int]] = []
    whole = Lanes.run

    def run(self: Lanes, feeds: Any, names: Any) -> list[Any]:
        seen.append((len(feeds["input"]), self._count))
        return whole(self, feeds, names)

    monkeypatch.setattr(Lanes, "run", run)
    return seen


def laned(threads: int = 2, model: bytes = GRAPH, **options: Any) -> OnnxRuntimeSession:
    return ENGINE.session(model, threads=threads, lanes=True, **options)


def second(session: OnnxRuntimeSession) -> Lanes | None:
    return session._lanes


def lane_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("lane")]


@pytest.mark.parametrize(("threads", "batch"), [(2, 2), (2, 8), (3, 6), (4, 4)])
def test_lanes_give_what_their_parts_give(
    threads: int, batch: int, cuts: list[tuple[int, int]]
) -> None:
    images = noise(MODEL, batch)
    with laned(threads) as session:
        found = session.infer({"input": images})
    assert cuts == [(batch, threads)]
    with ENGINE.session(GRAPH, threads=1) as alone:
        parts = [alone.infer({"input": part}) for part in np.split(images, threads)]
    assert list(found) == ["output", "pooled", "r"]
    for name, values in found.items():
        assert np.array_equal(values, np.concatenate([part[name] for part in parts]))


@pytest.mark.parametrize(("threads", "batch"), [(2, 1), (2, 3), (3, 4), (4, 2), (1, 4)])
def test_other_batches_stay_whole(threads: int, batch: int, cuts: list[tuple[int, int]]) -> None:
    with laned(threads) as session, ENGINE.session(GRAPH, threads=threads) as plain:
        images = noise(MODEL, batch)
        assert np.array_equal(session.run(images), plain.run(images))
    assert cuts == []


def test_files_are_cut_and_graphs_in_memory_only_when_asked(
    tmp_path: Path, cuts: list[tuple[int, int]]
) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(GRAPH)
    images = noise(MODEL, 2)
    for model, lanes, cut in (
        (file, None, True),
        (file, False, False),
        (GRAPH, None, False),
        (GRAPH, True, True),
    ):
        with ENGINE.session(model, threads=2, lanes=lanes) as session:
            session.run(images)
        assert cuts == [(2, 2)] * cut
        cuts.clear()
    with ENGINE.session(file, threads=2, optimise=False) as as_written:
        as_written.run(images)
    assert cuts == []


def test_without_a_number_there_are_as_many_as_onnx_runtime_takes(
    monkeypatch: pytest.MonkeyPatch, cuts: list[tuple[int, int]]
) -> None:
    monkeypatch.setattr(_onnxruntime_session, "own_threads", lambda: 3)
    with ENGINE.session(GRAPH, lanes=True) as session:
        for batch in (2, 3):
            session.run(noise(MODEL, batch))
    assert cuts == [(3, 3)]


def test_the_environment_is_asked_before_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    cores: list[int | None] = [6]
    monkeypatch.setattr(_onnxruntime_lanes, "physical_cores", lambda: cores[0])
    for told, wanted in (("4", 4), ("0", 6), ("", 6), ("many", 6)):
        monkeypatch.setenv("ORT_INTRA_OP_NUM_THREADS", told)
        assert own_threads() == wanted
    cores[0] = None
    assert own_threads() == 1


def test_a_gpu_runs_batches_whole(
    monkeypatch: pytest.MonkeyPatch, cuts: list[tuple[int, int]]
) -> None:
    """The CPU stands for the GPU that the library is told of."""

    def on_the_cpu(session: Any, feeds: Any, names: Any, device: str) -> Any:
        return session.run(names, feeds), {}

    monkeypatch.setattr(_onnxruntime_session, "cuda_problem", lambda: None)
    monkeypatch.setattr(_onnxruntime_session, "run_on_device", on_the_cpu)
    session = laned()
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"):
        session.load()
    assert session.device == "CUDA"
    assert session.run(noise(MODEL, 4)).shape == (4, 5)
    assert cuts == []
    session.close()


@pytest.mark.parametrize(
    ("shapes", "outputs", "expected"),
    [
        ([("batch", 3, 8, 8)], [("batch", 5)], True),
        ([("batch", 3, "height", "width")], [("batch", 5), ("batch",)], True),
        ([("batch", 3), ("batch", 4)], [("batch", 5)], True),
        ([(4, 3, 8, 8)], [(4, 5)], False),
        ([("batch", 3, 8, 8)], [(4, 5)], False),
        ([("batch", 3, 8, 8)], [("batch", 5), ()], False),
        ([("batch", 3, 8, 8)], [("rows", 5)], False),
        ([("batch", 3), ("rows", 4)], [("batch", 5)], False),
        ([("?", 3, 8, 8)], [("?", 5)], False),
        ([("batch", 3)], [("batch", "batch")], False),
        ([("batch", 3)], [("batch", "?")], False),
        ([("batch", "batch")], [("batch", 5)], False),
    ],
)
def test_a_row_per_image_is_what_lets_a_batch_be_cut(
    shapes: list[tuple[int | str, ...]], outputs: list[tuple[int | str, ...]], expected: bool
) -> None:
    def specs(all_shapes: list[tuple[int | str, ...]]) -> list[TensorSpec]:
        return [TensorSpec("x", np.dtype(np.float32), shape) for shape in all_shapes]

    assert separable(specs(shapes), specs(outputs)) is expected


@pytest.mark.parametrize(
    ("body", "shape", "batch"),
    [
        ("f = Flatten(input)\n t = Transpose(f)\n output = MatMul(f, t)", "batch, 4, 2, 2", 4),
        ("output = ReduceSum<keepdims=0>(input)", "batch, 4, 2, 2", 4),
        ("output = Relu(input)", "4, 4, 2, 2", 4),
    ],
    ids=["pairs of images", "one number", "fixed batch"],
)
def test_graphs_without_rows_stay_whole(
    body: str, shape: str, batch: int, cuts: list[tuple[int, int]]
) -> None:
    model = build(body, shape=shape)
    images = noise(model, batch)
    with (
        laned(model=model.SerializeToString()) as session,
        ENGINE.session(model.SerializeToString(), threads=2) as plain,
    ):
        assert np.array_equal(session.run(images), plain.run(images))
    assert cuts == []


def test_the_second_session_waits_for_the_first_batch_that_needs_it() -> None:
    with laned() as session:
        session.run(noise(MODEL, 3))
        assert second(session) is None
        session.run(noise(MODEL, 4))
        first = second(session)
        assert first is not None
        options = first._session.get_session_options()
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
        session.run(noise(MODEL, 2))
        assert second(session) is first
    assert second(session) is None
    with session:  # and again
        assert second(session) is None
        assert session.run(noise(MODEL, 4)).shape == (4, 5)
        assert second(session) is not first


def test_inputs_of_different_lengths_stay_whole(cuts: list[tuple[int, int]]) -> None:
    """Adding broadcasts the one image that the second input has."""
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["": 20]> g '
        "(float[batch, 3] input, float[batch, 3] more) => (float[batch, 3] output) "
        "{output = Add(input, more)}"
    )
    images = np.arange(24, dtype=np.float32).reshape(8, 3)
    with laned(model=model.SerializeToString()) as session:
        for more in (images[:1], images[::-1]):
            found = session.infer({"input": images, "more": more})["output"]
            assert np.array_equal(found, images + more)
    assert cuts == [(8, 2)]


@pytest.mark.parametrize("becomes", ["another", "nothing"])
def test_a_file_that_changed_is_not_loaded_again(
    becomes: str, tmp_path: Path, cuts: list[tuple[int, int]]
) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(GRAPH)
    images = noise(MODEL, 4)
    with ENGINE.session(file, threads=2) as session, ENGINE.session(GRAPH, threads=2) as plain:
        if becomes == "another":
            file.write_bytes(build("output = Relu(input)").SerializeToString())
        else:
            file.unlink()
        assert np.array_equal(session.run(images), plain.run(images))
    assert cuts == []


def picking() -> bytes:
    """Images (N, 1) of rows of a table: what fails depends on the image."""
    model = build(
        "i = Cast<to=7>(input)\n output = Gather(table, i)", {"table": (3, 2)}, shape="batch, 1"
    )
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("bad", range(4))
def test_an_error_in_any_lane_is_the_one_of_the_whole(bad: int) -> None:
    images = np.zeros((4, 1), np.float32)
    images[bad] = 7
    said = []
    for lanes in (False, True):
        with ENGINE.session(picking(), threads=2, lanes=lanes) as session:
            with pytest.raises(StageError, match="failed while running") as caught:
                session.run(images)
            said.append(re.sub(r"position:.*", "", str(caught.value)))
            assert session.run(np.ones((4, 1), np.float32)).shape == (4, 1, 2)
    assert said[0] == said[1]
    assert "\n" not in said[0]


def test_a_lane_that_fails_waits_for_the_others() -> None:
    ended = threading.Event()
    begun = threading.Event()

    class Slow:
        def run(self, names: Any, part: dict[str, FloatArray]) -> list[FloatArray]:
            if part["x"][0] == 0:
                begun.wait(5)
                raise ValueError("the first part")
            begun.set()
            threading.Event().wait(0.05)
            ended.set()
            return [part["x"]]

    lanes = Lanes(Slow(), 2)
    with pytest.raises(ValueError, match="the first part"):
        lanes.run({"x": np.arange(2, dtype=np.float32)}, ["y"])
    assert ended.is_set()
    lanes.close()


def test_many_threads_may_share_a_session() -> None:
    made: list[int] = []

    class Counted(OnnxRuntimeSession):
        def _made(self, ort: Any, threads: int | None, providers: Any) -> Any:
            made.append(threads or 0)
            threading.Event().wait(0.05)  # long enough for all to find that it is not there yet
            return super()._made(ort, threads, providers)

    batches = [noise(MODEL, 6 - seed % 6 // 2, seed=seed) for seed in range(60)]
    with laned() as alone:
        wanted = [alone.run(batch) for batch in batches]
    with (
        Counted(GRAPH, threads=2, optimise=True, lanes=True) as session,
        ThreadPoolExecutor(6) as pool,
    ):
        for want, have in zip(wanted, pool.map(session.run, batches), strict=True):
            assert np.array_equal(want, have)
    assert made == [2, 1]


@pytest.mark.skipif(not STATUS.exists(), reason="this system does not tell a process's memory")
def test_a_closed_session_keeps_neither_threads_nor_memory() -> None:
    """20 times opened, 1,000 runs: a kept session would be 4 MB of weights."""

    def resident() -> int:
        found = re.search(r"^VmRSS:\s+(\d+) kB", STATUS.read_text(), re.M)
        assert found is not None
        return int(found.group(1))

    model = build("f = Flatten(input)\n output = MatMul(f, w)", {"w": (144, 7000)})
    images = noise(model, 4)
    session = laned(model=model.SerializeToString())
    before = 0
    for opened in range(20):
        with session:
            for _ in range(50):
                session.run(images)
            assert len(lane_threads()) == 1
        assert lane_threads() == []
        gc.collect()
        if opened == 3:  # by then the allocator has what it keeps
            before = resident()
    assert resident() - before < 5 * 4_000  # of the 16 since then


def test_results_can_be_kept_and_written() -> None:
    images = noise(MODEL, 4)
    images.setflags(write=False)
    with laned() as session:
        first = session.run(images)
        kept = first.copy()
        session.run(2 * images)
        assert np.array_equal(first, kept)
        first[:] = 0  # nobody else's
        assert np.array_equal(session.run(images[::-1])[::-1], kept)  # not contiguous


def test_an_abandoned_session_lets_its_threads_go() -> None:
    session = laned().__enter__()
    session.run(noise(MODEL, 4))
    (thread,) = [t for t in threading.enumerate() if t.name.startswith("lane")]
    del session
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()
