"""Statistics of channels against NumPy on whole activations."""

from __future__ import annotations

import numpy as np
import pytest
from small_graphs import CLASSIFIER, build, noise

from inception_deploy.channels import observe_channels
from inception_deploy.engines import ENGINES
from inception_deploy.errors import BadInput, DataError

SIZES = {"w": (5, 4, 3, 3), "b": (5,), "v": (3, 5)}
TENSORS = ("input", "c", "r", "flat")


@pytest.mark.parametrize("opset", [13, 17, 18, 20])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_statistics_are_those_of_all_images_in_any_batches(opset: int, size: int) -> None:
    model = build(CLASSIFIER, SIZES, opset=opset)
    images = noise(model, batch=7)
    engine = ENGINES.get("onnxruntime")
    batches = [images[i : i + size] for i in range(0, 7, size)]
    found = observe_channels(model, batches, tensors=TENSORS, engine=engine, total=len(batches))
    whole = build(CLASSIFIER, SIZES, opset=opset, outputs=("c", "r", "flat", "output"))
    with engine.session(whole.SerializeToString()) as session:
        values = {"input": images, **session.infer({"input": images})}
    assert set(found) == set(TENSORS)
    for tensor in TENSORS:
        value = values[tensor].astype(np.float64)
        axes = tuple(axis for axis in range(value.ndim) if axis != 1)
        np.testing.assert_allclose(found[tensor].mean, value.mean(axes), rtol=1e-5, atol=1e-6)
        assert np.array_equal(found[tensor].minimum, value.min(axes))
        assert np.array_equal(found[tensor].maximum, value.max(axes))
        assert np.array_equal(found[tensor].max_abs, np.abs(value).max(axes))
        assert found[tensor].mean.dtype == np.float64


def test_no_images_and_images_of_another_size_are_errors() -> None:
    model = build(CLASSIFIER, SIZES)
    engine = ENGINES.get("onnxruntime")
    with pytest.raises(DataError, match="no calibration images"):
        observe_channels(model, [], tensors=TENSORS, engine=engine, total=0)
    wrong = np.zeros((2, 3, 6, 6), np.float32)
    with pytest.raises(BadInput, match="input"):
        observe_channels(model, [wrong], tensors=TENSORS, engine=engine, total=1)
