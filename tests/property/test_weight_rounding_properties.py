"""Rounding by moments, for any weights and any inputs."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from inception_deploy.quantisation import quantise_weights
from inception_deploy.weight_rounding import REACH, InputMoments, WeightRounder

seeds = st.integers(0, 2**32 - 1)


def layer(
    seed: int, rows: int, taps: int, *, groups: int = 1, windows: int = 40
) -> tuple[NDArray[np.float32], InputMoments, NDArray[np.float64]]:
    """Weights (rows · groups, taps, 1, 1), moments of mixed inputs, and those inputs."""
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((rows * groups, taps, 1, 1)).astype(np.float32)
    mixing = rng.standard_normal((groups, taps, taps)) * rng.uniform(0, 2, (groups, 1, taps))
    inputs = rng.standard_normal((groups, windows, taps)) @ mixing + rng.uniform(0, 3, taps)
    mean = inputs.mean(1)
    centred = inputs - mean[:, None]
    covariance = (centred.swapaxes(1, 2) @ centred / windows).astype(np.float32)
    return weights, InputMoments(mean, covariance, windows), inputs


def cost(errors: NDArray[np.float64], matrix: NDArray[np.floating]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = ((errors @ matrix.astype(np.float64)) * errors).sum(1)
    return found


@given(seeds, st.integers(1, 4), st.integers(1, 90), st.floats(0, 1), st.sampled_from([7, 8]))
def test_no_row_is_worse_than_rounded_to_nearest_and_none_goes_far(
    seed: int, rows: int, taps: int, noise: float, bits: int
) -> None:
    weights, moments, _ = layer(seed, rows, taps)
    nearest = quantise_weights(weights, bits=bits, clip=False)
    found = WeightRounder(moments, noise).round(weights, nearest, bits=bits).weights
    assert np.array_equal(found.scales, nearest.scales)
    own = weights.reshape(rows, taps) / nearest.scales[:, None].astype(np.float64)
    matrix = moments.covariance[0] + noise * np.eye(taps)
    costs = [cost(g.integers.reshape(rows, taps) - own, matrix) for g in (found, nearest)]
    assert (costs[0] <= costs[1] * (1 + 1e-3) + 1e-5).all()  # which is compared in float32
    assert np.abs(found.integers.astype(int) - nearest.integers).max() <= REACH
    assert np.abs(found.integers.astype(int)).max() <= 2 ** (bits - 1) - 1


@given(seeds, st.integers(1, 3), st.integers(1, 20), st.integers(1, 4))
def test_the_shift_is_what_the_outputs_move_on_average(
    seed: int, rows: int, taps: int, groups: int
) -> None:
    weights, moments, inputs = layer(seed, rows, taps, groups=groups)
    found = WeightRounder(moments).round(weights, quantise_weights(weights, clip=False))
    errors = found.weights.dequantise().astype(np.float64) - weights
    errors = errors.reshape(groups, rows, taps)
    moved = (inputs @ errors.swapaxes(1, 2)).mean(1).reshape(-1)
    np.testing.assert_allclose(found.shift, moved, rtol=1e-4, atol=1e-5)


@given(seeds, st.integers(1, 3), st.integers(1, 12), st.integers(2, 4))
def test_groups_are_layers_of_their_own(seed: int, rows: int, taps: int, groups: int) -> None:
    weights, moments, _ = layer(seed, rows, taps, groups=groups)
    grid = quantise_weights(weights, clip=False)
    whole = WeightRounder(moments).round(weights, grid)
    for index in range(groups):
        part = slice(index * rows, (index + 1) * rows)
        alone = InputMoments(
            moments.mean[index : index + 1], moments.covariance[index : index + 1], moments.samples
        )
        own = quantise_weights(weights[part], clip=False)
        found = WeightRounder(alone).round(weights[part], own)
        assert np.array_equal(found.weights.integers, whole.weights.integers[part])
        assert np.array_equal(found.shift, whole.shift[part])


@given(seeds, st.integers(1, 4))
def test_of_all_ways_to_round_few_weights_up_or_down_half_are_worse(seed: int, taps: int) -> None:
    weights, moments, _ = layer(seed, 3, taps)
    grid = quantise_weights(weights, clip=False)
    found = WeightRounder(moments).round(weights, grid).weights.integers.reshape(3, taps)
    own = weights.reshape(3, taps) / grid.scales[:, None].astype(np.float64)
    matrix = moments.covariance[0]
    for row, steps in zip(own, found, strict=True):
        near = [np.clip([np.floor(w), np.ceil(w)], -127, 127) for w in row]
        every = np.array(list(itertools.product(*near)))
        costs = cost(every - row, matrix)
        reached = cost((steps - row)[None], matrix)[0]
        assert reached <= np.quantile(costs, 0.5) + 1e-5
