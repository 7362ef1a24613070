"""The family for TensorRT-RTX: every graph parses, builds for GPUs not here, runs as asked.

What a kernel runs in is read from the builder's own description of the engine.
"""

from __future__ import annotations

import pytest
from small_networks import exported
from trt_builds import DYNAMIC, STATIC, built

from inception_deploy.networks import NETWORKS

pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-rtx is not installed")

SHAPES = ("googlenet", "inception_v3", "inception_next_atto", "xception")
LARGER = {"inception_next_small", "inception_next_base", "xception65", "xception71", "xception65p"}
"""More of the modules that smaller variants have; left to the whole matrix."""


def check(network: str, precision: str, *, dynamic: bool) -> None:
    found = built(network, precision, DYNAMIC if dynamic else STATIC)
    assert found.strays == []
    convolutions = sum(node.op_type == "Conv" for node in exported(network).model.graph.node)
    assert found.asked["Conv"] > convolutions / 5
    if precision in ("fp32", "int8"):
        assert found.asked["Conv"] == convolutions


@pytest.mark.parametrize("network", sorted(set(NETWORKS.names()) - LARGER))
def test_every_network_builds_in_fp16(network: str) -> None:
    check(network, "fp16", dynamic=True)


@pytest.mark.parametrize("network", SHAPES)
@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_every_kind_of_module_runs_in_eight_bits(network: str, precision: str) -> None:
    check(network, precision, dynamic=True)


def test_residuals_run_in_int8() -> None:
    check("inception_resnet_v2", "int8", dynamic=True)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_network_in_the_other_formats(precision: str) -> None:
    check("inception_v3", precision, dynamic=False)


@pytest.mark.builds
@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "fp8"])
@pytest.mark.parametrize("network", NETWORKS.names())
def test_the_whole_matrix(network: str, precision: str, dynamic: bool) -> None:
    check(network, precision, dynamic=dynamic)
