"""FP32: the graph as it is, after the checks that every precision makes."""

from __future__ import annotations

import onnx

from inception_deploy.precisions._weights import fp32_graph
from inception_deploy.precisions.base import Lowering, Precision
from inception_deploy.ranges import Ranges

__all__ = ["BOUND", "PRECISIONS", "Fp32"]

BOUND = 1e-4
"""Largest allowed max |output − golden| / golden.scale: float32 sums taken in another order."""


class Fp32(Precision):
    """IEEE single precision throughout."""

    name = "fp32"
    needs_ranges = False

    def lower(self, model: onnx.ModelProto, ranges: Ranges | None) -> Lowering:
        return Lowering(fp32_graph(model, stage="lower/fp32"), BOUND)


PRECISIONS = (Fp32(),)
