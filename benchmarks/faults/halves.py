"""What goes wrong in half precision only."""

from __future__ import annotations

import numpy as np

from benchmarks.faults.base import Fault, Planted, Site, edited, pick

__all__ = ["FAULTS"]

FACTOR = 2.0**15
"""A power of two: in float32 nothing changes but exponents."""


class Overflow(Fault):
    """One block's activations beyond 65504, which the calibration images did not show.

    A convolution's batch norm is scaled up and the convolution behind it down: exact in float32, an
    overflow in half precision.
    """

    name = "fp16_overflow"
    level = "graph"
    precisions = ("fp16",)

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.reference)
        places = []
        for node in edit.of_kind("BatchNormalization"):
            readers = edit.readers(node.output[0])
            if len(readers) != 1 or readers[0].op_type != "Relu":
                continue
            after = edit.readers(readers[0].output[0])
            if len(after) != 1 or after[0].op_type != "Conv":
                continue
            weight = edit.constant(after[0].input[1])
            if weight is not None:
                places.append((node, after[0], weight))
        place = pick(rng, places)
        if place is None:
            return None
        norm, conv, weight = place
        for position in (1, 2):
            values = edit.constant(norm.input[position])
            assert values is not None
            edit.own_constant(norm, position, values * FACTOR)
        edit.own_constant(conv, 1, weight / FACTOR)
        where = (str(norm.name), str(conv.name))
        return Planted(where, f"2^15 at {norm.name}", reference=edit.done())


FAULTS = (Overflow(),)
