"""TensorRT and TensorRT-RTX on a GPU: the same numbers as PyTorch on the CPU, run after run."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from first_choices import NETWORKS, first_choices
from small_graphs import noise
from small_networks import exported
from trt_builds import lowered

from inception_deploy.build_options import BatchProfile
from inception_deploy.bundle import file_digest
from inception_deploy.engines import ENGINES, Engine, Session
from inception_deploy.engines._trt_session import TensorrtSession
from inception_deploy.errors import BadInput, StageError

pytestmark = pytest.mark.device

RAN = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
"""What most of a graph's convolutions compute in, in the words of reports."""


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def engine(request: pytest.FixtureRequest) -> Engine:
    engine = ENGINES.get(request.param)
    available = engine.availability()
    if not available.ok:
        pytest.skip(available.detail)
    return engine


def deployed(engine: Engine, model: onnx.ModelProto, folder: Path) -> Session:
    onnx.save(model, folder / "model.onnx")
    made = engine.compiled(folder / "model.onnx", folder, batch=BatchProfile(1, 4, 8))
    digest = file_digest(made.files[0])
    return engine.deployed(made.files[0], digest, model=folder / "model.onnx")


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_engine_agrees_with_pytorch(
    engine: Engine, network: str, precision: str, tmp_path: Path
) -> None:
    lowering, golden = lowered(network, precision), exported(network).golden
    with deployed(engine, lowering.model, tmp_path) as session:
        outputs = session.run(golden.inputs)
        told = session.executed_precisions() or {}
    assert np.abs(outputs - golden.outputs).max() <= lowering.bound * golden.scale
    assert RAN[precision] in told.values()


@pytest.mark.parametrize("network", NETWORKS)
def test_fp16_changes_the_choice_of_near_ties_alone(
    engine: Engine, network: str, tmp_path: Path
) -> None:
    with deployed(engine, lowered(network, "fp16").model, tmp_path) as session:
        found = first_choices(network, session.run)
    assert found.clear_disagreeing == 0
    assert found.images - found.near_ties > 45


def test_a_replayed_graph_gives_the_same_bits(engine: Engine, tmp_path: Path) -> None:
    lowering, images = lowered("googlenet", "fp16"), exported("googlenet").golden.inputs
    with deployed(engine, lowering.model, tmp_path) as session:
        outputs = [session.run(images) for _ in range(4)]  # captured by the first, and replayed
        assert all(np.array_equal(output, outputs[0]) for output in outputs)
        assert np.array_equal(session.run(images[:1])[0], session.run(images[:1])[0])
        assert isinstance(session, TensorrtSession)
        assert session.timing is not None
        assert session.timing.compute > 0


def test_a_thousand_runs_take_no_more_memory(engine: Engine, tmp_path: Path) -> None:
    import torch

    lowering, images = lowered("googlenet", "fp16"), exported("googlenet").golden.inputs
    with deployed(engine, lowering.model, tmp_path) as session:
        for _ in range(10):
            session.run(images)
        free = torch.cuda.mem_get_info()[0]
        for _ in range(1000):
            session.run(images)
        assert free - torch.cuda.mem_get_info()[0] < 1 << 20


def test_sessions_in_several_threads(engine: Engine, tmp_path: Path) -> None:
    lowering, images = lowered("googlenet", "fp32"), exported("googlenet").golden.inputs
    session = deployed(engine, lowering.model, tmp_path)
    with session:
        expected = session.run(images)
    found: list[bool] = []

    def work() -> None:
        own = engine.deployed(
            tmp_path / "model.engine", file_digest(tmp_path / "model.engine"), model=tmp_path
        )
        with own:
            found.append(all(np.array_equal(own.run(images), expected) for _ in range(20)))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True, True, True]


def test_batches_beyond_the_profile(engine: Engine, tmp_path: Path) -> None:
    model = lowered("googlenet", "fp32").model
    with deployed(engine, model, tmp_path) as session:
        many = session.run(noise(model, 19))
        assert many.shape[0] == 19
        assert list(map(len, session.run_many([noise(model, n) for n in (8, 3, 1)]))) == [8, 3, 1]


def test_a_truncated_engine(engine: Engine, tmp_path: Path) -> None:
    deployed(engine, lowered("googlenet", "fp32").model, tmp_path)
    path = tmp_path / "model.engine"
    digest = file_digest(path)
    path.write_bytes(path.read_bytes()[: 1 << 16])
    with pytest.raises(BadInput, match="not loaded"), engine.deployed(path, digest, model=tmp_path):
        pass
    with (
        pytest.raises(StageError, match="export it again"),
        engine.deployed(path, file_digest(path), model=tmp_path),
    ):
        pass
