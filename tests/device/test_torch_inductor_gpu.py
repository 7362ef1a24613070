"""Packages of PyTorch's compiler on a GPU: PyTorch's numbers, replayed run after run."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from first_choices import first_choices
from small_graphs import build
from small_networks import golden_of, images, small_network

from inception_deploy.build_options import BatchProfile
from inception_deploy.bundle import file_digest
from inception_deploy.engines import ENGINES, Network, Session
from inception_deploy.engines._inductor_session import InductorSession

pytestmark = pytest.mark.device

ENGINE = ENGINES.get("torch-inductor")
BOUNDS = {"fp32": 1e-4, "fp16": 2.0**-6, "bf16": 2.0**-3}


@pytest.fixture(autouse=True)
def _needs_a_gpu() -> None:
    available = ENGINE.availability()
    if "CUDA" not in available.devices or not available.ok:
        pytest.skip(f"no GPU for torch-inductor: {available.detail}")


def deployed(folder: Path, precision: str, *, cuda_graphs: bool = True) -> InductorSession:
    shape = "batch, 3, 64, 64"
    onnx.save(build("logits = Relu(input)", shape=shape, outputs=("logits",)), folder / "m.onnx")
    network = Network(small_network("googlenet"), precision, images("googlenet"))
    made = ENGINE.compiled(folder / "m.onnx", folder, batch=BatchProfile(1, 4, 8), network=network)
    path = made.files[0]
    return InductorSession(path, file_digest(path), cuda_graphs=cuda_graphs)


@pytest.mark.parametrize("precision", BOUNDS)
def test_the_package_agrees_with_pytorch_on_the_cpu(precision: str, tmp_path: Path) -> None:
    golden = golden_of("googlenet")
    with deployed(tmp_path, precision) as session:
        outputs = session.run(golden.inputs)
        assert session.device == "CUDA"
    assert np.abs(outputs - golden.outputs).max() <= BOUNDS[precision] * golden.scale


def test_fp16_changes_the_choice_of_near_ties_alone(tmp_path: Path) -> None:
    with deployed(tmp_path, "fp16") as session:
        found = first_choices("googlenet", session.run)
    assert found.clear_disagreeing == 0
    assert found.images - found.near_ties > 45


def test_a_replayed_graph_gives_the_bits_of_the_kernels_alone(tmp_path: Path) -> None:
    with deployed(tmp_path, "fp16", cuda_graphs=False) as session:
        wanted = session.run(images("googlenet"))
        path, digest = session._path, session._sha256
    with InductorSession(path, digest) as session:
        for _ in range(4):
            assert np.array_equal(session.run(images("googlenet")), wanted)
        assert set(session.parts()) == {"engine", "h2d", "compute", "d2h"}
        assert all(seconds > 0 for seconds in session.parts().values())
        assert session.run(images("googlenet", 19)).shape == (19, 7)


def test_a_thousand_runs_take_no_more_memory(tmp_path: Path) -> None:
    import torch

    session: Session = deployed(tmp_path, "fp16")
    with session:
        for _ in range(10):
            session.run(images("googlenet"))
        free = torch.cuda.mem_get_info()[0]
        for _ in range(1000):
            session.run(images("googlenet"))
        assert free - torch.cuda.mem_get_info()[0] < 1 << 20


def test_sessions_in_several_threads(tmp_path: Path) -> None:
    """Each captures its own graph while the others run theirs."""
    with deployed(tmp_path, "fp32") as session:
        path, digest = session._path, session._sha256
        expected = session.run(images("googlenet"))
    found: list[bool] = []

    def work() -> None:
        with InductorSession(path, digest) as own:
            for count in (5, 3, 1):
                outputs = own.run(images("googlenet")[:count])
                found.append(np.allclose(outputs, expected[:count], rtol=1e-3, atol=1e-4))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 9
