"""OpenVINO's CPU plugin: uint8 activations, int8 weights, one quantiser per tensor that is rounded.

Its low-precision passes carry a DequantizeLinear through operators that move values until they meet
a quantiser or an integer kernel. A quantiser behind a mover would be one more pass over the bytes,
and a mover in front of the quantiser runs in float, so quantisers stand at what computes, and in
front of pools. Biases are added in float behind the accumulator, without a rounding of their own.
"""

from __future__ import annotations

from inception_deploy.placements.base import Placement, Rule

__all__ = ["PLACEMENTS"]

_MOVES = "moves bytes; the values stay on the grid of what comes in"

PLACEMENTS = (
    Placement(
        name="openvino",
        activations="uint8",
        symmetric=False,
        bias="float",
        linear="Gemm",
        rules=(
            Rule("Conv", "int8 kernel, which rounds to bytes behind its epilogue", source=True),
            Rule("Gemm", "int8 kernel with float output; the logits keep theirs", output=False),
            Rule("MaxPool", _MOVES, output=False, shares=True),
            Rule(
                "Concat", "copies bytes where all branches share a grid", output=False, shares=True
            ),
            Rule("Split", _MOVES, output=False, shares=True),
            Rule("Flatten", _MOVES, output=False, shares=True),
            Rule("Reshape", _MOVES, output=False, shares=True),
            Rule("AveragePool", "averages bytes; float output would leave the next one in float"),
            Rule("GlobalAveragePool", "averages bytes"),
            Rule("Add", "joins the convolution before it if both operands are bytes"),
        ),
        epilogues=frozenset({"Relu", "Gelu"}),
    ),
)
