"""ONNX Runtime's CPU provider: uint8 activations, int8 weights, quantisers on both sides.

Its optimiser turns DequantizeLinear → operator → QuantizeLinear into an integer kernel, and only
then: an operator whose output is not quantised runs in float. A ReLU disappears into a uint8
quantiser with zero point 0. A GELU is computed in float: the 1×1 convolution before it is written
as MatMulInteger, whose sums one kernel scales to float and gives their bias.
"""

from __future__ import annotations

from inception_deploy.placements.base import Placement, Rule

__all__ = ["PLACEMENTS"]

PLACEMENTS = (
    Placement(
        name="onnxruntime",
        activations="uint8",
        symmetric=False,
        bias="int32",
        linear="Gemm",
        saturates=True,
        rules=(
            Rule("Conv", "QLinearConv, with a quantised output only", source=True),
            Rule(
                "Gemm",
                "QGemm, where the bias is int32 too; the logits keep their precision",
                output=False,
            ),
            Rule("MaxPool", "moves bytes where both sides share a grid", shares=True),
            Rule("Relu", "max(q, zero point) on the bytes, written as Clip", shares=True),
            Rule("Concat", "copies bytes where all branches share a grid", shares=True),
            Rule("Add", "QLinearAdd needs both inputs and the output"),
            Rule("Mul", "QLinearMul, for the map of factors behind an average pool's sums"),
            Rule("GlobalAveragePool", "QLinearGlobalAveragePool"),
            Rule("Flatten", "moves bytes where both sides share a grid", shares=True),
            Rule("Reshape", "moves bytes where both sides share a grid", shares=True),
            Rule("Split", "copies bytes where all parts share a grid", shares=True),
        ),
        float_readers=frozenset({"Gelu"}),
    ),
)
