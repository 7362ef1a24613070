"""Candidates of ranges, tried on the outputs of the network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from small_graphs import CLASSIFIER, build, noise, observe_on

from inception_deploy.artifact import FloatArray
from inception_deploy.clipping import least_noise
from inception_deploy.engines import ENGINES
from inception_deploy.precisions.int8 import Int8
from inception_deploy.ranges import Ranges, TensorRange

SIZES = {"w": (6, 4, 3, 3), "b": (6,), "v": (5, 6)}


def scaled(ranges: Ranges, factor: float) -> Ranges:
    """All ranges times `factor`, by a calibrator of that name."""
    tensors = {
        name: TensorRange(factor * r.minimum, factor * r.maximum)
        for name, r in ranges.tensors.items()
    }
    return replace(ranges, tensors=tensors, calibrator=f"×{factor}")


def chosen(candidates: list[Ranges], images: FloatArray) -> str:
    engine = ENGINES.get("onnxruntime")
    found = least_noise(
        build(CLASSIFIER, SIZES),
        Int8(),
        candidates,
        lambda: [images],
        exact=engine,
        engine=engine,
        total=1,
    )
    return found.calibrator


def test_ranges_that_hold_the_values_win_over_wide_and_narrow_ones() -> None:
    model = build(CLASSIFIER, SIZES)
    images = noise(model, batch=16)
    seen = observe_on(model, images)
    right, wide, narrow = (scaled(seen, factor) for factor in (1, 8, 0.2))
    for others in ([right, wide, narrow], [wide, right, narrow], [narrow, wide, right]):
        assert chosen(others, images) == "×1"


def test_of_two_alike_the_first_is_taken() -> None:
    model = build(CLASSIFIER, SIZES)
    images = noise(model, batch=16)
    seen = observe_on(model, images)
    first, second = replace(seen, calibrator="first"), replace(seen, calibrator="second")
    assert chosen([first, second], images) == "first"


def test_one_alone_is_not_tried() -> None:
    ranges = Ranges({}, "model", "data", 1, "min_max")  # which nothing could be lowered with
    assert chosen([ranges], np.zeros((0, 4, 6, 6), np.float32)) == "min_max"
