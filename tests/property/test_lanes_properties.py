"""Whatever the batch and the number of threads: a graph of integers gives every image the bits that
it gets alone."""

from __future__ import annotations

from functools import cache

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from small_graphs import CLASSIFIER, build, noise, observe_on

from inception_deploy.artifact import FloatArray
from inception_deploy.engines.onnxruntime import OnnxRuntime
from inception_deploy.precisions.int8 import Int8

ENGINE = OnnxRuntime()
MOST = 17
FLOATS = build(CLASSIFIER, {"w": (8, 4, 3, 3), "b": (8,), "v": (5, 8)})
IMAGES = noise(FLOATS, MOST)


@cache
def integers() -> bytes:
    """The classifier in INT8."""
    lowered = Int8().lower(FLOATS, observe_on(FLOATS, IMAGES))
    return bytes(lowered.model.SerializeToString())


@cache
def one_by_one() -> FloatArray:
    """What every image gets alone, on one thread: (MOST, 5)."""
    with ENGINE.session(integers(), threads=1) as session:
        assert "int8" in session.executed_precisions().values()
        return np.concatenate([session.run(image[None]) for image in IMAGES])


@settings(max_examples=40, deadline=None)
@given(
    threads=st.integers(1, 5),
    batches=st.lists(st.lists(st.integers(0, MOST - 1), min_size=1, max_size=12), max_size=4),
)
def test_every_image_gets_its_own_bits(threads: int, batches: list[list[int]]) -> None:
    with ENGINE.session(integers(), threads=threads, lanes=True) as session:
        for chosen in batches:
            assert np.array_equal(session.run(IMAGES[chosen]), one_by_one()[chosen])
