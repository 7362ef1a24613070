"""FP16: one hand-made graph for each rule that keeps a node in FP32."""

from __future__ import annotations

import numpy as np
import pytest
from fp16_cases import BLOCK, SIZES, lowered, reasons
from small_graphs import Weights, build, noise, observe_on, op_types, types_of
from small_graphs import weights_of as weights

from inception_deploy.artifact import FloatArray
from inception_deploy.engines import ENGINES
from inception_deploy.errors import StageError
from inception_deploy.precisions.fp16 import Fp16
from inception_deploy.ranges import Ranges, TensorRange

ENGINE = ENGINES.get("onnxruntime")


def test_an_overflowing_tensor_keeps_its_writer_and_readers_in_fp32() -> None:
    model = build(
        "a = Conv(input, w, b)\n r = Relu(a)\n output = Conv(r, v)",
        {"w": np.full((2, 4, 1, 1), 3000, "f4"), "b": (2,), "v": np.full((2, 2, 1, 1), 1e-4, "f4")},
    )
    result = lowered(model)
    assert set(reasons(result)) == {"node.a", "node.r", "node.output"}
    assert "'a' reaches" in reasons(result)["node.a"]
    assert "the limit is 8188 (65504 / headroom 8)" in reasons(result)["node.a"]
    assert "Cast" not in op_types(result.model)  # nothing is left that could be float16


@pytest.mark.parametrize(("largest", "kept"), [(8188.0, False), (8189.0, True)])
def test_the_limit_is_65504_over_the_headroom(largest: float, kept: bool) -> None:
    model = build("output = Relu(input)")
    seen = TensorRange(-largest, largest)
    ranges = Ranges({"input": seen, "output": seen}, "m", "d", 1, "min_max")
    result = Fp16(fp32_io=False).lower(model, ranges)
    assert bool(result.refused) is kept


def test_a_huge_weight_is_named_with_its_value() -> None:
    huge = np.ones((4, 4, 1, 1), np.float32)
    huge[2, 1] = -70000.0
    model = build("a = Conv(input, w)\n output = Conv(a, v)", {"w": huge, "v": (2, 4, 1, 1)})
    result = lowered(model, scale=1e-3)
    assert reasons(result) == {"node.a": "weight 'w' holds -70000, beyond float16's 65504"}
    assert types_of(result.model)["w"] == "FLOAT"
    assert types_of(result.model)["v"] == "FLOAT16"


def test_weights_in_the_subnormals_stay_fp32_when_the_output_shows_it() -> None:
    generator = np.random.default_rng(0)
    tiny = (generator.standard_normal((4, 4, 3, 3)) * 1e-6).astype(np.float32)
    model = build(BLOCK, {"w": tiny, "b": np.zeros(4, np.float32)})
    result = lowered(model, scale=1000.0)
    assert "subnormals (4 of 4 channels)" in reasons(result)["node.a"]


def test_a_dead_channel_does_no_harm() -> None:
    values = weights(build(BLOCK, SIZES))["w"].copy()
    values[3] *= 1e-9
    assert reasons(lowered(build(BLOCK, {"w": values, "b": (4,)}))) == {}


def test_an_added_constant_is_judged_by_what_it_changes() -> None:
    # 4097.7 is rounded to 4096: too much where the sum cancels it, nothing where it does not
    values: Weights = {"c": np.full((1, 4, 1, 1), 4097.7, np.float32), "w": (4, 4, 1, 1)}
    harmless = "s = Add(input, c)\n output = Conv(s, w)"
    assert reasons(lowered(build(harmless, values), scale=1e-2)) == {}
    cancelled = "s = Add(input, c)\n d = Sub(s, c)\n output = Conv(d, w)"
    assert "'c' loses 1.7 to rounding" in reasons(lowered(build(cancelled, values)))["node.d"]


def test_a_factor_that_vanishes_is_refused() -> None:
    some = np.array([1e-4, 1e-9, 1e-4, 1e-4], np.float32).reshape(1, 4, 1, 1)
    body = "a = Mul(input, c)\n output = Conv(a, w)"
    result = lowered(build(body, {"c": some, "w": (4, 4, 1, 1)}), scale=1e3)
    assert reasons(result) == {"node.a": "'c' holds 1e-09, of which float16 loses 100.0%"}


def test_a_tensor_of_subnormals_is_refused() -> None:
    values: Weights = {"c": np.full(1, 2.0**-13, np.float32), "w": (4, 4, 1, 1)}
    model = build("a = Mul(input, c)\n output = Conv(a, w)", values)
    result = lowered(model, scale=0.05)
    assert "only holds as subnormals" in reasons(result)["node.a"]


