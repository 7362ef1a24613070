"""Filters times factors: float64 products, rounded once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from inception_deploy.fusions._linear import scaled_filters

FINITE = st.floats(-1e6, 1e6, width=32)


@given(
    hnp.arrays(np.float32, st.tuples(st.just(3), *[st.integers(1, 4)] * 3), elements=FINITE),
    hnp.arrays(np.float64, 3, elements=st.floats(-1e6, 1e6)),
)
def test_one_factor_per_filter(weights: np.ndarray, factors: np.ndarray) -> None:
    expected = (weights.astype(np.float64) * factors[:, None, None, None]).astype(np.float32)
    scaled = scaled_filters(weights, factors)
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled, expected)


def test_one_factor_per_filter_and_channel() -> None:
    weights = np.arange(1, 25, dtype=np.float32).reshape(2, 3, 2, 2)
    factors = np.array([[1.0, 2.0, 3.0], [0.1, 0.2, 0.3]])
    expected = (weights.astype(np.float64) * factors[..., None, None]).astype(np.float32)
    np.testing.assert_array_equal(scaled_filters(weights, factors), expected)


@pytest.mark.filterwarnings("error")
def test_what_does_not_fit_is_infinite_and_says_nothing() -> None:
    scaled = scaled_filters(np.full((1, 1), 1e30, np.float32), np.array([1e30]))
    assert np.isinf(scaled).all()
