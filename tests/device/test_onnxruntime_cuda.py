"""ONNX Runtime on a GPU: the same numbers as on the CPU, in FP32 and in FP16."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from first_choices import NETWORKS as CHECKED
from first_choices import first_choices
from small_graphs import observe_on
from small_networks import exported
from trt_builds import lowered

from inception_deploy.engines import ENGINES
from inception_deploy.fuse import fuse
from inception_deploy.fusions import FUSIONS
from inception_deploy.lower import lower
from inception_deploy.networks import NETWORKS
from inception_deploy.precisions import PRECISIONS

ENGINE = ENGINES.get("onnxruntime")
AVAILABLE = ENGINE.availability()

pytestmark = [
    pytest.mark.device,
    pytest.mark.skipif("CUDA" not in AVAILABLE.devices, reason=AVAILABLE.detail),
]


@pytest.mark.parametrize("network", NETWORKS.names())
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_gpu_agrees_with_pytorch_on_the_cpu(network: str, precision: str) -> None:
    before = fuse(exported(network), tuple(FUSIONS))
    ranges = observe_on(before.model, before.golden.inputs)
    after = lower(before, PRECISIONS.get(precision), ranges)  # its proof runs on the GPU, too
    golden, bound = before.golden, after.records[-1].bound
    assert bound is not None
    with ENGINE.session(after.model.SerializeToString()) as session:
        assert session.device == "CUDA"
        outputs = session.run(golden.inputs)
    assert np.abs(outputs - golden.outputs).max() <= bound * golden.scale


@pytest.mark.parametrize("network", CHECKED)
def test_fp16_changes_the_choice_of_near_ties_alone(network: str) -> None:
    with ENGINE.session(lowered(network, "fp16").model.SerializeToString()) as session:
        found = first_choices(network, session.run)
    assert found.clear_disagreeing == 0
    assert found.images - found.near_ties > 45


def test_fp32_is_not_tf32() -> None:
    """TF32 keeps 10 bits of a factor: its error would be some 2⁻¹¹, not 2⁻²⁴."""
    golden = exported("googlenet").golden
    model = exported("googlenet").model.SerializeToString()
    with ENGINE.session(model) as session:
        outputs = session.run(golden.inputs)
    assert np.abs(outputs - golden.outputs).max() <= 1e-5 * golden.scale
    assert onnxruntime.get_device() == "GPU"


def test_parts_are_told_and_any_batch_is_taken() -> None:
    golden = exported("googlenet").golden
    with ENGINE.session(exported("googlenet").model.SerializeToString()) as session:
        for count in (2, 5, 1):
            outputs = session.run(golden.inputs[:count])
            assert np.abs(outputs - golden.outputs[:count]).max() <= 1e-4 * golden.scale
        parts = session.parts()
    assert set(parts) == {"engine", "h2d", "compute", "d2h"}
    assert all(seconds > 0 for seconds in parts.values())
