"""INT8 beyond the usual: dead layers, outliers, biases out of proportion, seven bits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_graphs import build, noise, observe_on, op_types, weights_of

from inception_deploy.artifact import FloatArray
from inception_deploy.channels import observe_channels
from inception_deploy.engines import ENGINES
from inception_deploy.errors import StageError
from inception_deploy.machine import Machine, describe
from inception_deploy.moments import observe_moments
from inception_deploy.placements import PLACEMENTS
from inception_deploy.precisions import PRECISIONS
from inception_deploy.precisions import int8 as module
from inception_deploy.precisions.base import Lowering
from inception_deploy.precisions.int8 import Int8, saturates
from inception_deploy.ranges import Ranges
from inception_deploy.weight_rounding import InputMoments

BODY = """
 c = Conv<pads = [1, 1, 1, 1]>(input, w, b)
 r = Relu(c)
 d = Conv<pads = [1, 1, 1, 1]>(r, v, a)
 last = Relu(d)
 pooled = GlobalAveragePool(last)
 flat = Flatten(pooled)
 output = Gemm<transB = 1>(flat, u, e)"""
SIZES = {"w": (6, 4, 3, 3), "b": (6,), "v": (8, 6, 3, 3), "a": (8,), "u": (5, 8), "e": (5,)}


def lowered(
    weights: dict[str, Any], images: FloatArray | None = None, precision: Int8 | None = None
) -> tuple[Lowering, FloatArray, FloatArray]:
    """The lowering, and what the graph puts out before and after it."""
    model = build(BODY, weights)
    images = noise(model) if images is None else images
    result = (precision or Int8()).lower(model, observe_on(model, images))
    engine = ENGINES.get("onnxruntime")
    with engine.session(model.SerializeToString()) as session:
        before = session.run(images)
    with engine.session(result.model.SerializeToString()) as session:
        after = session.run(images)
    return result, before, after


def relative(after: FloatArray, before: FloatArray) -> float:
    return float(np.abs(after - before).max() / np.abs(before).max())


def test_a_dead_relu_passes_nothing_on_and_its_reader_keeps_its_bias() -> None:
    result, before, after = lowered({**SIZES, "b": np.full(6, -1e4, np.float32)})
    assert relative(after, before) < 0.02
    for node in ("node.c", "node.d", "node.output"):
        assert node in {applied.node for applied in result.applied}
    for name, values in weights_of(result.model).items():
        if name.endswith(":scale"):
            assert (values >= np.finfo(np.float32).tiny).all(), name


def test_a_network_that_is_zero_everywhere_stays_zero() -> None:
    zeros = {name: np.zeros(shape, np.float32) for name, shape in SIZES.items()}
    assert np.array_equal(lowered(zeros)[2], np.zeros((4, 5), np.float32))


def test_an_outlier_channel_leaves_the_other_channels_their_precision() -> None:
    w = weights_of(build(BODY, SIZES))["w"]
    v = weights_of(build(BODY, SIZES))["v"]
    planted, undone = w.copy(), v.copy()
    planted[2] *= 100
    undone[:, 2] = 0  # nobody reads it: what it costs the others is all there is to see
    _, before, after = lowered({**SIZES, "w": planted, "v": undone})
    weights = weights_of(lowered({**SIZES, "w": planted, "v": undone})[0].model)
    plain = weights_of(lowered({**SIZES, "v": undone})[0].model)
    others = [0, 1, 3, 4, 5]
    name = "node.c.weight:int8"
    assert np.array_equal(weights[name][others], plain[name][others])
    assert relative(after, before) < 0.5  # its tensor's grid is a hundred times coarser


def test_one_image_is_enough_to_calibrate() -> None:
    model = build(BODY, SIZES)
    _, before, after = lowered(SIZES, noise(model, batch=1))
    assert relative(after, before) < 0.03


@pytest.mark.parametrize("bias", [1e3, -1e6, 1e7])
def test_a_bias_out_of_all_proportion_does_not_overflow(bias: float) -> None:
    """Weights of 10⁻⁹ beside it: their steps would take a bias of 50 bits."""
    w = weights_of(build(BODY, SIZES))["w"].copy()
    w[3] *= 1e-9
    b = np.zeros(6, np.float32)
    b[3] = bias
    result, before, after = lowered({**SIZES, "w": w, "b": b})
    assert relative(after, before) < 0.02
    values = weights_of(result.model)
    steps = values["node.c.bias:int32"].astype(np.float64)
    np.testing.assert_allclose(steps[3] * values["node.c.bias:scale"][3], bias, rtol=1e-6)
    assert abs(steps[3]) <= 2**30 + 2**8


def test_bias_correction_moves_the_mean_back() -> None:
    rng = np.random.default_rng(0)
    model = build(BODY, SIZES)
    images = (noise(model, batch=16) + rng.uniform(1, 3, (1, 4, 1, 1))).astype(np.float32)
    engine = ENGINES.get("onnxruntime")
    statistics = observe_channels(
        model, [images], tensors=("input", "r", "flat"), engine=engine, total=1
    )
    coarse = replace(Int8(), bits=4)  # so that the weights' part of the error is plain to see
    biases = [np.zeros(5), np.zeros(5)]
    for index, precision in enumerate((coarse, coarse.informed(statistics))):
        _, before, after = lowered(SIZES, images, precision)
        biases[index] = np.abs((after - before).mean(0))
    assert biases[1].mean() < 0.6 * biases[0].mean()


def test_a_convolution_without_bias_gets_one_where_the_correction_needs_it() -> None:
    body = "c = Conv(input, w)\n r = Relu(c)\n output = Neg(r)"
    model = build(body, {"w": (6, 4, 3, 3)})
    images = noise(model) + 1
    engine = ENGINES.get("onnxruntime")
    seen = observe_channels(model, [images], tensors=("input",), engine=engine, total=1)
    plain = Int8().lower(model, observe_on(model, images)).model
    informed = Int8().informed(seen).lower(model, observe_on(model, images)).model
    assert "node.c.bias:int32" not in weights_of(plain)
    assert weights_of(informed)["node.c.bias:int32"].any()
    assert op_types(plain).count("Conv") == op_types(informed).count("Conv") == 1


@pytest.mark.parametrize("bits", [7, 8])
def test_weights_have_the_bits_that_are_recorded(bits: int) -> None:
    precision = Int8().at("onnxruntime", reduce_range=bits == 7)
    result, before, after = lowered(SIZES, precision=precision)
    assert result.facts["weight_bits"] == bits
    values: dict[str, NDArray[Any]] = weights_of(result.model)
    integers = [v for name, v in values.items() if name.endswith(".weight:int8")]
    assert len(integers) == 3
    assert {np.abs(v.astype(int)).max() for v in integers} == {2 ** (bits - 1) - 1}
    assert relative(after, before) < 0.03


def machine(platform: str, *isa: str) -> Machine:
    return replace(describe(), platform=platform, isa=isa)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (machine("Linux x86_64 glibc 2.36", "avx2", "avx512f"), True),
        (machine("Linux x86_64 glibc 2.36", "avx2", "avx_vnni"), False),
        (machine("Linux x86_64 glibc 2.36", "avx512f", "avx512_vnni"), False),
        (machine("Linux x86_64", "amx_int8"), False),
        (machine("Windows AMD64"), True),
        (machine("Linux aarch64", "asimd"), False),
        (machine("Darwin arm64"), False),
    ],
    ids=lambda value: " ".join((value.platform, *value.isa)) if isinstance(value, Machine) else "",
)
def test_seven_bits_where_the_processor_has_no_dot_product(
    where: Machine, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert saturates(where) is expected
    monkeypatch.setattr(module, "describe", lambda: where)
    precision = PRECISIONS.get("int8")
    for name in PLACEMENTS.names():
        needed = expected and PLACEMENTS.get(name).saturates
        for asked, bits in ((None, 7 if needed else 8), (True, 7), (False, 8)):
            chosen = precision.at(name, reduce_range=asked)
            assert isinstance(chosen, Int8)
            assert chosen.bits == bits
            assert chosen.placement.name == name


def test_a_linear_layer_with_a_scalar_bias_stays_float() -> None:
    body = BODY.replace("u, e)", "u, one)")
    model = build(body, {**SIZES, "one": np.ones(1, np.float32)})
    result = Int8().lower(model, observe_on(model))
    reasons = {refused.node: refused.reason for refused in result.refused}
    assert reasons["node.output"] == "its bias is not one number per channel"


def test_a_tensor_without_a_range_is_named() -> None:
    model = build(BODY, SIZES)
    seen = observe_on(model)
    tensors = {name: r for name, r in seen.tensors.items() if name != "r"}
    table = Ranges(tensors, seen.model, seen.data, seen.images, seen.calibrator)
    with pytest.raises(StageError, match="no range was taken of 'r'"):
        Int8().lower(model, table)


def moments_of(images: FloatArray) -> list[tuple[str, InputMoments]]:
    model = build(BODY, SIZES)
    return list(
        observe_moments(
            model,
            lambda: [images],
            nodes=Int8().rounds(model),
            engine=ENGINES.get("onnxruntime"),
            images=len(images),
        )
    )


def test_weights_rounded_by_what_is_read_leave_less_noise() -> None:
    model = build(BODY, SIZES)
    rng = np.random.default_rng(0)
    mixed = rng.standard_normal((64, 1, 6, 6)) + 0.1 * rng.standard_normal((64, 4, 6, 6))
    images = mixed.astype(np.float32)  # four channels that are nearly one
    coarse = replace(Int8(), bits=5)  # so that the weights' part of the error is plain to see
    assert coarse.rounds(model) == ("node.c", "node.d", "node.output")
    rounded = coarse.rounded(model, observe_on(model, images), moments_of(images))
    errors = []
    for precision in (coarse, rounded):
        result, before, after = lowered(SIZES, images, precision)
        errors.append(float(np.square(after - before).mean()))
        assert result.facts["rounded_by_moments"] == len(precision.rounding)
    assert errors[1] < 0.5 * errors[0]


def test_weights_rounded_for_another_grid_are_left() -> None:
    model = build(BODY, SIZES)
    images = noise(model, batch=16)
    rounded = Int8().rounded(model, observe_on(model, images), moments_of(images))
    seven = replace(rounded, bits=7)
    plain = replace(Int8(), bits=7)
    first, second = (weights_of(lowered(SIZES, images, p)[0].model) for p in (seven, plain))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_floats_in_eight_bits_are_not_rounded_by_moments() -> None:
    assert PRECISIONS.get("fp8").rounds(build(BODY, SIZES)) == ()
