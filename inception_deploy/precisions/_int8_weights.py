"""Weights in integers, and the biases that take back what their rounding costs on average."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

from inception_deploy.artifact import FloatArray
from inception_deploy.channels import ChannelStatistics
from inception_deploy.placements.base import WEIGHTED, Placement
from inception_deploy.precisions._high import half_scales
from inception_deploy.precisions._weights import float_weights
from inception_deploy.quantisation import (
    QuantisedWeights,
    Quantiser,
    bias_correction,
    on_scales,
    quantise_weights,
    widened,
)
from inception_deploy.weight_rounding import InputMoments, RoundedWeights, WeightRounder

__all__ = ["WeightWriter"]

Biases = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class WeightWriter:
    """How one target wants its weights.

    Args:
        bits: 8 or 7.
        clip: choose each channel's grid by its squared error.
        statistics: activation → what was seen of its channels, for bias correction.
        rounding: node → weights rounded by what the node reads, with their own correction. They are
            taken where they are on the grids that the weights have here, and otherwise left.
    """

    placement: Placement
    bits: int = 8
    clip: bool = False
    statistics: Mapping[str, ChannelStatistics] = field(default_factory=dict)
    rounding: Mapping[str, RoundedWeights] = field(default_factory=dict)

    def write(
        self, graph: onnx.ModelProto, placed: Collection[str], grids: Mapping[str, Quantiser]
    ) -> tuple[dict[str, QuantisedWeights], Biases]:
        """Weights in integers and biases in float64, of the weighted nodes among `placed`."""
        values = float_weights(graph)
        weights: dict[str, QuantisedWeights] = {}
        biases: Biases = {}
        for node in graph.graph.node:
            if node.name not in placed or node.op_type not in WEIGHTED:
                continue
            own, bias = values[node.input[1]], _bias(node, values)
            grid = self._nearest(node, own, bias, grids)
            found, seen = self.rounding.get(node.name), self.statistics.get(node.input[0])
            correction = None
            if found is not None and np.array_equal(found.weights.scales, grid.scales):
                grid, correction = found.weights, found.shift
            elif seen is not None:
                correction = bias_correction(own, grid, seen.mean)
            weights[node.name] = grid
            if correction is not None:
                bias = -correction if bias is None else bias - correction
            if bias is not None:
                biases[node.name] = bias
        return weights, biases

    def rounded(
        self,
        graph: onnx.ModelProto,
        grids: Mapping[str, Quantiser],
        moments: Iterable[tuple[str, InputMoments]],
    ) -> dict[str, RoundedWeights]:
        """The weights of every node that there are moments of."""
        values, nodes = float_weights(graph), {node.name: node for node in graph.graph.node}
        found: dict[str, RoundedWeights] = {}
        rounder: WeightRounder | None = None
        for name, seen in moments:
            node = nodes[name]
            own = values[node.input[1]]
            grid = self._nearest(node, own, _bias(node, values), grids)
            # behind a pool that moves integers there is no quantiser of its own
            read = grids.get(node.input[0])
            noise = 0.0 if read is None else read.scale**2 / 12
            if rounder is None or rounder.moments is not seen or rounder.noise != noise:
                rounder = WeightRounder(seen, noise)
            found[name] = rounder.round(own, grid, bits=self.bits)
        return found

    def _nearest(
        self,
        node: onnx.NodeProto,
        own: FloatArray,
        bias: NDArray[np.float64] | None,
        grids: Mapping[str, Quantiser],
    ) -> QuantisedWeights:
        """Each weight rounded by itself, on the grid that this target gives its channel."""
        grid = quantise_weights(own, bits=self.bits, clip=self.clip)
        if self.placement.high != "fp32":
            grid = on_scales(own, half_scales(grid.scales), bits=self.bits)
        if bias is not None and self.placement.adds_in_integers(node.op_type):
            grid = widened(grid, own, bias, grids[node.input[0]].scale, bits=self.bits)
        return grid


def _bias(node: onnx.NodeProto, values: Mapping[str, FloatArray]) -> NDArray[np.float64] | None:
    given = node.input[2] if len(node.input) > 2 else ""
    return values[given].astype(np.float64).reshape(-1) if given else None
