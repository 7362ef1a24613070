"""TensorRT and TensorRT-RTX: signed activations around zero, quantisers on what kernels read.

Their compilers look for DequantizeLinear → convolution and fuse what follows the convolution into
its epilogue: bias, ReLU, the sum with a residual, the next quantiser. A quantiser on a
convolution's output would end that chain, so there is none; a residual's other operand is read in
integers because its other readers are convolutions. What stays float runs in float16.

Behind a ReLU half of a signed grid would idle: biases carry another zero point where they can.

A uint8 activation, a zero point other than 0, an int32 bias and weights quantised along axis 1 are
refused by the parser or run otherwise than written (`engines/_trt_refusals.py`).
"""

from __future__ import annotations

from inception_deploy.placements.base import Placement, Rule

__all__ = ["PLACEMENTS"]

PLACEMENTS = (
    Placement(
        name="tensorrt",
        activations="int8",
        symmetric=True,
        bias="float",
        linear="Gemm",
        high="fp16",
        least_channels=16,
        shifts=True,
        rules=(
            Rule("Conv", "int8 kernel; its epilogue is computed in float", False, source=True),
            Rule("Gemm", "int8 kernel; the logits keep their precision", False, source=True),
            Rule(
                "MaxPool",
                "moves bytes; what reads it finds them on the grid of what comes in",
                output=False,
                shares=True,
                source=True,
            ),
            Rule("AveragePool", "averages bytes where both sides are quantised", source=True),
        ),
        unruled={
            "Add": "joins the epilogue of a convolution, and reads the other operand as it is",
            "Flatten": "moves what the global mean gives; the linear layer quantises behind it",
            "Reshape": "moves what the global mean gives; the linear layer quantises behind it",
            "Concat": "one quantiser behind it serves every reader",
            "GlobalAveragePool": "its mean is rounded once, where the linear layer reads it",
        },
    ),
)
