"""FP16: where casts go, what the types are, and what else a graph may hold."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from fp16_cases import BLOCK, SIZES, lowered, reasons
from small_graphs import Weights, build, observe_on, op_types, quarrels, types_of
from small_graphs import weights_of as weights

from inception_deploy.engines import ENGINES
from inception_deploy.errors import StageError
from inception_deploy.precisions.base import FP32_BOUND
from inception_deploy.precisions.fp16 import CONFIDENCE, Fp16, roundings
from inception_deploy.ranges import Ranges, TensorRange

ENGINE = ENGINES.get("onnxruntime")


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
