"""Eight-bit arithmetic for any range, any weights and any bias."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from inception_deploy.quantisation import (
    IntegerType,
    activation_quantiser,
    quantise_weights,
    quantised_bias,
    widened,
)
from inception_deploy.ranges import TensorRange

finite = st.floats(-1e6, 1e6, width=32)
weights = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=4, max_side=4),
    elements=st.floats(-1e3, 1e3, width=32),
)


@given(finite, finite, st.sampled_from(["uint8", "int8"]), st.booleans(), st.floats(0, 1))
def test_what_is_in_the_range_is_at_most_half_a_step_off(
    one: float, other: float, dtype: IntegerType, symmetric: bool, part: float
) -> None:
    low, high = sorted((one, other))
    if symmetric and dtype == "uint8":
        low, high = abs(low), abs(low) + abs(high)
    grid = activation_quantiser(TensorRange(low, high), dtype, symmetric=symmetric)
    value = np.array([min(low + part * (high - low), high)], np.float32)
    back = grid.dequantise(grid.quantise(value))
    # a zero point is whole: one end may lie up to half a step outside
    assert abs(float(back[0]) - float(value[0])) <= grid.scale * 0.5 * (1 + 1e-4)
    assert grid.dequantise(grid.quantise(np.zeros(1, np.float32))) == 0
    integers = grid.quantise(back)
    assert np.array_equal(grid.quantise(grid.dequantise(integers)), integers)


@given(weights, st.sampled_from([7, 8]), st.booleans())
def test_weights_are_at_most_half_a_step_off_unless_clipped(
    values: np.ndarray, bits: int, clip: bool
) -> None:
    grid = quantise_weights(values, bits=bits, clip=clip)
    highest = 2 ** (bits - 1) - 1
    assert np.abs(grid.integers.astype(int)).max() <= highest
    shape = [-1] + [1] * (values.ndim - 1)
    steps = grid.scales.astype(np.float64).reshape(shape)
    error = np.abs(grid.integers * steps - values)
    inside = np.abs(values) <= highest * steps
    assert (error <= steps * 0.5 * (1 + 1e-5))[inside].all()
    if not clip:
        assert (error <= steps * 0.5 * (1 + 1e-4)).all()


@given(
    weights,
    st.floats(1e-12, 1e3),
    st.data(),
)
def test_every_bias_fits_after_widening(
    values: np.ndarray, input_scale: float, data: st.DataObject
) -> None:
    bias = data.draw(hnp.arrays(np.float64, len(values), elements=st.floats(-1e4, 1e4)))
    grid = widened(quantise_weights(values, clip=False), values, bias, input_scale)
    steps, scales = quantised_bias(bias, input_scale, grid.scales)
    error = np.abs(steps * scales.astype(np.float64) - bias)
    assert (error <= scales * 0.5 * (1 + 1e-6) + 1e-300).all()
    assert np.abs(steps).max(initial=0) <= 2**30 + 2**8
