"""Graphs against the golden: output and blocks, in FP32, in FP16, and when something is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from inception_deploy.artifact import Golden, model_digest
from inception_deploy.engines.base import Engine, Session, TensorSpec
from inception_deploy.engines.onnxruntime import OnnxRuntime
from inception_deploy.errors import StageError
from inception_deploy.parity import golden as golden_parity
from inception_deploy.parity.golden import compare_blocks, compare_golden

ENGINE = OnnxRuntime()
RNG = np.random.default_rng(7)
STEM = RNG.normal(size=(6, 3)).astype(np.float32)
MIXED = RNG.normal(size=(5, 6)).astype(np.float32)
LOUD = STEM * 60_000 / np.abs(STEM).max()  # fits float16, its outputs do not
HEAD = RNG.normal(size=(4, 5)).astype(np.float32)


def relu(x):
    return np.maximum(x, 0)


def golden(images: int = 11, block_images: int = 2) -> Golden:
    """What a two-block network of 1×1 convolutions returns, computed with NumPy."""
    inputs = np.random.default_rng(1).normal(size=(images, 3, 4, 4)).astype(np.float32)
    stem = relu(np.einsum("oc,nchw->nohw", STEM, inputs))
    mixed = relu(np.einsum("oc,nchw->nohw", MIXED, stem))
    return Golden(
        inputs=inputs,
        outputs=mixed.mean(axis=(2, 3)) @ HEAD.T,
        output_name="logits",
        blocks={"stem": stem[:block_images], "Mixed_5b": mixed[:block_images]},
        block_images=block_images,
    )


def network(half: bool = False, stem=STEM, mixed: str = "Mixed_5b") -> onnx.ModelProto:
    """The same network in ONNX; `half` computes in float16 with float32 at both ends."""
    real = np.float16 if half else np.float32

    def weight(name, values):
        return numpy_helper.from_array(values.astype(real), name)

    nodes = [
        helper.make_node(
            "Cast", ["input"], ["x"], to=helper.np_dtype_to_tensor_dtype(np.dtype(real))
        ),
        helper.make_node("Conv", ["x", "w_stem"], ["stem_conv"]),
        helper.make_node("Relu", ["stem_conv"], ["stem"]),
        helper.make_node("Conv", ["stem", "w_mixed"], ["mixed_conv"]),
        helper.make_node("Relu", ["mixed_conv"], [mixed]),
        helper.make_node("GlobalAveragePool", [mixed], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w_head"], ["scores"], transB=1),
        helper.make_node("Cast", ["scores"], ["logits"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4])],
        [
            weight("w_stem", stem.reshape(6, 3, 1, 1)),
            weight("w_mixed", MIXED.reshape(5, 6, 1, 1)),
            weight("w_head", HEAD),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def on_golden(model, recorded):
    with ENGINE.session(model.SerializeToString()) as session:
        return compare_golden(session, recorded)


# ---------------------------------------------------------------- the output


def test_output_agrees_over_all_images_in_several_runs():
    found = on_golden(network(), golden(images=11))
    assert found.images == 11  # more than fit one run
    assert found.max_rel_error < 1e-6


def test_output_error_of_the_last_image_is_seen():
    recorded = golden(images=11)
    outputs = recorded.outputs.copy()
    outputs[10, 2] += 0.5
    found = on_golden(network(), replace(recorded, outputs=outputs))
    assert found.max_abs_error == pytest.approx(0.5, rel=1e-5)


def test_output_that_is_not_finite_is_an_error():
    with pytest.raises(StageError, match="'logits' holds NaN or infinity"):
        on_golden(network(stem=np.where(STEM.max() == STEM, np.inf, STEM)), golden())


def test_output_of_another_name_is_an_error():
    with pytest.raises(StageError, match="does not put out 'features' but logits"):
        on_golden(network(), replace(golden(), output_name="features"))


def test_output_of_another_shape_is_an_error():
    recorded = golden()
    with pytest.raises(StageError, match="belong to different networks"):
        on_golden(network(), replace(recorded, outputs=recorded.outputs[:, :3]))


# ---------------------------------------------------------------- the blocks


def test_blocks_in_processing_order():
    model = network()
    before = model_digest(model)
    blocks = compare_blocks(model, golden(), ENGINE)
    assert [block.name for block in blocks] == ["stem", "Mixed_5b"]
    assert all(block.reason is None and block.max_rel_error < 1e-6 for block in blocks)
    assert model_digest(model) == before


def test_half_precision_blocks_lose_precision_but_not_much():
    for block in compare_blocks(network(half=True), golden(), ENGINE):
        assert 1e-5 < block.max_rel_error < 2e-3
        assert 55 < block.sqnr_db < 80
        assert not block.exact


def test_error_of_one_block_is_found_there_and_after_but_not_before():
    recorded = golden()
    wrong = {**recorded.blocks, "Mixed_5b": 1.5 * recorded.blocks["Mixed_5b"]}
    stem, mixed = compare_blocks(network(), replace(recorded, blocks=wrong), ENGINE)
    assert stem.max_rel_error < 1e-6
    assert mixed.max_rel_error == pytest.approx(1 / 3, rel=1e-5)
    assert mixed.sqnr_db == pytest.approx(20 * np.log10(3), abs=1e-4)
    assert mixed.cosine == pytest.approx(1.0)


def test_exact_blocks_say_so():
    recorded = golden()
    probe = network()
    probe.graph.output.append(onnx.ValueInfoProto(name="stem"))
    with ENGINE.session(probe.SerializeToString(), optimise=False) as session:
        stem = session.infer({"input": recorded.inputs[:2]})["stem"]
    (block,) = compare_blocks(network(), replace(recorded, blocks={"stem": stem}), ENGINE)
    assert (block.exact, block.sqnr_db, block.max_abs_error) == (True, None, 0.0)


def test_block_that_left_the_graph_is_listed_with_the_reason():
    stem, mixed = compare_blocks(network(mixed="renamed"), golden(), ENGINE)
    assert stem.reason is None
    assert mixed.max_abs_error is mixed.sqnr_db is mixed.cosine is None
    assert mixed.reason == "no tensor of this name is left in the graph"


def test_block_that_overflows_is_listed_with_the_reason():
    model = network(half=True, stem=LOUD)
    stem, _ = compare_blocks(model, golden(), ENGINE)
    assert stem.max_abs_error is None
    assert "of 192 values are NaN or infinite" in stem.reason


def test_dead_golden_block_is_listed_with_the_reason():
    recorded = golden()
    dead = {"stem": np.zeros_like(recorded.blocks["stem"])}
    (block,) = compare_blocks(network(), replace(recorded, blocks=dead), ENGINE)
    assert "zero throughout" in block.reason


def test_block_that_is_the_head_itself_is_compared_with_the_output():
    recorded = golden()
    blocks = {**recorded.blocks, "head": recorded.outputs[:2]}
    *_, head = compare_blocks(network(), replace(recorded, blocks=blocks), ENGINE)
    assert head.name == "head"
    assert head.max_rel_error < 1e-6


def test_block_of_another_shape_is_an_error():
    recorded = golden()
    wrong = {"stem": recorded.blocks["stem"][:, :5]}
    with pytest.raises(StageError, match=r"'stem' has shape \(2, 6, 4, 4\), the golden has"):
        compare_blocks(network(), replace(recorded, blocks=wrong), ENGINE)


def test_golden_without_blocks_gives_none():
    assert compare_blocks(network(), replace(golden(), blocks={}), ENGINE) == []


# ---------------------------------------------------------------- how the graph is run


class RecordingSession(Session):
    name = "recording"

    def __init__(self, engine: RecordingEngine, model: bytes):
        self.engine = engine
        self.names = [value.name for value in onnx.load_from_string(model).graph.output]
        engine.runs.append(self.names)

    def load(self):
        self.inputs = (TensorSpec("input", np.dtype(np.float32), ("batch", 3, 4, 4)),)
        self.outputs = ()

    def infer_impl(self, feeds):
        blocks = self.engine.recorded.blocks
        return {name: blocks[name] for name in self.names if name != self.engine.drop}

    def close(self):
        pass


class RecordingEngine(Engine):
    """Returns the golden's own blocks, and notes how it was asked."""

    name = "recording"

    def __init__(self, recorded: Golden, drop: str | None = None):
        self.recorded, self.drop = recorded, drop
        self.runs: list[list[str]] = []
        self.options: list[dict] = []

    def availability(self):
        raise AssertionError("comparing asks no engine whether it is there")

    def session(self, model, *, threads=None, optimise=True):
        self.options.append({"threads": threads, "optimise": optimise})
        return RecordingSession(self, model)


def test_few_blocks_at_a_time_and_without_the_engines_rewrites(monkeypatch):
    monkeypatch.setattr(golden_parity, "BLOCKS_AT_ONCE", 1)
    engine = RecordingEngine(golden())
    blocks = compare_blocks(network(), engine.recorded, engine, threads=1)
    assert engine.runs == [["stem"], ["Mixed_5b"]]
    assert engine.options == [{"threads": 1, "optimise": False}] * 2
    assert all(block.exact for block in blocks)


def test_engine_that_forgets_a_block_is_an_error():
    engine = RecordingEngine(golden(), drop="stem")
    with pytest.raises(StageError, match="does not put out 'stem' but Mixed_5b"):
        compare_blocks(network(), engine.recorded, engine)
