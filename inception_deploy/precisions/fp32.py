"""FP32: the graph as it is, after the checks that every precision makes."""

from __future__ import annotations

import onnx

from inception_deploy.precisions._weights import fp32_graph
from inception_deploy.precisions.base import FP32_BOUND, Lowering, Precision
from inception_deploy.ranges import Ranges

__all__ = ["PRECISIONS", "Fp32"]


class Fp32(Precision):
    """IEEE single precision throughout."""

    name = "fp32"
    needs_ranges = False

    def lower(self, model: onnx.ModelProto, ranges: Ranges | None) -> Lowering:
        return Lowering(fp32_graph(model, stage="lower/fp32"), FP32_BOUND)


PRECISIONS = (Fp32(),)
