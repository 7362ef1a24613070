"""Rounding: an FP32 engine shows what a half-precision device stores."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from small_graphs import Weights, build, noise, observe_on, types_of

from inception_deploy.artifact import FloatArray
from inception_deploy.engines import ENGINES
from inception_deploy.engines.base import Array
from inception_deploy.lowering.rounding import rounded
from inception_deploy.precisions.fp16 import Fp16

ENGINE = ENGINES.get("onnxruntime")
SIZES: Weights = {"w": (4, 4, 1, 1), "v": (3, 4, 1, 1)}
BODY = "a = Conv(input, w)\n r = Relu(a)\n s = Add(r, a)\n output = Conv(s, v)"


def half(model: onnx.ModelProto, images: FloatArray, fp32_io: bool = True) -> onnx.ModelProto:
    return Fp16(fp32_io).lower(model, observe_on(model, images)).model


def every_tensor(model: onnx.ModelProto, images: Array, optimise: bool) -> dict[str, Array]:
    probe = onnx.ModelProto.FromString(model.SerializeToString())
    shown = {output.name for output in probe.graph.output}
    probe.graph.output.extend(v for v in probe.graph.value_info if v.name not in shown)
    with ENGINE.session(probe.SerializeToString(), optimise=optimise) as session:
        return session.infer({"input": images})


def store(values: Array) -> Array:
    """What float16 holds, as float64 for exact sums."""
    return values.astype(np.float16).astype(np.float64)


@pytest.mark.parametrize("optimise", [True, False])
def test_every_tensor_is_what_numpy_float16_stores(optimise: bool) -> None:
    model = build(BODY, SIZES)
    images = noise(model)
    lowered = half(model, images)
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in lowered.graph.initializer}
    w, v = (weights[name].astype(np.float64)[:, :, 0, 0] for name in "wv")
    a = store(np.einsum("oc,nchw->nohw", w, store(images)))
    s = store(np.maximum(a, 0) + a)
    output = store(np.einsum("oc,nchw->nohw", v, s))
    values = every_tensor(rounded(lowered), images, optimise)
    for name, expected in {"a": a, "s": s, "output": output}.items():
        assert np.array_equal(values[name], values[name].astype(np.float16)), name
        # a float32 sum may fall on the other side of a float16 rounding border: one spacing
        spacing = np.spacing(np.abs(expected).astype(np.float16)).astype(np.float64)
        assert (np.abs(values[name] - expected) <= 2 * spacing).all(), name
        assert np.mean(values[name] == expected) > 0.95, name


def test_an_overflow_that_the_cpu_hides_becomes_infinite() -> None:
    model = build(
        "a = Conv(input, w)\n m = Mul(a, k)\n output = Conv(m, w)",
        {"w": np.ones((1, 1, 1, 1), np.float32), "k": np.full(1, 2.0**-4, np.float32)},
        shape="batch, 1, 2, 2",
    )
    lowered = half(model, np.ones((1, 1, 2, 2), np.float32))
    large = np.full((1, 1, 2, 2), 7e4, np.float32)
    large[0, 0, 0, 0] = 1.0
    with ENGINE.session(rounded(lowered).SerializeToString()) as session:
        values = session.run(large)
    assert np.isinf(values).sum() == 3


def test_an_fp32_graph_comes_back_as_it_is() -> None:
    model = build(BODY, SIZES)
    assert rounded(model) is model


@pytest.mark.parametrize("fp32_io", [True, False])
def test_names_stay_and_types_become_fp32(fp32_io: bool) -> None:
    model = build(BODY, SIZES)
    images = noise(model)
    lowered = half(model, images, fp32_io)
    before = lowered.SerializeToString(deterministic=True)
    shown = rounded(lowered)
    assert lowered.SerializeToString(deterministic=True) == before
    kinds = types_of(shown)
    assert {kinds[n] for n in ("input", "a", "r", "s", "output", "w", "v")} == {"FLOAT"}
    with ENGINE.session(shown.SerializeToString()) as session:
        assert session.inputs[0].dtype == session.outputs[0].dtype == np.float32
        actual = session.run(images)
    assert np.array_equal(actual, actual.astype(np.float16))
