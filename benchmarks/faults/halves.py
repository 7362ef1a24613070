"""What goes wrong in half precision only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.faults.base import Fault, Planted, Site, edited, pick

__all__ = ["FAULTS"]

FACTOR = 2.0**15
"""A power of two: but for the range, nothing is lost."""

LARGEST = 65504.0
"""Of half precision."""


class Overflow(Fault):
    """One block's activations beyond 65504, which the calibration images did not show.

    A convolution is scaled up and the one behind its ReLU down, both in half precision: the network
    would be the same, if half precision could hold what lies between.
    """

    name = "fp16_overflow"
    level = "lowered"
    precisions = ("fp16",)

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.lowered)
        places = []
        for node in edit.of_kind("Conv"):
            weight = edit.constant(node.input[1])
            readers = edit.readers(node.output[0])
            if len(readers) != 1 or readers[0].op_type != "Relu" or not _is_half(weight):
                continue
            after = edit.readers(readers[0].output[0])
            behind = edit.constant(after[0].input[1]) if _is_conv(after) else None
            if _is_half(behind):
                places.append((node, after[0]))
        place = pick(rng, places)
        if place is None:
            return None
        first, second = place
        for node, factor, positions in ((first, FACTOR, (1, 2)), (second, 1 / FACTOR, (1,))):
            for position in positions[: len(node.input) - 1]:
                values = edit.constant(node.input[position])
                assert values is not None
                scaled = values.astype(np.float64) * factor
                edit.own_constant(node, position, scaled.clip(-LARGEST, LARGEST))
        where = (str(first.name), str(second.name))
        return Planted(where, f"2^15 at {first.name}", lowered=edit.done())


def _is_half(values: NDArray[Any] | None) -> bool:
    return values is not None and values.dtype == np.float16


def _is_conv(nodes: Sequence[onnx.NodeProto]) -> bool:
    return len(nodes) == 1 and nodes[0].op_type == "Conv"


FAULTS = (Overflow(),)
