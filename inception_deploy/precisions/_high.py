"""The float part of a graph in integers, lowered to float16.

Which nodes float16 does no harm is decided on the graph before it is quantised, where weights are
still weights. Quantisers then take the type that leaves the fewest casts, as far as float16 holds
their scales: grids are chosen so that it does (`held`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray

from inception_deploy.artifact import Applied
from inception_deploy.lowering.retype import retype
from inception_deploy.lowering.schema import Slots, element_types, infer, slots
from inception_deploy.precisions._joining import joined
from inception_deploy.precisions._weights import float_weights
from inception_deploy.quantisation import Quantiser

__all__ = ["LARGEST", "half_grid", "half_scales", "held", "lower_floats"]

FLOAT16 = onnx.TensorProto.FLOAT16
SMALLEST = 2.0**-20
"""Scales below stay float32. The spacing of float16 is 2⁻²⁴ there, so that rounding up makes a grid
coarser by a sixteenth at most."""

LARGEST = 65504.0
QUANTISERS = frozenset({"QuantizeLinear", "DequantizeLinear"})


def half_scales(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each scale rounded up to one that float16 holds; those out of its reach as they are."""
    with np.errstate(over="ignore"):
        near = scales.astype(np.float16)
        up = np.where(near < scales, np.nextafter(near, np.float16(np.inf)), near)
    fits = (scales >= SMALLEST) & (scales <= LARGEST) & np.isfinite(up)
    return np.where(fits, up.astype(np.float32), scales).astype(np.float32)


def held(scales: NDArray[np.float32]) -> bool:
    """Whether float16 holds each scale as it is."""
    with np.errstate(over="ignore"):
        halves = scales.astype(np.float16).astype(np.float32)
    return bool(np.array_equal(halves, scales) and (scales > 0).all())


def half_grid(grid: Quantiser) -> Quantiser:
    """The grid with a scale that float16 holds, where there is one."""
    return replace(grid, scale=float(half_scales(np.array([grid.scale], np.float32))[0]))


def lower_floats(
    model: onnx.ModelProto, low: Collection[str], *, kind: int = FLOAT16, stage: str
) -> tuple[onnx.ModelProto, tuple[Applied, ...]]:
    """A quantised graph with its float nodes in half precision, and the casts made.

    Args:
        model: Q/DQ graph, FP32 otherwise, shapes inferred.
        low: names of nodes that may run in half precision.
        kind: `TensorProto.FLOAT16`, or BFLOAT16.
        stage: named in messages.
    """
    types, weights = element_types(model.graph), float_weights(model)
    opsets = {o.domain if o.domain != "ai.onnx" else "": o.version for o in model.opset_import}
    possible: dict[int, Slots] = {}
    for index, node in enumerate(model.graph.node):
        if node.op_type in QUANTISERS:
            allowed = held(np.atleast_1d(weights[node.input[1]]))
        else:
            allowed = node.name in low
        change = slots(node, types, opsets, kind) if allowed else None
        if isinstance(change, Slots):
            possible[index] = change
    changing = joined(model, possible, fp32_io=True)
    typed, casts = retype(model, changing, low=kind)
    return infer(typed, stage=stage), casts
