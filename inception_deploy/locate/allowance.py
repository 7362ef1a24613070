"""What error a piece of a graph may add: the rule by which an error counts as a jump.

A precision states how far a whole graph may be from the golden: λ·u·√n for n roundings on the
longest way (`precisions/fp16.py`, `precisions/int8.py`). The same formula holds for a piece, which
has a handful of roundings instead of hundreds, and is given exact inputs. So an error that no
rounding between two cuts can explain is a jump, however small it is against what has accumulated;
and one that has merely accumulated is none, however large.

Two things are no roundings and have rules of their own. Tensors that meet in a concatenation share
a grid, which is as coarse as the widest of them needs: their error may be half a step of it. And a
calibrator may cut off rare values: what is cut off may cost, as a root mean square, `CLIPPED` steps
of the grid that would have cut nothing. Weights are compared with what they were made of, one by
one: none may be off by more than half a unit of its own format. And where large products cancel, as
they do in a fitted classifier, the error that such units may cause is computed from the inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch

from inception_deploy.engines.base import Array
from inception_deploy.locate.anatomy import Anatomy, Grid
from inception_deploy.precisions.fp16 import CONFIDENCE

__all__ = [
    "CLIPPED",
    "FLOAT32",
    "Allowance",
    "Cut",
    "allowance",
    "cut_off",
    "stored_moved",
    "weights_explain",
]

FLOAT32 = 2e-5
"""Of the largest value: a piece in float32, whose sums run in another order. The largest that any
network of the family shows is 3e-6; a fifth of what a whole graph may have (`proof.FP32_BOUND`)."""

CLIPPED = 4.0
"""Steps. The calibrators of this package stay below one on the images they have seen, and below two
on others (`calibrators/auto.py` weighs what is cut off sixteen times)."""

_HALVES = {10: 2.0**-11, 16: 2.0**-8}
"""`TensorProto.DataType` → unit roundoff, of float16 and bfloat16."""

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "MatMulInteger")


@dataclass(frozen=True)
class Allowance:
    """The largest allowed own error, in units of the largest value before the stage."""

    largest: float
    why: str


@dataclass(frozen=True)
class Cut:
    """What a grid cuts off a tensor.

    Args:
        share: of the elements, that lie beyond the grid.
        cost: root mean square of what is cut off, over all elements, in steps of the grid that
            would cut nothing.
        inside: largest error of the other elements, in units of the largest value.
    """

    share: float
    cost: float
    inside: float


def allowance(nodes: Sequence[onnx.NodeProto], shared_step: float, eight_bits: float) -> Allowance:
    """What a piece made of `nodes` may add.

    Args:
        eight_bits: λ·u of the precision that quantises.
        shared_step: half a step of the tensor's grid in units of its largest value, where the grid
            is another tensor's too; else 0.
    """
    kinds = [node.op_type for node in nodes]
    integers = "QuantizeLinear" in kinds or "DequantizeLinear" in kinds
    halves = [
        _HALVES[a.i]
        for node in nodes
        if node.op_type == "Cast"
        for a in node.attribute
        if a.name == "to" and a.i in _HALVES
    ]
    weighted = sum(kind in _WEIGHTED for kind in kinds)
    if integers:
        count = max(kinds.count("QuantizeLinear") + weighted, 1)
        bound = FLOAT32 + eight_bits * math.sqrt(count)
        return Allowance(max(bound, 2 * shared_step), f"{count} roundings to eight bits")
    if halves:
        count = len(halves) + 2 * weighted
        bound = FLOAT32 + CONFIDENCE * max(halves) * math.sqrt(count)
        return Allowance(bound, f"{count} roundings to half precision")
    return Allowance(FLOAT32 * max(weighted, 1), "float32")


def stored_moved(allowed: Allowance, shift: float) -> Allowance:
    """`allowed`, of a tensor that half precision stores moved by `shift` largest values of its own:
    bias and sum are rounded there."""
    return Allowance(allowed.largest + CONFIDENCE * _HALVES[10] * shift, allowed.why)


def cut_off(want: Array, own: Array, grid: Grid) -> Cut:
    """How much of `want` lies beyond `grid`, and the error of the rest."""
    kept = (want >= grid.low - grid.scale / 2) & (want <= grid.high + grid.scale / 2)
    lost = want.astype(np.float64) - np.clip(want, grid.low, grid.high)
    span = max(float(want.max()), 0.0) - min(float(want.min()), 0.0)
    scale = float(np.abs(want).max())
    error = np.abs(own.astype(np.float64) - want)[kept]
    return Cut(
        share=float(1 - kept.mean()),
        cost=math.sqrt(float(np.square(lost).mean())) / (span / 255) if span else 0.0,
        inside=float(error.max(initial=0.0)) / scale if scale else 0.0,
    )


_SPREAD = 8.0
"""Standard deviations of a sum of independent roundings that none of its values goes beyond."""


def weights_explain(node: onnx.NodeProto, anatomy: Anatomy, given: Array) -> float:
    """The largest error that rounding the weights of `node` explains, for these inputs.

    A weight is off by up to its unit u, evenly: a variance of u²/3. The output's variance is the
    sum of x² · u²/3 over what is summed there, whatever cancels.

    Args:
        given: what the node reads, float32 (N, C, …).
    """
    weights = anatomy.weights(node).get(1)
    if weights is None or node.op_type not in ("Conv", "Gemm", "MatMul", "MatMulInteger"):
        return 0.0
    variance = torch.from_numpy(np.square(weights.unit) / 3)
    squares = torch.from_numpy(np.square(given.astype(np.float64)))
    if node.op_type == "MatMulInteger":  # a 1×1 convolution, and read as one
        found = torch.nn.functional.conv2d(squares, variance)
    elif node.op_type != "Conv":
        found = squares @ variance.T
    else:
        attributes = anatomy.attributes(node)
        sides = squares.ndim - 2
        pads = attributes.get("pads") or [0] * 2 * sides
        pairs = [pads[i + end * sides] for i in reversed(range(sides)) for end in (0, 1)]
        found = torch.nn.functional.conv2d(
            torch.nn.functional.pad(squares, pairs),
            variance,
            stride=attributes.get("strides") or 1,
            dilation=attributes.get("dilations") or 1,
            groups=attributes.get("group") or 1,
        )
    return _SPREAD * math.sqrt(float(found.max()))
