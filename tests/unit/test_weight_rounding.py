"""Rounding by moments where the outcome is known."""

from __future__ import annotations

import numpy as np
import pytest

from inception_deploy.errors import StageError
from inception_deploy.quantisation import quantise_weights
from inception_deploy.weight_rounding import InputMoments, WeightRounder


def moments_of(inputs: np.ndarray) -> InputMoments:
    """Of inputs (windows, taps) of one group."""
    covariance = np.atleast_2d(np.cov(inputs.T, bias=True)).astype(np.float32)
    return InputMoments(inputs.mean(0)[None], covariance[None], len(inputs))


def test_inputs_that_know_nothing_of_each_other_leave_every_weight_at_its_nearest() -> None:
    weights = np.random.default_rng(0).standard_normal((8, 30, 1, 1)).astype(np.float32)
    grid = quantise_weights(weights, clip=False)
    moments = InputMoments(np.ones((1, 30)), np.eye(30, dtype=np.float32)[None], 100)
    assert np.array_equal(
        WeightRounder(moments).round(weights, grid).weights.integers, grid.integers
    )


def test_a_second_equal_input_makes_up_for_the_first() -> None:
    """Two inputs that are always equal: 0.4 + 0.4 steps are rounded to 1 and 0, or 0 and 1."""
    weights = np.array([[127.0, 0.4, 0.4]], np.float32).reshape(1, 3, 1, 1)
    grid = quantise_weights(weights, clip=False)
    assert grid.integers.reshape(-1).tolist() == [127, 0, 0]
    seen = np.random.default_rng(0).standard_normal((1000, 2))
    moments = moments_of(np.stack([seen[:, 0], seen[:, 1], seen[:, 1]], 1))
    steps = WeightRounder(moments).round(weights, grid).weights.integers.reshape(-1)
    assert steps[0] == 127
    assert sorted(steps[1:]) == [0, 1]


def test_noise_of_the_inputs_makes_them_less_alike() -> None:
    """The same layer behind a coarse grid: nothing is won by moving a weight further away."""
    weights = np.array([[127.0, 0.4, 0.4]], np.float32).reshape(1, 3, 1, 1)
    grid = quantise_weights(weights, clip=False)
    seen = np.random.default_rng(0).standard_normal((1000, 2))
    moments = moments_of(np.stack([seen[:, 0], seen[:, 1], seen[:, 1]], 1))
    steps = WeightRounder(moments, 10.0).round(weights, grid).weights.integers
    assert steps.reshape(-1).tolist() == [127, 0, 0]


def test_inputs_alike_cost_a_fraction_of_what_nearest_costs() -> None:
    """Ten sources behind a hundred inputs, as behind a convolution with few filters."""
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((2000, 10)) @ rng.standard_normal((10, 100))
    weights = rng.standard_normal((16, 100, 1, 1)).astype(np.float32)
    grid = quantise_weights(weights, clip=False)
    found = WeightRounder(moments_of(inputs)).round(weights, grid).weights
    exact = inputs @ weights.reshape(16, 100).T
    errors = [
        np.square(inputs @ g.dequantise().reshape(16, 100).T - exact).mean() for g in (found, grid)
    ]
    assert errors[0] < 0.05 * errors[1]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_dead_inputs_leave_their_weights_alone(value: float) -> None:
    weights = np.random.default_rng(0).standard_normal((4, 5, 3, 3)).astype(np.float32)
    grid = quantise_weights(weights, clip=False)
    constant = np.full((50, 45), value)
    found = WeightRounder(moments_of(constant)).round(weights, grid)
    assert np.array_equal(found.weights.integers, grid.integers)
    moved = (grid.dequantise().astype(np.float64) - weights).reshape(4, -1).sum(1) * value
    np.testing.assert_allclose(found.shift, moved, atol=1e-6)


def test_moments_of_another_layer_and_without_end_are_refused() -> None:
    weights = np.ones((4, 5, 3, 3), np.float32)
    grid = quantise_weights(weights, clip=False)
    with pytest.raises(StageError, match="do not fit"):
        WeightRounder(moments_of(np.zeros((10, 44)))).round(weights, grid)
    endless = moments_of(np.zeros((10, 45)))
    endless.covariance[0, 3, 3] = np.inf
    with pytest.raises(StageError, match="not finite"):
        WeightRounder(endless).round(weights, grid)


def test_layers_that_read_the_same_share_what_was_factored() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((200, 5)) @ rng.standard_normal((5, 20))
    rounder = WeightRounder(moments_of(inputs), 0.01)
    layers = [rng.standard_normal((rows, 20, 1, 1)).astype(np.float32) for rows in (3, 8, 1)]
    for weights in layers:
        grid = quantise_weights(weights, clip=False)
        alone = WeightRounder(moments_of(inputs), 0.01).round(weights, grid)
        shared = rounder.round(weights, grid)
        assert np.array_equal(shared.weights.integers, alone.weights.integers)
        assert np.array_equal(shared.shift, alone.shift)


def test_what_is_indefinite_by_rounding_is_damped_until_it_is_not() -> None:
    """A covariance that float32 left with a negative eigenvalue larger than the damping."""
    weights = np.random.default_rng(0).standard_normal((4, 30, 1, 1)).astype(np.float32)
    grid = quantise_weights(weights, clip=False)
    basis = np.linalg.qr(np.random.default_rng(1).standard_normal((30, 30)))[0]
    powers = np.r_[np.ones(29), -0.05]
    matrix = ((basis * powers) @ basis.T).astype(np.float32)
    found = WeightRounder(InputMoments(np.zeros((1, 30)), matrix[None], 60)).round(weights, grid)
    assert np.abs(found.weights.integers.astype(int) - grid.integers).max() <= 1
