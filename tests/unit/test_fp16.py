"""FP16: one hand-made graph for each rule, and for each way of putting casts."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from small_graphs import (
    Weights,
    build,
    noise,
    observe_on,
    op_types,
    quarrels,
    types_of,
    useless_casts,
)
from small_graphs import weights_of as weights

from inception_deploy.engines import ENGINES
from inception_deploy.errors import StageError
from inception_deploy.precisions.base import FP32_BOUND, Lowering
from inception_deploy.precisions.fp16 import CONFIDENCE, Fp16, roundings
from inception_deploy.ranges import Ranges, TensorRange

ENGINE = ENGINES.get("onnxruntime")


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


CONV = "a = Conv<pads=[1,1,1,1]>(input, w, b)\n"
BLOCK = CONV + "output = Relu(a)"
SIZES = {"w": (4, 4, 3, 3), "b": (4,)}


def test_a_block_becomes_float16_between_two_casts() -> None:
    result = lowered(build(BLOCK, SIZES))
    assert op_types(result.model) == ["Cast", "Conv", "Relu", "Cast"]
    types = types_of(result.model)
    assert (types["input"], types["output"]) == ("FLOAT", "FLOAT")
    assert types["a"] == types["w"] == types["b"] == "FLOAT16"
    assert reasons(result) == {}
    assert [a.node for a in result.applied] == [
        "node.a",
        "node.output",
        "input.to_fp16",
        "output.to_fp32",
    ]
    before = weights(build(BLOCK, SIZES))["w"]
    assert np.array_equal(weights(result.model)["w"], before.astype(np.float16))


def test_float16_input_and_output_when_asked() -> None:
    result = lowered(build(BLOCK, SIZES), fp32_io=False)
    assert op_types(result.model) == ["Conv", "Relu"]
    assert types_of(result.model)["input"] == types_of(result.model)["output"] == "FLOAT16"


def test_an_overflowing_tensor_keeps_its_writer_and_readers_in_fp32() -> None:
    model = build(
        "a = Conv(input, w, b)\n r = Relu(a)\n output = Conv(r, v)",
        {"w": np.full((2, 4, 1, 1), 3000, "f4"), "b": (2,), "v": np.full((2, 2, 1, 1), 1e-4, "f4")},
    )
    result = lowered(model)
    assert set(reasons(result)) == {"node.a", "node.r", "node.output"}
    assert "'a' reaches" in reasons(result)["node.a"]
    assert "the limit is 8188 (65504 / headroom 8)" in reasons(result)["node.a"]
    assert "Cast" not in op_types(result.model)  # nothing is left that could be float16


@pytest.mark.parametrize(("largest", "kept"), [(8188.0, False), (8189.0, True)])
def test_the_limit_is_65504_over_the_headroom(largest: float, kept: bool) -> None:
    model = build("output = Relu(input)")
    seen = TensorRange(-largest, largest)
    ranges = Ranges({"input": seen, "output": seen}, "m", "d", 1, "min_max")
    result = Fp16(fp32_io=False).lower(model, ranges)
    assert bool(result.refused) is kept


def test_a_huge_weight_is_named_with_its_value() -> None:
    huge = np.ones((4, 4, 1, 1), np.float32)
    huge[2, 1] = -70000.0
    model = build("a = Conv(input, w)\n output = Conv(a, v)", {"w": huge, "v": (2, 4, 1, 1)})
    result = lowered(model, scale=1e-3)
    assert reasons(result) == {"node.a": "weight 'w' holds -70000, beyond float16's 65504"}
    assert types_of(result.model)["w"] == "FLOAT"
    assert types_of(result.model)["v"] == "FLOAT16"


def test_weights_in_the_subnormals_stay_fp32_when_the_output_shows_it() -> None:
    generator = np.random.default_rng(0)
    tiny = (generator.standard_normal((4, 4, 3, 3)) * 1e-6).astype(np.float32)
    model = build(BLOCK, {"w": tiny, "b": np.zeros(4, np.float32)})
    result = lowered(model, scale=1000.0)
    assert "subnormals (4 of 4 channels)" in reasons(result)["node.a"]


def test_a_dead_channel_does_no_harm() -> None:
    values = weights(build(BLOCK, SIZES))["w"].copy()
    values[3] *= 1e-9
    assert reasons(lowered(build(BLOCK, {"w": values, "b": (4,)}))) == {}


def test_an_added_constant_is_judged_by_what_it_changes() -> None:
    # 4097.7 is rounded to 4096: too much where the sum cancels it, nothing where it does not
    values: Weights = {"c": np.full((1, 4, 1, 1), 4097.7, np.float32), "w": (4, 4, 1, 1)}
    harmless = "s = Add(input, c)\n output = Conv(s, w)"
    assert reasons(lowered(build(harmless, values), scale=1e-2)) == {}
    cancelled = "s = Add(input, c)\n d = Sub(s, c)\n output = Conv(d, w)"
    assert "'c' loses 1.7 to rounding" in reasons(lowered(build(cancelled, values)))["node.d"]


def test_a_factor_that_vanishes_is_refused() -> None:
    some = np.array([1e-4, 1e-9, 1e-4, 1e-4], np.float32).reshape(1, 4, 1, 1)
    body = "a = Mul(input, c)\n output = Conv(a, w)"
    result = lowered(build(body, {"c": some, "w": (4, 4, 1, 1)}), scale=1e3)
    assert reasons(result) == {"node.a": "'c' holds 1e-09, of which float16 loses 100.0%"}


def test_a_tensor_of_subnormals_is_refused() -> None:
    values: Weights = {"c": np.full(1, 2.0**-13, np.float32), "w": (4, 4, 1, 1)}
    model = build("a = Mul(input, c)\n output = Conv(a, w)", values)
    result = lowered(model, scale=0.05)
    assert "only holds as subnormals" in reasons(result)["node.a"]


def test_partial_sums_are_bounded_even_where_the_output_is_small() -> None:
    alternating = np.tile([400.0, -400.0], 18).reshape(1, 4, 3, 3).astype(np.float32)
    model = build("output = Conv(input, w)", {"w": alternating})
    flat = np.full((4, 4, 6, 6), 7.0, np.float32)
    result = Fp16().lower(model, observe_on(model, flat))
    assert "partial sums may reach 100800" in reasons(result)["node.output"]


def test_a_mean_is_bounded_by_its_sum() -> None:
    model = build("output = GlobalAveragePool(input)", shape="batch, 1, 20, 20")
    result = Fp16().lower(model, observe_on(model, noise(model, scale=60.0)))
    assert "partial sums may reach" in reasons(result)["node.output"]
    result = Fp16(fp32_io=False).lower(model, observe_on(model))
    assert reasons(result) == {}


def test_softmax_stays_fp32_and_costs_no_cast() -> None:
    model = build(
        "a = Conv(input, w)\n g = GlobalAveragePool(a)\n f = Flatten(g)\n output = Softmax(f)",
        {"w": (5, 4, 1, 1)},
    )
    result = lowered(model)
    assert op_types(result.model) == [
        "Cast",
        "Conv",
        "GlobalAveragePool",
        "Flatten",
        "Cast",
        "Softmax",
    ]
    assert "probabilities" in reasons(result)["node.output"]


def test_lrn_stays_fp32() -> None:
    model = build("a = Conv(input, w)\n output = LRN<size=5>(a)", {"w": (8, 4, 1, 1)})
    assert "it squares" in reasons(lowered(model))["node.output"]


def test_an_unknown_operator_is_left_alone() -> None:
    model = build(
        "a = Conv(input, w)\n b = local.Magic(a)\n output = Conv(b, w)", {"w": (4, 4, 1, 1)}
    )
    model.graph.output[0].CopyFrom(
        onnx.helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, ["batch", 4, 6, 6])
    )  # nobody can infer it through an unknown operator
    ranges = observe_on(build("a = Conv(input, w)\n output = Conv(a, w)", {"w": (4, 4, 1, 1)}))
    result = Fp16().lower(model, ranges)
    assert reasons(result)["node.b"] == "the type of 'b' is not known"
    assert reasons(result)["node.output"] == "the type of 'b' is not known"
    assert list(quarrels(result.model)) == []
    assert types_of(result.model)["w"] == "FLOAT"  # read by both
    assert types_of(result.model)["w.fp16"] == "FLOAT16"
    magic = next(node for node in result.model.graph.node if node.op_type == "Magic")
    assert magic.input == ["a.fp32"]


def test_an_operator_without_float16_is_refused() -> None:
    model = build("a = Relu(input)\n output = Celu(a)", opset=12)
    assert reasons(lowered(model))["node.output"] == "Celu takes no float16"


def test_integers_pass_through_untouched() -> None:
    model = build(
        "a = Conv(input, w)\n s = Shape(a)\n r = Relu(a)\n output = Reshape(r, s)",
        {"w": (4, 4, 1, 1)},
    )
    result = lowered(model)
    assert reasons(result) == {}
    assert types_of(result.model)["s"] == "INT64"


def test_inputs_tied_to_fp32_stay_fp32() -> None:
    scales = np.array([1, 1, 2, 2], np.float32)
    model = build('output = Resize<mode="nearest">(input, , k)', {"k": scales})
    result = Fp16(fp32_io=False).lower(model, observe_on(model))
    assert types_of(result.model)["k"] == "FLOAT"
    assert types_of(result.model)["output"] == "FLOAT16"
    assert list(quarrels(result.model)) == []


def test_batch_norm_leftovers_take_all_parameters_along() -> None:
    values: Weights = {"s": (4,), "b": (4,), "m": (4,), "v": np.full(4, 0.5, np.float32)}
    result = lowered(
        build(
            "c = Conv(input, w)\n output = BatchNormalization(c, s, b, m, v)",
            {"w": (4, 4, 1, 1), **values},
        )
    )
    assert reasons(result) == {}
    assert {types_of(result.model)[name] for name in "sbmv"} == {"FLOAT16"}


def test_a_vanishing_variance_keeps_batch_norm_in_fp32() -> None:
    values: Weights = {"s": (4,), "b": (4,), "m": (4,), "v": np.full(4, 1e-8, np.float32)}
    model = build(
        "c = Conv(input, w)\n output = BatchNormalization(c, s, b, m, v)",
        {"w": np.full((4, 4, 1, 1), 1e-2, np.float32), **values},
    )
    assert "'v' holds 1e-08" in reasons(lowered(model))["node.output"]


def test_a_shared_weight_is_there_in_both_types() -> None:
    model = build(
        "a = Conv(input, w)\n b = Mul(a, k)\n r = Conv(b, w)\n output = Mul(r, i)",
        {"w": (4, 4, 1, 1), "k": np.full(1, 5e4, np.float32), "i": np.full(1, 1e-3, np.float32)},
    )
    result = lowered(model)
    readers = {node.name: node.input[1] for node in result.model.graph.node if len(node.input) > 1}
    assert (readers["node.a"], readers["node.r"]) == ("w.fp16", "w")
    assert types_of(result.model)["w"] == "FLOAT"


def test_an_output_that_is_an_intermediate_too_keeps_its_name() -> None:
    model = build(
        "a = Conv(input, w)\n b = Conv(a, w)\n output = Relu(b)",
        {"w": (4, 4, 1, 1)},
        outputs=("output", "a"),
    )
    result = lowered(model)
    assert [o.name for o in result.model.graph.output] == ["output", "a"]
    assert types_of(result.model)["a"] == "FLOAT"
    assert next(n for n in result.model.graph.node if n.name == "node.b").input[0] == "a.fp16"
    assert op_types(result.model).count("Cast") == 3


def test_constant_nodes_become_weights() -> None:
    model = build(
        "c = Constant<value = float {0.5}>()\n m = Mul(input, c)\n output = Conv(m, w)",
        {"w": (4, 4, 1, 1)},
    )
    result = lowered(model)
    assert op_types(result.model) == ["Cast", "Mul", "Conv", "Cast"]
    assert types_of(result.model)["c"] == "FLOAT16"


def test_an_integer_input_is_cast_once_straight_to_float16() -> None:
    model = build(
        "f = Cast<to=1>(input)\n m = Mul(f, k)\n output = Conv(m, w)",
        {"k": np.full(1, 1 / 255, np.float32), "w": (4, 4, 1, 1)},
        dtype="uint8",
    )
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 6), np.uint8)
    seen = {name: TensorRange(0, 255) for name in ("f", "m", "output")}
    result = Fp16().lower(model, Ranges(seen, "m", "d", 1, "min_max"))
    assert op_types(result.model) == ["Cast", "Mul", "Conv", "Cast"]
    assert types_of(result.model)["f"] == "FLOAT16"
    assert list(quarrels(result.model)) == []
    with ENGINE.session(result.model.SerializeToString()) as session:
        assert np.isfinite(session.run(images)).all()


def test_a_node_between_two_fp32_neighbours_joins_them() -> None:
    """Relu and the factor 1 could be float16, at the price of two casts that save nothing."""
    big = np.full((4, 4, 1, 1), 7e4, np.float32)
    model = build(
        "a = Conv(input, w)\n r = Relu(a)\n s = Mul(r, one)\n output = Conv(s, w)",
        {"w": big, "one": np.ones(1, np.float32)},
    )
    result = lowered(model, scale=1e-4)
    assert "Cast" not in op_types(result.model)
    assert "fewer casts" in reasons(result)["node.r"]
    assert "fewer casts" in reasons(result)["node.s"]


def test_a_subgraph_reads_outer_tensors_in_fp32() -> None:
    model = build(
        """a = Conv(input, w)
        yes = Constant<value = bool {1}>()
        c = If (yes) <
            then_branch = t () => (float[batch, 4, 6, 6] p) { p = Relu(a) },
            else_branch = e () => (float[batch, 4, 6, 6] q) { q = Mul(a, k) }>
        output = Conv(c, w)""",
        {"w": (4, 4, 1, 1), "k": np.full(1, 2.0, np.float32)},
    )
    ranges = observe_on(
        build("a = Conv(input, w)\n c = Relu(a)\n output = Conv(c, w)", {"w": (4, 4, 1, 1)})
    )
    result = lowered(model, ranges=ranges)
    assert reasons(result)["node.c"] == "If holds subgraphs"
    branch = next(n for n in result.model.graph.node if n.op_type == "If").attribute[0].g
    assert branch.node[0].input[0] == "a.fp32"


def test_a_tensor_that_was_not_observed_is_refused() -> None:
    model = build(BLOCK, SIZES)
    seen = {"input": TensorRange(-3, 3), "a": TensorRange(-3, 3)}
    result = Fp16().lower(model, Ranges(seen, "m", "d", 1, "min_max"))
    assert "'output' was not observed" in reasons(result)["node.output"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_an_error(value: float) -> None:
    broken = np.ones((4, 4, 1, 1), np.float32)
    broken[1, 1] = value
    model = build("output = Conv(input, w)", {"w": broken})
    with pytest.raises(StageError, match="'w' holds NaN or infinity"):
        Fp16().lower(model, Ranges({}, "m", "d", 1, "min_max"))


def test_what_is_no_fp32_graph_is_an_error() -> None:
    model = build(BLOCK, SIZES)
    half = lowered(model).model
    with pytest.raises(StageError, match="is float16 already"):
        Fp16().lower(half, observe_on(model))
    with pytest.raises(StageError, match="calibrate first"):
        Fp16().lower(model, None)
    overridable = onnx.ModelProto.FromString(model.SerializeToString())
    overridable.graph.input.append(
        onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4, 4, 3, 3])
    )
    with pytest.raises(StageError, match="'w' is a graph input too"):
        Fp16().lower(overridable, observe_on(model))
    model.graph.node[0].input[0] = "nothing"
    with pytest.raises(StageError, match="not valid ONNX"):
        Fp16().lower(model, Ranges({}, "m", "d", 1, "min_max"))


def test_the_bound_counts_roundings_on_the_longest_way() -> None:
    result = lowered(
        build(
            "a = Conv(input, w)\n r = Relu(a)\n s = Add(r, a)\n output = Conv(s, w)",
            {"w": (4, 4, 1, 1)},
        )
    )
    # input, weights and output of two convolutions, sum; the ReLU only moves values
    assert roundings(result.model) == 1 + 2 + 1 + 2
    assert result.bound == FP32_BOUND + CONFIDENCE * 2**-11 * 6**0.5


def test_metadata_and_names_survive() -> None:
    model = build(BLOCK, SIZES)
    onnx.helper.set_model_props(model, {"inception_deploy.network": "small"})
    result = lowered(model)
    assert [(p.key, p.value) for p in result.model.metadata_props] == [
        ("inception_deploy.network", "small")
    ]
    assert {"node.a", "node.output"} <= {node.name for node in result.model.graph.node}
    assert len({node.name for node in result.model.graph.node}) == 4
