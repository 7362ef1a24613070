"""BF16 and FP8: what their graphs hold, what stays out, and that the rounding is the format's."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from small_graphs import build, noise, observe_on, types_of, weights_of

from inception_deploy.engines._as_written import AsWritten
from inception_deploy.errors import RecipeError, StageError
from inception_deploy.precisions import PRECISIONS
from inception_deploy.precisions.fp8 import LARGEST, Fp8, rounded_weights

BODY = """
 a = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(input, w, b)
 r = Relu(a)
 m = MaxPool<kernel_shape = [2, 2]>(r)
 c = Conv<kernel_shape = [1, 1]>(m, v)
 output = Softmax(c)"""
MODEL = build(BODY, {"w": (16, 4, 3, 3), "b": (16,), "v": (16, 16, 1, 1)})


def test_bf16_is_in_the_types() -> None:
    lowering = PRECISIONS.get("bf16").lower(MODEL, None)
    types = types_of(lowering.model)
    assert {types[name] for name in ("w", "b", "v", "a", "r", "m", "c")} == {"BFLOAT16"}
    assert (types["input"], types["output"]) == ("FLOAT", "FLOAT")
    assert [refused.node for refused in lowering.refused] == ["node.output"]
    assert lowering.model.opset_import[0].version == 22
    assert MODEL.opset_import[0].version == 20


def test_a_bf16_graph_is_run_by_rounding_every_tensor() -> None:
    identity = np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)
    model = build("output = Conv(input, w)", {"w": identity})
    lowered = PRECISIONS.get("bf16").lower(model, None).model
    images = noise(model)
    with AsWritten().session(lowered.SerializeToString()) as session:
        outputs = session.run(images)
    assert np.array_equal(outputs, images.astype(ml_dtypes.bfloat16).astype(np.float32))
    assert not np.array_equal(outputs, images)


def test_bf16_refuses_older_opsets() -> None:
    model = build(BODY, {"w": (16, 4, 3, 3), "b": (16,), "v": (16, 16, 1, 1)}, opset=17)
    with pytest.raises(StageError, match="export with --opset 20"):
        PRECISIONS.get("bf16").lower(model, None)


def test_fp8_scales_bring_ranges_to_448_and_are_held_by_float16() -> None:
    ranges = observe_on(MODEL)
    weights = weights_of(Fp8().lower(MODEL, ranges).model)
    scale = float(weights["input:scale"])
    exact = ranges.tensors["input"].max_abs / LARGEST
    assert exact <= scale <= exact * (1 + 2**-10)
    assert scale == float(np.float16(scale))
    assert weights["node.a.weight:float8_e4m3fn"].dtype == ml_dtypes.float8_e4m3fn
    assert weights["node.a.weight:scale"].shape == ()


def test_fp8_rounds_to_three_bits_of_a_mantissa() -> None:
    values = np.linspace(-3, 3, 1001, dtype=np.float32)
    grid = rounded_weights(values)
    found = grid.integers.astype(np.float32) * grid.scales
    normal = np.abs(values) > grid.scales * 2.0**-6
    assert (np.abs(found - values)[normal] <= np.abs(values)[normal] * (2**-4 + 1e-6)).all()
    assert np.abs(found).max() <= 3.003
    dead = rounded_weights(np.zeros((2, 2), np.float32))
    assert not dead.integers.astype(np.float32).any()
    assert float(dead.scales) == 1.0


def test_convolutions_without_a_kernel_stay_float16_with_the_reason() -> None:
    body = """
     a = Conv<kernel_shape = [7, 7], pads = [3, 3, 3, 3]>(input, w7)
     d = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 16>(a, wd)
     p = AveragePool<kernel_shape = [2, 2]>(d)
     c = Conv<kernel_shape = [1, 1]>(p, v)
     output = Softmax(c)"""
    weights = {"w7": (16, 4, 7, 7), "wd": (16, 1, 3, 3), "v": (16, 16, 1, 1)}
    model = build(body, weights)
    lowering = Fp8().lower(model, observe_on(model))
    assert [done.node for done in lowering.applied if done.rewrite == "fp8"] == ["node.c"]
    reasons = {refused.node: refused.reason for refused in lowering.refused}
    assert "no FP8 kernel of 7×7" in reasons["node.a"]
    assert "one group" in reasons["node.d"]
    assert "pools take no FP8" in reasons["node.p"]
    assert types_of(lowering.model)["d"] == "FLOAT16"
    kept = Fp8(exclude=frozenset({"node.a"})).lower(model, observe_on(model))
    assert {r.node: r.reason for r in kept.refused}["node.a"] == "kept in float on request"


def test_fp8_is_for_targets_that_have_it() -> None:
    with pytest.raises(RecipeError, match="--target tensorrt-rtx"):
        Fp8().at("onnxruntime")


def test_a_bias_that_float16_would_round_keeps_no_int8_convolution_in_fp32() -> None:
    """Its error is far below a step; in FP32 a cast would part the pool from the convolution."""
    body = "m = MaxPool<kernel_shape = [2, 2]>(input)\n c = Conv(m, w, b)\n output = Softmax(c)"
    bias = np.full(16, 1.001, np.float32)
    model = build(body, {"w": np.full((16, 4, 1, 1), 1e-3, np.float32), "b": bias})
    images = noise(model, scale=0.01)
    lowered = PRECISIONS.get("int8").at("tensorrt").lower(model, observe_on(model, images)).model
    kinds = types_of(lowered)
    assert kinds["c"] == kinds["m"] == "FLOAT16"
    assert all(n.op_type != "Cast" or n.output[0] != "m.fp32" for n in lowered.graph.node)
    assert onnx.checker.check_model(lowered, full_check=True) is None
