"""The OpenVINO session: files, types, batches, streams; nothing on the terminal or the network."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_graphs import build, noise, observe_on

from inception_deploy.engines import ENGINES
from inception_deploy.engines.openvino import (
    FIXED_BATCHES,
    Openvino,
    OpenvinoSession,
    Options,
    save_ir,
)
from inception_deploy.errors import BadInput, MissingDependency, StageError
from inception_deploy.placements import PLACEMENTS
from inception_deploy.precisions.fp16 import Fp16
from inception_deploy.precisions.int8 import Int8

ENGINE = Openvino()
MODEL = build("a = Conv(input, w)\n output = Relu(a)", {"w": (5, 4, 3, 3)})

needs_openvino = pytest.mark.skipif(
    not ENGINE.availability().ok, reason=f"OpenVINO: {ENGINE.availability().detail}"
)


def opened(model: onnx.ModelProto, **options: object) -> OpenvinoSession:
    return ENGINE.session(model.SerializeToString(), **options)  # type: ignore[arg-type]


def test_it_is_registered() -> None:
    assert isinstance(ENGINES.get("openvino"), Openvino)


def test_a_missing_library_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    available = ENGINE.availability()
    assert not available.ok
    assert available.remedy == "pip install openvino"
    with pytest.raises(MissingDependency, match="pip install openvino"):
        ENGINE.session(b"")


@needs_openvino
def test_a_file_loads_and_its_errors_name_it(tmp_path: Path) -> None:
    good, bad, missing = tmp_path / "a.onnx", tmp_path / "b.onnx", tmp_path / "c.onnx"
    good.write_bytes(MODEL.SerializeToString())
    bad.write_bytes(b"\x08\x09 no model")
    with ENGINE.session(good) as session:
        assert session.run(noise(MODEL)).shape == (4, 5, 4, 4)
    for path in (bad, missing, tmp_path):
        with pytest.raises(BadInput, match=path.name), ENGINE.session(path):
            pass


@needs_openvino
def test_its_own_format_gives_the_same_numbers_and_keeps_float32(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(MODEL.SerializeToString())
    xml, weights = save_ir(model, tmp_path)
    assert xml == tmp_path / "openvino" / "model.xml"
    assert weights.stat().st_size >= 4 * 5 * 4 * 3 * 3
    with ENGINE.session(model) as session:
        expected = session.run(noise(MODEL))
    with ENGINE.session(xml) as session:
        assert session.inputs[0].shape == ("batch", 4, 6, 6)
        assert np.array_equal(session.run(noise(MODEL)), expected)
        assert session.executed_precisions()["node.a"] == "float32"


@needs_openvino
def test_a_damaged_file_of_its_own_format_is_bad_input(tmp_path: Path) -> None:
    xml = tmp_path / "model.xml"
    xml.write_text("<net")
    with (
        pytest.raises(BadInput, match=r"model\.xml is not an OpenVINO model") as caught,
        ENGINE.session(xml),
    ):
        pass
    assert "\n" not in str(caught.value)


@needs_openvino
@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_other_input_types_have_their_numpy_counterpart(dtype: str) -> None:
    model = build("f = Cast<to=1>(input)\n output = Relu(f)", dtype=dtype)
    with opened(model) as session:
        assert session.inputs[0].dtype == np.dtype(dtype)
        assert (session.run(np.full((2, 4, 6, 6), 3, dtype)) == 3).all()


@needs_openvino
def test_a_float16_graph_gives_float16() -> None:
    lowered = Fp16(fp32_io=False).lower(MODEL, observe_on(MODEL)).model
    with opened(lowered) as session:
        assert session.inputs[0].dtype == session.outputs[0].dtype == np.float16
        half = session.run(noise(MODEL).astype(np.float16))
    with opened(MODEL) as session:
        full = session.run(noise(MODEL))
    assert half.dtype == np.float16
    assert 0 < np.abs(half - full).max() < 4e-3 * np.abs(full).max()


@needs_openvino
def test_a_tensor_without_numpy_counterpart_is_refused() -> None:
    model = build("f = Cast<to=1>(input)\n output = Relu(f)", dtype="bfloat16")
    with pytest.raises(StageError, match="'input' is bfloat16"), opened(model):
        pass


@needs_openvino
def test_float32_is_not_rounded_to_bfloat16_unless_asked() -> None:
    with opened(MODEL) as session:
        full = session.run(noise(MODEL))
        assert set(session.executed_precisions().values()) == {"float32"}
    if "BF16" not in ENGINE.availability().detail:
        pytest.skip("this CPU has no bfloat16 kernels to ask for")
    with opened(MODEL, options=Options(precision="bf16")) as session:
        rounded = session.run(noise(MODEL))
        assert session.executed_precisions()["node.a"] == "bfloat16"
    assert np.abs(rounded - full).max() > 1e-4 * np.abs(full).max()


@needs_openvino
def test_as_written_means_float_between_quantisers() -> None:
    placement = PLACEMENTS.get("openvino")
    model = build("a = Conv(input, w)\n output = Softmax(a)", {"w": (5, 4, 3, 3)})
    lowered = Int8(placement=placement).lower(model, observe_on(model)).model
    for optimise, precision in ((True, "int8"), (False, "float32")):
        with opened(lowered, optimise=optimise) as session:
            assert session.executed_precisions()["node.a"] == precision


@needs_openvino
def test_batch_sizes_beyond_the_first_few_share_a_graph() -> None:
    with opened(MODEL) as session:
        for batch in range(1, FIXED_BATCHES + 4):
            images = noise(MODEL, batch)
            first = session.run(images)
            assert np.array_equal(session.run(images), first)
            assert np.allclose(first[:1], session.run(images[:1]), rtol=0, atol=1e-5)
        assert len(session._compiled) == FIXED_BATCHES + 1


@needs_openvino
def test_a_graph_for_one_batch_size_takes_that_one() -> None:
    fixed = build("output = Relu(input)", shape="3, 4, 6, 6")
    with opened(fixed) as session:
        assert session.inputs[0].shape == (3, 4, 6, 6)
        assert session.run(noise(fixed, 3)).shape == (3, 4, 6, 6)
        with pytest.raises(BadInput, match="must have shape"):
            session.run(noise(fixed, 2))


@needs_openvino
def test_free_sizes_of_images_are_served() -> None:
    free = build("a = Conv(input, w)\n output = Relu(a)", {"w": (5, 4, 3, 3)}, shape="n, 4, h, w")
    with opened(free) as session:
        assert session.inputs[0].shape == ("n", 4, "h", "w")
        for size in (5, 9):
            images = np.ones((2, 4, size, size), np.float32)
            assert session.run(images).shape == (2, 5, size - 2, size - 2)


@needs_openvino
@pytest.mark.parametrize("options", [Options(), Options("throughput", streams=2)])
def test_many_batches_come_back_in_their_order(options: Options) -> None:
    batches = [noise(MODEL, size, seed=seed) for seed, size in enumerate((2, 2, 2, 2, 2, 3, 2))]
    with opened(MODEL, threads=2, options=options) as session:
        expected = [session.run(batch) for batch in batches]
        results = list(session.run_many(iter(batches)))
    assert len(results) == len(expected)
    for have, want in zip(results, expected, strict=True):
        assert np.allclose(have, want, rtol=0, atol=1e-5)


@needs_openvino
def test_many_batches_are_checked_like_one() -> None:
    with opened(MODEL) as session:
        results = session.run_many([noise(MODEL), noise(MODEL)[:, :3]])
        with pytest.raises(BadInput, match="must have shape"):
            list(results)


@needs_openvino
def test_threads_and_streams_are_taken_as_asked() -> None:
    options = Options("throughput", streams=2)
    with opened(MODEL, threads=2, options=options) as session:
        (compiled,) = session._compiled.values()
        assert compiled.get_property("INFERENCE_NUM_THREADS") == 2
        assert compiled.get_property("NUM_STREAMS") == 2


@needs_openvino
def test_importing_it_reaches_neither_the_terminal_nor_the_network() -> None:
    """In a process of its own: the library would report its import from a thread at once."""
    code = """
        import socket, sys
        def refuse(*arguments, **options):
            print("network:", *arguments)
            raise OSError("no network")
        socket.getaddrinfo = socket.socket.connect = refuse
        from inception_deploy.engines import ENGINES
        from inception_deploy.errors import StageError, BadInput
        engine = ENGINES.get("openvino")
        engine.availability()
        for model in (b"junk", b""):
            try:
                with engine.session(model): pass
            except (StageError, BadInput): pass
        print(sorted(name for name in sys.modules if name.startswith("openvino_telemetry")))
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
