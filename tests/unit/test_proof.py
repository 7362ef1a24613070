"""The proof: what it measures, and what it does not let pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from inception_deploy.artifact import Golden
from inception_deploy.errors import StageError
from inception_deploy.proof import BATCH, Proof, prove

COUNT = BATCH + 1


def model(body: str = "half = Mul(input, c)\n logits = Relu(half)") -> onnx.ModelProto:
    """Halves and rectifies; `half` is its block."""
    text = f"""<ir_version: 9, opset_import: ["": 20]>
        tiny (float[batch, 2] input) => (float[batch, 2] logits) <float c = {{0.5}}> {{ {body} }}"""
    return onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text), strict_mode=True)


def golden() -> Golden:
    inputs = np.linspace(-4, 8, 2 * COUNT, dtype=np.float32).reshape(COUNT, 2)
    halved = inputs * np.float32(0.5)
    return Golden(inputs, np.maximum(halved, 0), "logits", {"half": halved[:2]}, 2)


def test_an_equal_graph_has_no_error() -> None:
    proof = prove(model(), golden(), bound=1e-7, stage="test")
    assert proof == Proof(0.0, {"half": 0.0})
    assert proof.facts() == {"worst_block": "half", "block_error": 0.0}


def test_errors_are_relative_to_the_golden() -> None:
    expected = golden()
    off = expected.outputs.copy()
    off[-1, 0] += 0.4
    moved = replace(expected, outputs=off)
    with pytest.raises(StageError, match=r"test: 'logits' is off by 1\.00e-01"):
        prove(model(), moved, bound=0.05, stage="test")
    assert prove(model(), moved, bound=0.2, stage="test").error == pytest.approx(0.1)


def test_a_block_may_not_be_off_either() -> None:
    expected = golden()
    moved = replace(expected, blocks={"half": expected.blocks["half"] * np.float32(1.5)})
    with pytest.raises(StageError, match="'half' is off"):
        prove(model(), moved, bound=0.1, stage="test")


def test_a_missing_block_is_an_error() -> None:
    other = model("twice = Mul(input, c)\n logits = Relu(twice)")
    with pytest.raises(StageError, match="the output of block 'half' is gone"):
        prove(other, golden(), bound=1.0, stage="test")


def test_a_block_that_is_the_output_goes_by_the_outputs_name() -> None:
    expected = golden()
    last = replace(expected, blocks={"last": expected.outputs[:2]})
    assert prove(model(), last, bound=1e-7, stage="test") == Proof(0.0, {})


def test_a_missing_output_is_an_error() -> None:
    with pytest.raises(StageError, match="does not put out 'features'"):
        prove(model(), replace(golden(), output_name="features"), bound=1.0, stage="test")


def test_another_shape_is_an_error() -> None:
    wider = replace(golden(), outputs=np.zeros((COUNT, 3), np.float32))
    with pytest.raises(StageError, match=r"shape \(4, 2\), the golden has \(4, 3\)"):
        prove(model(), wider, bound=1.0, stage="test")


def test_nan_is_infinitely_far() -> None:
    poisoned = model("half = Mul(input, c)\n zero = Sub(half, half)\n logits = Div(zero, zero)")
    with pytest.raises(StageError, match="'logits' is off by inf"):
        prove(poisoned, golden(), bound=1e9, stage="test")


def test_an_all_zero_golden_allows_no_error() -> None:
    dead = model("half = Mul(input, c)\n logits = Sub(half, half)")
    zeros = replace(golden(), outputs=np.zeros((COUNT, 2), np.float32))
    assert prove(dead, zeros, bound=1e-7, stage="test").error == 0.0
    with pytest.raises(StageError, match="'logits' is off by inf"):
        prove(model(), zeros, bound=1e9, stage="test")
