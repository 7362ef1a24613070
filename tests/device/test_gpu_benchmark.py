"""The benchmark of a card, on a card: a narrow network, and every figure in its place."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_networks import golden_of, images, small_network

from benchmarks import gpu
from benchmarks.gpu import Plan
from benchmarks.gpu_bundles import Shape, build_apart, missing, prepare
from benchmarks.gpu_card import card_facts, card_state
from benchmarks.gpu_peer import Eager
from inception_deploy.engines._trt_library import driver_problem
from inception_deploy.recipe import BatchProfile
from inception_deploy.throughput.product import PRODUCTS, ProductRunner

pytestmark = [
    pytest.mark.device,
    pytest.mark.skipif(
        driver_problem() is not None or not torch.cuda.is_available(),
        reason=driver_problem() or "this PyTorch has no CUDA",
    ),
]

SHAPE = Shape(BatchProfile(1, 2, 4), 0.125, 75)


@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-4), ("fp16", 2**-6), ("bf16", 2**-3)])
def test_the_peer_agrees_with_pytorch_on_the_cpu(
    precision: str, bound: float, capture: bool
) -> None:
    golden = golden_of("googlenet")
    peer = Eager(
        small_network("googlenet"), precision, images("googlenet"), "cuda", capture=capture
    )
    for _ in range(3):
        outputs = peer.run(golden.inputs)
        assert np.abs(outputs - golden.outputs).max() <= bound * golden.scale
    assert set(peer.parts()) == {"h2d", "compute", "d2h"}
    assert all(seconds > 0 for seconds in peer.parts().values())
    peer.close()


def test_products_take_as_long_as_their_precision() -> None:
    """Half the bits at least double the rate on every card that computes in them."""
    rates = {}
    for precision in ("fp32", "fp16"):
        runner = ProductRunner(precision)
        for _ in range(3):
            runner(np.zeros(1))
        started = time.perf_counter()
        runner(np.zeros(1))
        rates[precision] = runner.macs(1) / (time.perf_counter() - started)
    assert rates["fp16"] > 2 * rates["fp32"] > PRODUCTS * 1e9


def test_the_card_says_what_it_is() -> None:
    facts, state = card_facts(), card_state()
    assert facts["sm"] >= 70
    assert {"name", "driver", "memory_mib", "max_sm_mhz", "cuda", "cudnn"} <= facts.keys()
    assert 0 < state["sm_mhz"] <= facts["max_sm_mhz"]


def test_everything_that_is_here_is_measured(tmp_path: Path) -> None:
    """Bundles are compiled in processes of their own, as in the command."""
    kept: list[Any] = []
    plan = Plan("cuda", 0.05, 8.0, [1, 4])
    found = gpu.run(
        ["googlenet"],
        {"torch-inductor": ["fp16"], "onnxruntime": ["fp16"], "tensorrt": ["fp16"]},
        SHAPE,
        plan,
        tmp_path,
        {},
        again=False,
        make=lambda jobs: prepare(
            jobs,
            tmp_path,
            SHAPE,
            until=plan.compiled_by,
            limit=240.0,
            workers=2,
            build=build_apart,
            tell=lambda _line: None,
        ),
        keep=lambda results: kept.append(json.dumps(results)),
        tell=lambda _line: None,
    )
    assert found["refused"] == {}
    assert found["left_out"] == []
    assert found["unavailable"].keys() <= missing("cuda").keys()
    assert [row["batch"] for row in found["rows"]] == [1, 4]
    wanted = {"pytorch:eager fp16", "pytorch:eager fp16, CUDA graph"}
    wanted |= {
        f"{target}:fp16"
        for target in ("torch-inductor", "onnxruntime", "tensorrt")
        if target not in found["unavailable"]
    }
    for row in found["rows"]:
        assert {f"{f['engine']}:{f['name']}" for f in row["figures"]} == wanted
        for figure in row["figures"]:
            assert figure["share_of"] == "kernels"
            assert 0 < figure["share_of_fp16_peak"] < 1
            assert figure["kernel_images_per_second"] > figure["images_per_second"] > 0
        assert row["peaks_tflops"]["fp16"] > 1
