"""FP8: E4M3 quantisers where INT8 has its own, float16 between them.

E4M3 has four bits of an exponent and three of a mantissa, no infinity, and ±448 as its largest
values (Micikevicius et al., arXiv 2209.05433). Rounding costs up to 2⁻⁴ of a value, whatever its
size: small values keep their digits, large ones lose more than in INT8. Each activation and each
weight has one scale, which brings its range to 448.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray

from inception_deploy.errors import RecipeError
from inception_deploy.placements import PLACEMENTS, Placement, Plan
from inception_deploy.placements.base import WEIGHTED
from inception_deploy.precisions._high import half_scales
from inception_deploy.precisions._weights import float_weights
from inception_deploy.precisions.int8 import Int8
from inception_deploy.quantisation import SMALLEST_SCALE, QuantisedWeights, Quantiser
from inception_deploy.ranges import Ranges

__all__ = ["E4M3", "LARGEST", "PRECISIONS", "Fp8"]

E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
LARGEST = 448.0

MOST_TAPS = 25
"""Of a kernel: TensorRT-RTX 1.7 runs 5×5 in FP8 and 7×7 in float16."""

CONFIDENCE = 4.0
"""As of FP16 (`precisions/fp16.py`)."""


@dataclass(frozen=True)
class Fp8(Int8):
    """E4M3 activations and weights, one scale per tensor, on TensorRT's placement."""

    placement: Placement = field(default_factory=lambda: _for_fp8(PLACEMENTS.get("tensorrt")))
    name = "fp8"
    confidence = CONFIDENCE

    @property
    def unit(self) -> float:
        """Rounding costs 2⁻⁴ of a value at most; most values are far from the largest one."""
        return 2.0**-6

    def at(self, placement: str, *, reduce_range: bool | None = None) -> Fp8:
        del reduce_range
        found = PLACEMENTS.get(placement)
        if found.high != "fp16":
            raise RecipeError(f"fp8 has no kernels on {placement}; use --target tensorrt-rtx")
        return replace(self, placement=_for_fp8(found))

    def rounds(self, model: onnx.ModelProto) -> tuple[str, ...]:
        del model
        return ()  # a grid of floats is not evenly spaced, which the moments count on

    def _plan(self, graph: onnx.ModelProto) -> Plan:
        """The placement's plan; what FP8 has no kernels for stays float, with its reason."""
        without = {node.name: why for node in graph.graph.node if (why := _no_kernel(node))}
        plan = self.placement.plan(graph, exclude=self.exclude | without.keys())
        refused = tuple(
            replace(r, reason=without[r.node])
            if r.node in without and r.node not in self.exclude
            else r
            for r in plan.refused
        )
        return replace(plan, refused=refused)

    def _grids(self, plan: Plan, ranges: Ranges, pixels: frozenset[str]) -> dict[str, Quantiser]:
        grids: dict[str, Quantiser] = {}
        for name, grid in super()._grids(plan, ranges, pixels).items():
            scale = half_scales(np.array([grid.scale * 127 / LARGEST], np.float32))
            grids[name] = _Float8(float(scale[0]))
        return grids

    def _weights(
        self, graph: onnx.ModelProto, plan: Plan, grids: Mapping[str, Quantiser]
    ) -> tuple[dict[str, QuantisedWeights], dict[str, NDArray[np.float64]]]:
        values, placed = float_weights(graph), set(plan.nodes)
        weights: dict[str, QuantisedWeights] = {}
        biases: dict[str, NDArray[np.float64]] = {}
        for node in graph.graph.node:
            if node.name in placed and node.op_type in WEIGHTED:
                weights[node.name] = rounded_weights(values[node.input[1]])
                if len(node.input) > 2 and node.input[2]:
                    biases[node.name] = values[node.input[2]].astype(np.float64).reshape(-1)
        return weights, biases


class _Float8(Quantiser):
    """A grid of floats: the scale, and zero for zero."""

    def __init__(self, scale: float) -> None:
        super().__init__(scale, 0, E4M3.name)


def _no_kernel(node: onnx.NodeProto) -> str | None:
    """Why a node stays float16; None where TensorRT has an FP8 kernel for it."""
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    if node.op_type == "Conv" and groups > 1:
        return "TensorRT's FP8 convolutions have one group; with more they are padded to it"
    kernel = next((a.ints for a in node.attribute if a.name == "kernel_shape"), ())
    if node.op_type == "Conv" and math.prod(kernel) > MOST_TAPS:
        return f"TensorRT has no FP8 kernel of {'×'.join(map(str, kernel))}"
    return None


def _for_fp8(placement: Placement) -> Placement:
    """With the rules of contractions alone: pools have no kernels for FP8.

    A pool that reads FP8 values makes the convolution behind it run in float16, too (seen with
    TensorRT-RTX 1.7); behind a pool in float16 the convolution finds a quantiser of its own.
    """
    rules = tuple(rule for rule in placement.rules if rule.op in WEIGHTED)
    pools = dict.fromkeys(("MaxPool", "AveragePool"), "TensorRT's pools take no FP8 values")
    # grids of floats hold nothing more when they are moved
    return replace(placement, rules=rules, unruled={**placement.unruled, **pools}, shifts=False)


def rounded_weights(values: NDArray[Any]) -> QuantisedWeights:
    """Weights in E4M3 with one scale, which float16 holds, for the whole tensor."""
    largest = float(np.abs(values).max(initial=0.0))
    ideal = np.array([max(largest / LARGEST, SMALLEST_SCALE)], np.float32)
    scale = half_scales(ideal) if largest else np.ones(1, np.float32)
    steps = np.clip(values / scale, -LARGEST, LARGEST).astype(E4M3)
    return QuantisedWeights(steps, scale.reshape(()), 0)


PRECISIONS = (Fp8(),)
