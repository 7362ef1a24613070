"""What biases carry for tensors that are stored moved (`placements/_shifts.py`), in figures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from inception_deploy.artifact import FloatArray
from inception_deploy.placements._shifts import Carried, Shifts
from inception_deploy.quantisation import QuantisedWeights, Quantiser

__all__ = ["carrying"]


def carrying(
    graph: onnx.GraphProto,
    shifts: Shifts,
    grids: Mapping[str, Quantiser],
    values: Mapping[str, FloatArray],
    weights: Mapping[str, QuantisedWeights],
    biases: Mapping[str, NDArray[np.float64]],
) -> dict[str, NDArray[np.float64]]:
    """`biases` with the shifts added, and those of nodes that stay float but write moved tensors.

    Args:
        values: the graph's FP32 initialisers by name.
        weights, biases: of the nodes in integers, by node name.
    """
    found = dict(biases)
    for node in graph.node:
        carried = shifts.biases.get(node.name)
        if carried is not None:
            own = found.get(node.name)
            if own is None and len(node.input) > 2 and node.input[2] and node.name not in weights:
                own = values[node.input[2]].astype(np.float64)
            exact = values[node.input[1]]
            sums = weights[node.name].sums() if node.name in weights else _sums(exact)
            found[node.name] = (0.0 if own is None else own) + _shift(carried, grids, sums)
    return found


def _sums(weights: FloatArray) -> NDArray[np.float64]:
    """Of each output channel, as float16 has the weights: what stays float runs in that, or loses
    no more than that to it."""
    rows = weights.reshape(len(weights), -1)
    with np.errstate(over="ignore"):
        halves = rows.astype(np.float16)
    total: NDArray[np.float64] = np.where(np.isfinite(halves), halves, rows).sum(
        1, dtype=np.float64
    )
    return total


def _shift(
    carried: Carried, grids: Mapping[str, Quantiser], sums: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What is added to one bias.

    Args:
        sums: of the weights of each output channel, as the kernel has them.
    """

    def shift(tensor: str) -> float:
        return grids[tensor].shift if tensor else 0.0

    return shift(carried.reads) * sums + shift(carried.beside) - shift(carried.writes)
