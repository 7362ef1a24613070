"""The family for TensorRT-RTX: every graph parses, builds for GPUs not here, runs as asked.

Every network in every format with a fixed and a free batch, each for all GPUs that have the format.
What a kernel runs in is read from the builder's own description of the engine.
"""

from __future__ import annotations

import pytest
from small_networks import exported
from trt_builds import DYNAMIC, STATIC, built

from inception_deploy.networks import NETWORKS

pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-rtx is not installed")


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "fp8"])
@pytest.mark.parametrize("network", NETWORKS.names())
def test_every_network_builds_and_runs_as_asked(
    network: str, precision: str, dynamic: bool
) -> None:
    found = built(network, precision, DYNAMIC if dynamic else STATIC)
    assert found.strays == []
    convolutions = sum(node.op_type == "Conv" for node in exported(network).model.graph.node)
    assert found.asked["Conv"] > convolutions / 5
    if precision in ("fp32", "int8"):
        assert found.asked["Conv"] == convolutions
