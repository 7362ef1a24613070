"""Histograms of known distributions, and what makes two of them the same, for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inception_deploy.histograms import Histogram, Tally

__all__ = ["DISTRIBUTIONS", "contents", "histogram_of", "quantised", "squared_error"]

from inception_deploy.calibrators import Grid


def histogram_of(values: NDArray[np.float32]) -> Histogram:
    """Every one of `values` counted, as one image."""
    tally = Tally([values.size], [1])
    bounds = (np.array([end], np.float64) for end in (values.min(), values.max()))
    tally.add(values.ravel().astype(np.float32), *bounds)
    return tally.histogram(0)


def contents(histogram: Histogram) -> tuple[object, ...]:
    """Everything in it, comparable."""
    return (
        histogram.minimum,
        histogram.maximum,
        histogram.zeros,
        histogram.counts.tolist(),
        histogram.first,
        histogram.exponent,
    )


def quantised(
    values: NDArray[np.float32], grid: Grid, low: float, high: float
) -> NDArray[np.float64]:
    """`values` through QuantizeLinear and DequantizeLinear, as ONNX defines them."""
    low, high = min(low, 0.0), max(high, 0.0)
    if grid.symmetric:
        scale, zero = max(-low, high) / (grid.levels // 2 - 1), 0.0
        least, most = -grid.levels // 2, grid.levels // 2 - 1
    else:
        scale = (high - low) / (grid.levels - 1)
        zero, least, most = np.rint(-low / (scale or 1)), 0, grid.levels - 1
    scale = scale or 1.0
    codes = np.clip(np.rint(values.astype(np.float64) / scale) + zero, least, most)
    return (codes - zero) * scale


def squared_error(values: NDArray[np.float32], grid: Grid, low: float, high: float) -> float:
    """Mean squared error of quantising `values`, element by element."""
    return float(np.mean((quantised(values, grid, low, high) - values) ** 2))


def _draw(kind: str, count: int = 60_000) -> NDArray[np.float32]:
    rng = np.random.default_rng(7)
    drawn: dict[str, Callable[[], Any]] = {
        "uniform": lambda: rng.uniform(0, 3, count),
        "gaussian": lambda: rng.standard_normal(count),
        "laplace": lambda: rng.laplace(0, 2, count),
        "relu": lambda: np.maximum(rng.standard_normal(count) - 1, 0),
        "shifted": lambda: rng.standard_normal(count) * 0.1 + 5,
        "skewed": lambda: rng.gamma(1.5, 1, count) - 0.5,
        "outlier": lambda: np.append(rng.standard_normal(count), 60.0),
        "sparse": lambda: np.append(np.zeros(count), rng.standard_normal(20)),
        "negative": lambda: -np.abs(rng.standard_normal(count)),
        "constant": lambda: np.full(count, 0.7),
        "constant negative": lambda: np.full(count, -3.0),
        "dead": lambda: np.zeros(count),
        "tiny": lambda: rng.standard_normal(count) * 1e-38,
        "huge": lambda: rng.standard_normal(count) * 1e30,
        "one value": lambda: np.array([0.3]),
    }
    return np.asarray(drawn[kind](), np.float32)


DISTRIBUTIONS = {
    kind: _draw(kind)
    for kind in (
        *("uniform", "gaussian", "laplace", "relu", "shifted", "skewed", "outlier", "sparse"),
        *("negative", "constant", "constant negative", "dead", "tiny", "huge", "one value"),
    )
}
"""What tensors hold, by name: float32 (n,)."""
