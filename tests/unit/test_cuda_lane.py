"""A callable on a GPU: nothing is read before it is done, and only the device's work is timed.

The GPU is played by `fake_cuda.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fake_cuda
import numpy as np
import pytest
import torch
import torch._inductor

from inception_deploy.engines._cuda_host import FIRST_RUN
from inception_deploy.engines._cuda_lane import CudaLane

COMPUTE = 7.0


class Model:
    """Adds one up per image; counts how often it was launched."""

    def __init__(self) -> None:
        self.launched = 0

    def __call__(self, given: fake_cuda.Tensor) -> fake_cuda.Tensor:
        self.launched += 1
        assert FIRST_RUN._is_owned() or not capturing()  # type: ignore[attr-defined]
        result = fake_cuda.Tensor(np.zeros(len(given.array), np.float32), "cuda")

        def work() -> None:
            result.array[...] = given.array.sum((1, 2, 3)) + 1

        fake_cuda.kernel(work, COMPUTE)
        return result


def capturing() -> bool:
    return bool(fake_cuda._capturing)


def batch(value: float, count: int = 2) -> np.ndarray[Any, Any]:
    return np.full((count, 1, 2, 2), value, np.float32)


@pytest.mark.parametrize("capture", [True, False])
def test_results_are_those_of_this_run(capture: bool) -> None:
    model = Model()
    lane = CudaLane(fake_cuda.fake_torch(), model, batch(0), capture=capture)
    found = [lane.run(batch(value))[0] for value in (1, 2, 3)]
    assert [list(result) for result in found] == [[5, 5], [9, 9], [13, 13]]
    assert model.launched == (2 if capture else 4)


@pytest.mark.parametrize("capture", [True, False])
def test_the_hosts_copy_is_not_in_the_transfer(capture: bool) -> None:
    lane = CudaLane(fake_cuda.fake_torch(), Model(), batch(0), capture=capture)
    _, parts = lane.run(batch(1))
    assert parts == pytest.approx(
        {
            "h2d": 1e-3 * fake_cuda.COPY_TO,
            "compute": 1e-3 * COMPUTE,
            "d2h": 1e-3 * fake_cuda.COPY_BACK,
        }
    )


@pytest.mark.parametrize("way", ["read-only", "reversed"])
def test_batches_that_pytorch_cannot_take(way: str) -> None:
    lane = CudaLane(fake_cuda.fake_torch(), Model(), batch(0), capture=True)
    images = np.stack([batch(1)[0], batch(2)[0]])
    given = images[::-1] if way == "reversed" else images
    given.setflags(write=way == "reversed")
    result, _ = lane.run(given)
    assert list(result) == ([9, 5] if way == "reversed" else [5, 9])


def test_threads_capture_one_after_the_other() -> None:
    def work(value: float) -> list[float]:
        lane = CudaLane(fake_cuda.fake_torch(), Model(), batch(0), capture=True)
        return list(lane.run(batch(value))[0])

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(work, range(4))) == [[1, 1], [5, 5], [9, 9], [13, 13]]


def test_pytorch_has_what_the_fake_plays() -> None:
    """Names and keywords of the PyTorch that is here, whose CUDA needs no GPU to be looked at."""
    fake = fake_cuda.fake_torch()
    assert all(hasattr(torch.cuda, name) for name in vars(fake.cuda))
    assert all(hasattr(torch, name) for name in vars(fake))
    assert {"stream", "capture_error_mode"} <= parameters(torch.cuda.graph.__init__)
    assert "enable_timing" in parameters(torch.cuda.Event.__new__)
    assert hasattr(torch.cuda.CUDAGraph, "replay")
    methods = {name for name in vars(fake_cuda.Tensor) if not name.startswith("_")}
    assert not {name for name in methods if not hasattr(torch.Tensor, name)}
    assert "run_single_threaded" in parameters(torch._inductor.aoti_load_package)


def parameters(call: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(call).parameters)
