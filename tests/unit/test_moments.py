"""Moments of windows against every window of whole activations."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_graphs import build, noise

from inception_deploy import moments as module
from inception_deploy.artifact import FloatArray
from inception_deploy.engines import ENGINES
from inception_deploy.errors import DataError
from inception_deploy.moments import observe_moments
from inception_deploy.weight_rounding import InputMoments

BODY = """
 c = Conv<pads = [1, 0, 2, 1], strides = [2, 1]>(input, w)
 r = Relu(c)
 d = Conv<dilations = [2, 1], pads = [2, 1, 2, 1], group = 3>(r, v)
 e = Conv(r, x)
 f = Conv(r, y)
 pooled = GlobalAveragePool(d)
 flat = Flatten(pooled)
 output = Gemm<transB = 1>(flat, u)"""
SIZES = {
    "w": (6, 4, 3, 2),
    "v": (9, 2, 3, 3),
    "x": (5, 6, 1, 1),
    "y": (2, 6, 1, 1),
    "u": (4, 9),
}
NODES = ("node.c", "node.d", "node.e", "node.f", "node.output")
WINDOWS = {
    "node.c": ("input", (3, 2), (1, 0, 2, 1), (2, 1), (1, 1), 1),
    "node.d": ("r", (3, 3), (2, 1, 2, 1), (1, 1), (2, 1), 3),
    "node.e": ("r", (1, 1), (0, 0, 0, 0), (1, 1), (1, 1), 1),
    "node.f": ("r", (1, 1), (0, 0, 0, 0), (1, 1), (1, 1), 1),
}


def seen(images: FloatArray, size: int = 2, seed: int = 0) -> dict[str, InputMoments]:
    def batches() -> Iterator[FloatArray]:
        return (images[i : i + size] for i in range(0, len(images), size))

    found = observe_moments(
        build(BODY, SIZES),
        batches,
        nodes=NODES,
        engine=ENGINES.get("onnxruntime"),
        images=len(images),
        seed=seed,
    )
    return dict(found)


def every_window(images: FloatArray, node: str) -> NDArray[np.float64]:
    """(groups, windows, taps) of all positions of all images."""
    model = build(BODY, SIZES, outputs=("r", "flat", "output"))
    with ENGINES.get("onnxruntime").session(model.SerializeToString()) as session:
        values = {"input": images, **session.infer({"input": images})}
    if node == "node.output":
        return values["flat"].astype(np.float64)[None]
    tensor, kernel, (top, left, bottom, right), strides, dilations, groups = WINDOWS[node]
    padded = torch.nn.functional.pad(
        torch.from_numpy(values[tensor]).double(), (left, right, top, bottom)
    )
    unfolded = torch.nn.functional.unfold(padded, kernel, dilations, 0, strides)
    count, values_, places = unfolded.shape
    split = unfolded.reshape(count, groups, values_ // groups, places)
    return np.asarray(split.permute(1, 0, 3, 2).reshape(groups, count * places, -1))


@pytest.mark.parametrize("node", NODES)
def test_all_windows_are_there_where_images_are_few(node: str) -> None:
    images = noise(build(BODY, SIZES), batch=5)  # 512 windows are wanted, there are fewer
    found, wanted = seen(images)[node], every_window(images, node)
    assert found.samples == wanted.shape[1]
    mean = wanted.mean(1)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-5, atol=1e-6)
    centred = wanted - mean[:, None]
    covariance = centred.swapaxes(1, 2) @ centred / wanted.shape[1]
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-4, atol=1e-5)


def test_a_sample_of_windows_is_near_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST", 400)
    images = noise(build(BODY, SIZES), batch=100)
    found, wanted = seen(images)["node.c"], every_window(images, "node.c")
    assert 400 <= found.samples < 0.2 * wanted.shape[1]
    spread = wanted.std(1) / np.sqrt(found.samples)
    assert (np.abs(found.mean - wanted.mean(1)) < 5 * spread).all()


@pytest.mark.parametrize("size", [1, 3, 7])
def test_batches_of_another_size_and_layers_by_parts_change_nothing(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEAST", 40)
    images = noise(build(BODY, SIZES), batch=7)
    whole = seen(images, 7)
    monkeypatch.setattr(module, "BUDGET", 1)  # each layer in a pass of its own
    parts = seen(images, size)
    assert set(whole) == set(parts) == set(NODES)
    for node, one in whole.items():
        assert np.array_equal(one.mean, parts[node].mean)
        assert np.array_equal(one.covariance, parts[node].covariance)
    assert whole["node.e"] is whole["node.f"]  # which read the same


def test_another_seed_draws_other_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST", 10)
    images = noise(build(BODY, SIZES), batch=5)
    first, second = seen(images)["node.c"], seen(images, seed=1)["node.c"]
    assert not np.array_equal(first.mean, second.mean)


def test_padding_that_the_graph_does_not_spell_out_is_passed_over() -> None:
    model = build('output = Conv<auto_pad = "SAME_UPPER">(input, w)', {"w": (6, 4, 3, 3)})
    images = noise(model)
    found = observe_moments(
        model,
        lambda: [images],
        nodes=("node.output",),
        engine=ENGINES.get("onnxruntime"),
        images=4,
    )
    assert not list(found)


def test_no_images_are_an_error() -> None:
    with pytest.raises(DataError, match="no calibration images"):
        seen(noise(build(BODY, SIZES), batch=1)[:0])


def test_values_far_from_zero_keep_a_covariance() -> None:
    """Means a thousand times the deviation: sums of squares alone would leave rounding errors."""
    rng = np.random.default_rng(0)
    windows = [rng.standard_normal((1, 50, 8)).astype(np.float32) + 1e3 for _ in range(20)]
    window = module._Window("x", 8, 1, (1, 1), (1, 1), (1, 1), (0, 0, 0, 0))
    sums = module._Sum(window)
    for part in windows:
        sums.add(part)
    found = sums.moments()
    every = np.concatenate(windows, 1)[0].astype(np.float64)
    np.testing.assert_allclose(found.mean[0], every.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.covariance[0], np.cov(every.T, bias=True), atol=1e-3)
    assert np.linalg.eigvalsh(found.covariance[0]).min() > 0.5
