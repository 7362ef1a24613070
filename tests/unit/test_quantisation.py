"""Eight-bit arithmetic against ONNX's operators and against sums written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from inception_deploy.engines import ENGINES
from inception_deploy.errors import StageError
from inception_deploy.quantisation import (
    IntegerType,
    QuantisedWeights,
    Quantiser,
    activation_quantiser,
    bias_correction,
    quantise_weights,
    quantised_bias,
    widened,
)
from inception_deploy.ranges import TensorRange

GRIDS = [
    Quantiser(0.5, 0, "uint8"),
    Quantiser(0.5, 128, "uint8"),
    Quantiser(float(np.float32(0.1)), 37, "uint8"),
    Quantiser(float(np.float32(1 / 3)), 255, "uint8"),
    Quantiser(float(np.float32(0.1)), 0, "int8"),
    Quantiser(float(np.float32(0.017)), -128, "int8"),
    Quantiser(2.0**-60, 0, "uint8"),
]


def operators(grid: Quantiser) -> bytes:
    """A model: float x → its integers, and what they stand for."""
    kind = TensorProto.UINT8 if grid.dtype == "uint8" else TensorProto.INT8
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [
            helper.make_tensor_value_info("q", kind, ["n"]),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"]),
        ],
        [
            numpy_helper.from_array(np.array(grid.scale, np.float32), "scale"),
            numpy_helper.from_array(np.array(grid.zero_point, grid.dtype), "zero"),
        ],
    )
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9)
    return bytes(model.SerializeToString())


def values(grid: Quantiser) -> NDArray[np.float32]:
    """Every half step of the grid and beyond, its neighbours, and noise."""
    steps = np.arange(-700, 700) / 2
    exact = (steps * grid.scale).astype(np.float32)
    around = np.concatenate([np.nextafter(exact, np.float32(x)) for x in (-np.inf, np.inf)])
    noise = np.random.default_rng(0).normal(0, 60 * grid.scale, 5000).astype(np.float32)
    return np.concatenate([exact, around, noise, np.array([0, 3e38, -3e38], np.float32)])


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_integers_are_bit_equal_to_onnx_runtimes(grid: Quantiser) -> None:
    x = values(grid)
    with ENGINES.get("onnxruntime").session(operators(grid)) as session:
        found = session.infer({"x": x})
    integers = grid.quantise(x)
    assert integers.dtype == grid.dtype
    assert np.array_equal(integers, found["q"])
    assert np.array_equal(grid.dequantise(integers), found["y"])


@pytest.mark.parametrize("grid", GRIDS[:6], ids=str)
def test_integers_are_bit_equal_to_the_reference_evaluators(grid: Quantiser) -> None:
    x = values(grid)[:-2]  # its integers have 32 bits, and do not saturate what is beyond
    q, y = ReferenceEvaluator(operators(grid)).run(None, {"x": x})
    assert np.array_equal(grid.quantise(x), q)
    assert np.array_equal(grid.dequantise(grid.quantise(x)), y)


def test_halves_go_to_the_even_neighbour_and_ends_saturate() -> None:
    grid = Quantiser(2.0, 3, "uint8")
    x = np.array([-7, -6.01, -6, -5, -3, -1, 0, 1, 3, 5, 504, 506, 1e9], np.float32)
    assert grid.quantise(x).tolist() == [0, 0, 0, 1, 1, 3, 3, 3, 5, 5, 255, 255, 255]


RANGES = [
    *((0.0, 6.0), (-1.0, 1.0), (-0.3, 5.1), (-4.0, 0.0)),
    *((1.5, 2.0), (-3.0, -2.0), (0.0, 0.0), (0.0, 1e-40)),
]


@pytest.mark.parametrize(
    ("low", "high", "dtype", "symmetric"),
    [
        (low, high, dtype, symmetric)
        for low, high in RANGES
        for dtype in ("uint8", "int8")
        for symmetric in (False, True)
        if low >= 0 or dtype == "int8" or not symmetric
    ],
)
def test_the_grid_of_a_range_covers_it_and_has_zero(
    low: float, high: float, dtype: IntegerType, symmetric: bool
) -> None:
    grid = activation_quantiser(TensorRange(low, high), dtype, symmetric=symmetric)
    assert grid.limits[0] <= grid.zero_point <= grid.limits[1]
    assert grid.scale == np.float32(grid.scale) > 0
    ends = np.array([low, 0.0, high], np.float32)
    back = grid.dequantise(grid.quantise(ends))
    assert back[1] == 0.0
    assert np.abs(back - ends).max() <= grid.scale * (0.5 + 1e-5)
    if symmetric:
        assert grid.zero_point == 0
    # no step more than the range needs
    steps = 127 if symmetric and dtype == "int8" else 255
    extent = max(high, -low, 0.0) if steps == 127 else max(high, 0.0) - min(low, 0.0)
    assert grid.scale <= max(extent / steps * (1 + 1e-6), 2.0**-60)


def test_a_negative_range_on_a_one_sided_grid_is_an_error() -> None:
    with pytest.raises(AssertionError, match="nothing negative"):
        activation_quantiser(TensorRange(-1, 1), "uint8", symmetric=True)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("bits", [7, 8])
@pytest.mark.parametrize("axis", [0, 1])
def test_weights_are_the_nearest_integers_of_their_channel(
    bits: int, axis: int, clip: bool
) -> None:
    weights = np.random.default_rng(0).standard_normal((6, 5, 3, 3), np.float32)
    grid = quantise_weights(weights, axis=axis, bits=bits, clip=clip)
    highest = 2 ** (bits - 1) - 1
    assert grid.scales.shape == (weights.shape[axis],)
    assert grid.scales.dtype == np.float32
    for channel, scale in enumerate(grid.scales):
        own = np.take(weights, channel, axis).astype(np.float64)
        steps = np.take(grid.integers, channel, axis)
        expected = np.clip(np.round(own / np.float64(scale)), -highest, highest)
        assert np.array_equal(steps, expected)
        if not clip:
            assert scale == np.float32(np.abs(own).max() / highest)
            assert np.abs(steps).max() == highest
    shape = [-1 if d == axis else 1 for d in range(4)]
    assert np.array_equal(grid.dequantise(), grid.integers * grid.scales.reshape(shape))


def test_clipping_never_raises_the_squared_error() -> None:
    rng = np.random.default_rng(1)
    weights = rng.standard_t(3, (16, 8, 3, 3)).astype(np.float32)
    errors = [
        ((quantise_weights(weights, clip=c).dequantise() - weights) ** 2).sum((1, 2, 3))
        for c in (True, False)
    ]
    assert (errors[0] <= errors[1] * (1 + 1e-6)).all()
    assert (errors[0] < 0.95 * errors[1]).any()


def test_an_outlier_channel_costs_the_others_nothing() -> None:
    weights = np.random.default_rng(2).standard_normal((4, 3, 3, 3), np.float32)
    planted = weights.copy()
    planted[1] *= 100
    before, after = quantise_weights(weights, clip=False), quantise_weights(planted, clip=False)
    others = [0, 2, 3]
    assert np.array_equal(before.integers[others], after.integers[others])
    relative = np.abs(after.dequantise() - planted) / np.abs(planted).max((1, 2, 3), keepdims=True)
    assert relative.max() <= 0.5 / 127 * (1 + 1e-5)


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-39])
def test_dead_and_denormal_channels_are_zeros(size: float) -> None:
    weights = np.ones((2, 3, 1, 1), np.float32)
    weights[0] = size
    grid = quantise_weights(weights)
    assert grid.scales[0] >= np.finfo(np.float32).tiny
    assert not grid.integers[0].any()
    assert (grid.integers[1] == 127).all()


def test_a_bias_is_exact_on_the_accumulators_grid() -> None:
    scales = np.array([0.5, 0.25, 0.001], np.float32)
    bias = np.array([12.25, -3.0, 0.12345])
    steps, grid = quantised_bias(bias, 0.5, scales)
    assert steps.dtype == np.int32
    assert np.array_equal(grid, np.float32(0.5) * scales)
    assert steps[:2].tolist() == [49, -24]
    assert np.abs(steps * grid.astype(np.float64) - bias).max() <= grid[2] / 2


@pytest.mark.parametrize("value", [2.0**31, -(2.0**31) - 1, np.inf])
def test_a_bias_beyond_32_bits_is_never_cut(value: float) -> None:
    assert quantised_bias(np.array([2.0**31 - 1]), 1.0, np.array([1], np.float32))[0] == 2**31 - 1
    with pytest.raises(StageError, match=r"the bias of channel 1, .* more than 32 bits"):
        quantised_bias(np.array([0.0, value]), 1.0, np.array([1, 1], np.float32))


@pytest.mark.parametrize("bits", [7, 8])
def test_a_channel_is_widened_until_its_bias_fits(bits: int) -> None:
    weights = np.random.default_rng(3).normal(0, 1e-6, (3, 50, 3, 3)).astype(np.float32)
    bias = np.array([0.001, 20.0, -3.0])
    grid = quantise_weights(weights, bits=bits, clip=False)
    scale = 1e-4
    with pytest.raises(StageError):
        quantised_bias(bias, scale, grid.scales)
    wider = widened(grid, weights, bias, scale, bits=bits)
    steps, scales = quantised_bias(bias, scale, wider.scales)
    np.testing.assert_allclose(steps * scales.astype(np.float64), bias, rtol=1e-6)
    assert np.array_equal(wider.integers[0], grid.integers[0])  # its bias did fit
    assert wider.scales[0] == grid.scales[0]
    assert np.abs(wider.integers).max() <= 2 ** (bits - 1) - 1
    # the whole channel stays right: the largest sum that 8-bit inputs can make
    loss = 255 * scale * np.abs(wider.dequantise() - weights).sum((1, 2, 3))
    assert (loss[1:] <= np.abs(bias[1:]) * 450 * 255 / 2**31).all()


def test_a_bias_behind_dead_weights_or_a_dead_input_survives() -> None:
    weights = np.zeros((2, 3, 1, 1), np.float32)
    weights[1] = 0.3
    bias = np.array([0.7, -1.3])
    dead = activation_quantiser(TensorRange(0, 0), "uint8", symmetric=False)
    for input_scale in (0.01, dead.scale):
        grid = widened(quantise_weights(weights), weights, bias, input_scale)
        steps, scales = quantised_bias(bias, input_scale, grid.scales)
        assert (scales >= np.finfo(np.float32).tiny).all()
        lost = np.abs(steps * scales.astype(np.float64) - bias)
        assert (lost <= scales / 2 + 1e-9).all()
        assert (scales <= 0.01 * 0.3 / 127 * (1 + 1e-6)).all()  # fine beside a live channel's


def test_widening_leaves_alone_what_fits() -> None:
    weights = np.random.default_rng(4).standard_normal((3, 2, 3, 3), np.float32)
    grid = quantise_weights(weights)
    assert widened(grid, weights, np.array([1.0, -2.0, 0.0]), 0.02) is grid


@pytest.mark.parametrize(
    ("out", "inputs", "groups"), [(6, 4, 1), (6, 4, 2), (4, 4, 4), (8, 4, 4)], ids=str
)
def test_bias_correction_is_the_mean_of_what_rounding_adds(
    out: int, inputs: int, groups: int
) -> None:
    rng = np.random.default_rng(5)
    weights = rng.standard_normal((out, inputs // groups, 3, 2), np.float32)
    grid = quantise_weights(weights, bits=7)
    x = rng.normal(0.5, 1, (1, inputs, 3, 2))
    x = np.concatenate([x, 1.2 * x.mean((2, 3), keepdims=True) + 0 * x])  # two images, one patch
    difference: NDArray[Any] = grid.dequantise().astype(np.float64) - weights
    added = np.zeros(out)
    for channel in range(out):
        first = channel // (out // groups) * (inputs // groups)
        for offset in range(inputs // groups):
            mean = x[:, first + offset].mean()  # over images and positions
            added[channel] += difference[channel, offset].sum() * mean
    corrected = bias_correction(weights, grid, x.mean((0, 2, 3)))
    np.testing.assert_allclose(corrected, added, rtol=1e-9, atol=1e-12)


def test_bias_correction_of_a_linear_layer_is_exact() -> None:
    rng = np.random.default_rng(6)
    weights = rng.standard_normal((5, 7), np.float32)
    grid = quantise_weights(weights)
    x = rng.normal(1, 2, (40, 7))
    added = (x @ (grid.dequantise().astype(np.float64) - weights).T).mean(0)
    np.testing.assert_allclose(bias_correction(weights, grid, x.mean(0)), added, rtol=1e-9)


def test_nothing_is_corrected_where_nothing_was_rounded() -> None:
    integers = np.arange(-6, 6).reshape(2, 2, 3, 1).astype(np.int8)
    grid = QuantisedWeights(integers, np.array([0.5, 2], np.float32), 0)
    assert not bias_correction(grid.dequantise(), grid, np.array([3.0, 4.0])).any()
