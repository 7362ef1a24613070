"""Lowering hand-made graphs to FP16, with checks that hold for every result."""

from __future__ import annotations

import numpy as np
import onnx
from small_graphs import noise, observe_on, quarrels, useless_casts

from inception_deploy.engines import ENGINES
from inception_deploy.precisions.base import Lowering
from inception_deploy.precisions.fp16 import Fp16
from inception_deploy.ranges import Ranges

__all__ = ["BLOCK", "SIZES", "lowered", "reasons"]

ENGINE = ENGINES.get("onnxruntime")


BLOCK = "a = Conv<pads=[1,1,1,1]>(input, w, b)\n output = Relu(a)"
SIZES = {"w": (4, 4, 3, 3), "b": (4,)}


def lowered(
    model: onnx.ModelProto,
    *,
    scale: float = 1.0,
    fp32_io: bool = True,
    ranges: Ranges | None = None,
) -> Lowering:
    """`model` in FP16 by ranges on noise; what holds for every result is checked here."""
    before = model.SerializeToString(deterministic=True)
    images = noise(model, scale=scale)
    result = Fp16(fp32_io).lower(model, ranges or observe_on(model, images))
    assert model.SerializeToString(deterministic=True) == before
    assert list(quarrels(result.model)) == []
    assert list(useless_casts(result.model)) == []
    if fp32_io:
        with ENGINE.session(model.SerializeToString()) as session:
            expected = session.run(images)
        with ENGINE.session(result.model.SerializeToString()) as session:
            actual = session.run(images)
        assert np.abs(actual - expected).max() <= result.bound * np.abs(expected).max()
    return result


def reasons(result: Lowering) -> dict[str, str]:
    assert {refusal.rewrite for refusal in result.refused} <= {"fp16"}
    return {refusal.node: refusal.reason for refusal in result.refused}