def test_partial_sums_are_bounded_even_where_the_output_is_small() -> None:
    alternating = np.tile([400.0, -400.0], 18).reshape(1, 4, 3, 3).astype(np.float32)
    model = build("output = Conv(input, w)", {"w": alternating})
    flat = np.full((4, 4, 6, 6), 7.0, np.float32)
    result = Fp16().lower(model, observe_on(model, flat))
    assert "partial sums may reach 100800" in reasons(result)["node.output"]


ROWS = np.array([[3e4, -3e4, 100, 0], [5e4, 0, 0, -5e4], [1, 2, 3, 4]], np.float32)
"""Σ|w| by row: 60100, 100000, 10; by column: 80001, 30002, 103, 50004."""


@pytest.mark.parametrize(
    ("body", "weight", "shape", "reach"),
    [
        ("output = Gemm<transB=1>(input, w)", ROWS, "batch, 4", "100000"),
        ("output = Gemm<transB=1, alpha=0.5>(input, w, b)", ROWS, "batch, 4", "100007"),
        ("output = Gemm(input, w)", ROWS.T, "batch, 4", "100000"),
        ("output = MatMul(input, w)", ROWS.T, "batch, 4", "100000"),
        ("output = Conv(input, w)", ROWS.reshape(3, 1, 2, 2), "batch, 1, 2, 2", "100000"),
        ("output = Conv<group=3>(input, w)", ROWS.reshape(3, 1, 2, 2), "batch, 3, 2, 2", "100000"),
        ("output = ConvTranspose(input, w)", ROWS.T[..., None], "batch, 4, 1", "100000"),
    ],
)
def test_partial_sums_run_over_the_right_axes(
    body: str, weight: FloatArray, shape: str, reach: str
) -> None:
    weight = np.ascontiguousarray(weight)
    model = build(body, {"w": weight, "b": np.full(3, 7, np.float32)}, shape=shape)
    sizes = [1 if d == "batch" else int(d) for d in shape.split(", ")]
    ranges = observe_on(model, np.ones(sizes, np.float32))
    (why,) = reasons(Fp16().lower(model, ranges)).values()
    assert why == f"partial sums may reach {reach}, beyond float16's 65504"


def test_a_mean_is_bounded_by_its_sum() -> None:
    model = build("output = GlobalAveragePool(input)", shape="batch, 1, 20, 20")
    result = Fp16().lower(model, observe_on(model, noise(model, scale=60.0)))
    assert "partial sums may reach" in reasons(result)["node.output"]
    result = Fp16(fp32_io=False).lower(model, observe_on(model))
    assert reasons(result) == {}


def test_softmax_stays_fp32_and_costs_no_cast() -> None:
    model = build(
        "a = Conv(input, w)\n g = GlobalAveragePool(a)\n f = Flatten(g)\n output = Softmax(f)",
        {"w": (5, 4, 1, 1)},
    )
    result = lowered(model)
    assert op_types(result.model) == [
        "Cast",
        "Conv",
        "GlobalAveragePool",
        "Flatten",
        "Cast",
        "Softmax",
    ]
    assert "probabilities" in reasons(result)["node.output"]


def test_lrn_stays_fp32() -> None:
    model = build("a = Conv(input, w)\n output = LRN<size=5>(a)", {"w": (8, 4, 1, 1)})
    assert "it squares" in reasons(lowered(model))["node.output"]


def test_a_vanishing_variance_keeps_batch_norm_in_fp32() -> None:
    values: Weights = {"s": (4,), "b": (4,), "m": (4,), "v": np.full(4, 1e-8, np.float32)}
    model = build(
        "c = Conv(input, w)\n output = BatchNormalization(c, s, b, m, v)",
        {"w": np.full((4, 4, 1, 1), 1e-2, np.float32), **values},
    )
    assert "'v' holds 1e-08" in reasons(lowered(model))["node.output"]


def test_a_tensor_that_was_not_observed_is_refused() -> None:
    model = build(BLOCK, SIZES)
    seen = {"input": TensorRange(-3, 3), "a": TensorRange(-3, 3)}
    result = Fp16().lower(model, Ranges(seen, "m", "d", 1, "min_max"))
    assert "'output' was not observed" in reasons(result)["node.output"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_an_error(value: float) -> None:
    broken = np.ones((4, 4, 1, 1), np.float32)
    broken[1, 1] = value
    model = build("output = Conv(input, w)", {"w": broken})
    with pytest.raises(StageError, match="'w' holds NaN or infinity"):
        Fp16().lower(model, Ranges({}, "m", "d", 1, "min_max"))
