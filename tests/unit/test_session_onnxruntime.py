"""The ONNX Runtime session: files, types, threads, and nothing on the terminal."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_graphs import build, noise, observe_on

from inception_deploy.engines import ENGINES, _onnxruntime_session
from inception_deploy.engines._onnxruntime_session import run_on_device
from inception_deploy.engines.base import TensorSpec
from inception_deploy.engines.onnxruntime import OnnxRuntime, OnnxRuntimeSession
from inception_deploy.errors import BadInput, MissingDependency, StageError
from inception_deploy.precisions.fp16 import Fp16

ENGINE = OnnxRuntime()
MODEL = build("a = Conv(input, w)\n output = Relu(a)", {"w": (5, 4, 3, 3)})


def test_it_is_registered() -> None:
    assert isinstance(ENGINES.get("onnxruntime"), OnnxRuntime)


def test_a_file_loads_and_its_errors_name_it(tmp_path: Path) -> None:
    good, bad, missing = tmp_path / "a.onnx", tmp_path / "b.onnx", tmp_path / "c.onnx"
    good.write_bytes(MODEL.SerializeToString())
    bad.write_bytes(b"\x08\x09 no model")
    with ENGINE.session(good) as session:
        assert session.run(noise(MODEL)).shape == (4, 5, 4, 4)
    for path in (bad, missing, tmp_path):
        with pytest.raises(BadInput, match=path.name), ENGINE.session(path):
            pass


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_other_input_types_have_their_numpy_counterpart(dtype: str) -> None:
    model = build("f = Cast<to=1>(input)\n output = Relu(f)", dtype=dtype)
    with ENGINE.session(model.SerializeToString()) as session:
        assert session.inputs[0].dtype == np.dtype(dtype)
        images = np.full((2, 4, 6, 6), 3, dtype)
        assert (session.run(images) == 3).all()


def test_a_float16_graph_gives_float16() -> None:
    lowered = Fp16(fp32_io=False).lower(MODEL, observe_on(MODEL)).model
    with ENGINE.session(lowered.SerializeToString()) as session:
        assert session.inputs[0].dtype == session.outputs[0].dtype == np.float16
        half = session.run(noise(MODEL).astype(np.float16))
    with ENGINE.session(MODEL.SerializeToString()) as session:
        full = session.run(noise(MODEL))
    assert half.dtype == np.float16
    assert 0 < np.abs(half - full).max() < 4e-3 * np.abs(full).max()


def test_a_failure_while_running_is_one_line() -> None:
    model = build("output = Reshape(input, shape)", {"shape": np.array([7, 11], np.int64)})
    with (
        ENGINE.session(model.SerializeToString()) as session,
        pytest.raises(StageError, match="failed while running") as caught,
    ):
        session.run(noise(MODEL))
    assert "\n" not in str(caught.value)
    assert ".cc:" not in str(caught.value)


def test_a_tensor_without_numpy_counterpart_is_refused() -> None:
    model = build("f = Cast<to=1>(input)\n output = Relu(f)", dtype="bfloat16")
    with (
        pytest.raises(StageError, match="'input' is a tensor"),
        ENGINE.session(model.SerializeToString()),
    ):
        pass


def test_threads_are_taken_as_asked() -> None:
    with ENGINE.session(MODEL.SerializeToString(), threads=1) as session:
        assert isinstance(session, OnnxRuntimeSession)
        options = session._session.get_session_options()
        assert options.intra_op_num_threads == 1
        assert options.inter_op_num_threads == 1


def test_nothing_reaches_the_terminal() -> None:
    """In a process of its own, for the library writes from C++, past sys.stderr."""
    code = """
        from inception_deploy.engines import ENGINES
        from inception_deploy.errors import StageError, BadInput
        engine = ENGINES.get("onnxruntime")
        engine.availability()
        for model in (b"junk", b""):
            try:
                with engine.session(model): pass
            except (StageError, BadInput): pass
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_a_missing_library_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    available = ENGINE.availability()
    assert not available.ok
    assert available.remedy == "pip install onnxruntime"
    with pytest.raises(MissingDependency, match="pip install onnxruntime"):
        ENGINE.session(b"")


def test_a_free_dimension_fits_any_size() -> None:
    spec = TensorSpec("x", np.dtype(np.float32), ("batch", 3))
    spec.check(np.zeros((9, 3), np.float32))
    with pytest.raises(BadInput, match=r"\(batch, 3\), not \(9, 4\)"):
        spec.check(np.zeros((9, 4), np.float32))


def test_on_a_device_transfers_and_kernels_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU stands for the GPU: the calls are the same, and nothing is bound for one batch."""
    asked: list[str] = []

    def on_the_cpu(session: Any, feeds: Any, names: Any, device: str) -> Any:
        asked.append(device)
        return run_on_device(session, feeds, names, "cpu")

    monkeypatch.setattr(_onnxruntime_session, "run_on_device", on_the_cpu)
    with ENGINE.session(MODEL.SerializeToString()) as session:
        assert set(session.parts()) == {"engine"}
        for count in (4, 1, 3):
            images = noise(MODEL, count)
            session.device = "CPU"
            wanted = session.run(images)
            session.device = "CUDA"
            kept = images.copy()
            assert np.array_equal(session.run(images[::-1])[::-1], wanted)
            assert np.array_equal(images, kept)
        parts = session.parts()
    assert asked == ["cuda"] * 3
    assert set(parts) == {"engine", "h2d", "compute", "d2h"}
    assert parts["engine"] >= sum(parts[name] for name in ("h2d", "compute", "d2h")) > 0


def test_launching_is_not_taken_for_computing() -> None:
    with ENGINE.session(MODEL.SerializeToString()) as session:
        assert session.profile(noise(MODEL), runs=2)
        session.device = "CUDA"
        assert session.profile(noise(MODEL), runs=2) is None
