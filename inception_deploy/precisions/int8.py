"""INT8: explicit quantisers in the graph, placed as the target's kernels want them.

Activations get one affine grid each, from calibrated ranges; weights one symmetric grid per output
channel. What runs in integers, which tensors share a grid and where the bias lives is the target's
placement; this file does the arithmetic and states the bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from inception_deploy.artifact import Applied, Refused
from inception_deploy.calibrators import Grid
from inception_deploy.channels import ChannelStatistics
from inception_deploy.errors import StageError
from inception_deploy.lowering.qdq import RESTORED, quantised
from inception_deploy.lowering.schema import infer
from inception_deploy.machine import Machine, describe
from inception_deploy.placements import PLACEMENTS, Placement, Plan
from inception_deploy.placements.base import WEIGHTED
from inception_deploy.precisions._carrying import carrying
from inception_deploy.precisions._fp16_rules import UNIT as HALF_UNIT
from inception_deploy.precisions._high import LARGEST, half_grid, lower_floats
from inception_deploy.precisions._int8_weights import WeightWriter
from inception_deploy.precisions._weights import float_weights, fp32_graph
from inception_deploy.precisions.base import FP32_BOUND, Lowering, Precision
from inception_deploy.precisions.fp16 import CONFIDENCE as HALF_CONFIDENCE
from inception_deploy.precisions.fp16 import decide, roundings
from inception_deploy.quantisation import QuantisedWeights, Quantiser, activation_quantiser
from inception_deploy.ranges import Ranges, TensorRange
from inception_deploy.weight_rounding import InputMoments, RoundedWeights

__all__ = ["PRECISIONS", "Int8", "saturates"]

STAGE = "lower/int8"

UNIT = 1 / 255
"""Error of a grid in units of its range: half a step of rounding, and as much again for the weights
it is multiplied with. What a range cuts off is not part of it (`inception_deploy.lower`). A grid
around zero spends half of its steps on what a ReLU never gives, so its unit is twice that, unless
biases carry its zero point."""

CONFIDENCE = 8.0
"""Twice that of FP16 (`precisions/fp16.py`): errors add up like a random walk, but in eight bits
they are not small against the values, and narrow networks hardly average them. The bound is there
to catch a graph that is wrong, not one that is coarse; that is for parity and its verdict."""

_DOT_PRODUCTS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""x86 instructions that add four products in 32 bits; without them VPMADDUBSW adds two in 16."""

_CARRIES = frozenset({"Cast", "Gather", "Identity", "Reshape", "Slice", "Transpose"})
"""What may stand between a uint8 input and the first convolution, and changes no value."""


@dataclass(frozen=True)
class Int8(Precision):
    """Eight-bit integers for activations and weights.

    Args:
        placement: the target's.
        bits: of the weights, 8 or 7 (x86 without VNNI).
        clip_weights: choose each channel's grid by its squared error.
        exclude: names of nodes that stay float.
        statistics: of the activations, for bias correction; a convolution whose input has none is
            not corrected.
        rounding: node → its weights, rounded by what the node reads; others are rounded to nearest.
        seen: exact ranges of all tensors, for a placement whose floats become float16.
    """

    placement: Placement = field(default_factory=lambda: PLACEMENTS.get("onnxruntime"))
    bits: int = 8
    clip_weights: bool = False
    exclude: frozenset[str] = frozenset()
    statistics: Mapping[str, ChannelStatistics] = field(default_factory=dict)
    rounding: Mapping[str, RoundedWeights] = field(default_factory=dict)
    seen: Ranges | None = None
    name = "int8"
    needs_ranges = True
    clips = True
    confidence = CONFIDENCE

    def at(self, placement: str, *, reduce_range: bool | None = None) -> Int8:
        found = PLACEMENTS.get(placement)
        if reduce_range is None:
            reduce_range = found.saturates and saturates(describe())
        return replace(self, placement=found, bits=7 if reduce_range else 8)

    @property
    def unit(self) -> float:
        """Error of one rounding, in units of the tensor's range."""
        return UNIT * (2 if self.placement.symmetric else 1)

    @property
    def grid(self) -> Grid:
        """What activations are quantised to, for a calibrator; those that are not moved."""
        return Grid(symmetric=self.placement.symmetric)

    def grids(self, model: onnx.ModelProto) -> Mapping[str, Grid]:
        plan = self._plan(fp32_graph(model, stage=STAGE))
        return {t: Grid() if t in plan.shifts.tensors else self.grid for t in plan.groups}

    def informed(self, statistics: Mapping[str, ChannelStatistics]) -> Int8:
        return replace(self, statistics=statistics)

    @property
    def needs_exact(self) -> bool:
        return self.placement.high != "fp32"

    def knowing(self, ranges: Ranges) -> Int8:
        return replace(self, seen=ranges)

    def rounds(self, model: onnx.ModelProto) -> tuple[str, ...]:
        graph = fp32_graph(model, stage=STAGE)
        placed = frozenset(self._plan(graph).nodes)
        return tuple(
            node.name
            for node in graph.graph.node
            if node.name in placed and node.op_type in WEIGHTED
        )

    def rounded(
        self, model: onnx.ModelProto, ranges: Ranges, moments: Iterable[tuple[str, InputMoments]]
    ) -> Int8:
        graph = fp32_graph(model, stage=STAGE)
        grids = self._grids(self._plan(graph), ranges, _pixels(graph))
        return replace(self, rounding=self._writer.rounded(graph, grids, moments))

    def watched(self, model: onnx.ModelProto) -> Mapping[str, int]:
        return self._plan(fp32_graph(model, stage=STAGE)).groups

    def lower(self, model: onnx.ModelProto, ranges: Ranges | None) -> Lowering:
        if ranges is None:
            raise StageError(f"{STAGE}: needs the ranges of every tensor; calibrate first")
        graph = fp32_graph(model, stage=STAGE)
        plan = self._plan(graph)
        grids = self._grids(plan, ranges, _pixels(graph))
        plan = self._cutting(graph, plan, grids)
        weights, biases = self._weights(graph, plan, grids)
        biases = carrying(graph.graph, plan.shifts, grids, float_weights(graph), weights, biases)
        written = quantised(
            graph,
            plan,
            grids,
            weights,
            biases,
            bias_form=self.placement.bias,
            linear_form=self.placement.linear,
        )
        written = infer(written, stage=STAGE)
        depth = _longest(written)
        power = _longest(written, dict.fromkeys(plan.shifts.tensors, (UNIT / self.unit) ** 2))
        kinds = {node.name: node.op_type for node in graph.graph.node}
        heavy = {n: float(np.abs(biases[n]).max(initial=0.0)) for n in plan.shifts.biases}
        written, rest = self._high(graph, written, ranges, plan, heavy)
        return Lowering(
            written,
            bound=FP32_BOUND + self.confidence * self.unit * math.sqrt(power) + rest.bound,
            applied=tuple(Applied(self.name, name, kinds[name]) for name in plan.nodes)
            + rest.applied,
            refused=tuple(
                replace(refused, rewrite=self.name)
                for refused in (*plan.refused, *_unruled(graph, plan, self.placement))
            )
            + rest.refused,
            facts={
                "placement": self.placement.name,
                "weight_bits": self.bits,
                "rounded_by_moments": sum(name in self.rounding for name in weights),
                "roundings": int(depth),
                "quantised_tensors": len(plan.groups),
                "grids": len(plan.members()),
                "moved_tensors": sum(t in plan.shifts.tensors for t in plan.groups),
                "int8_nodes": len(plan.nodes),
                **rest.facts,
            },
        )

    def _high(
        self,
        graph: onnx.ModelProto,
        written: onnx.ModelProto,
        ranges: Ranges,
        plan: Plan,
        carried: Mapping[str, float],
    ) -> tuple[onnx.ModelProto, Lowering]:
        """What stays float in the placement's high precision, and what that adds to the record.

        Args:
            graph: before it was quantised.
            carried: node → the largest magnitude in its bias, where that carries a zero point.
        """
        if self.placement.high == "fp32":
            return written, Lowering(graph, 0.0)
        integral = {n.name for n in graph.graph.node if n.op_type in WEIGHTED}.intersection(
            plan.nodes
        )
        possible, refused = decide(graph, self.seen or ranges, integral=integral)
        for index in list(possible):
            name = graph.graph.node[index].name
            if carried.get(name, 0.0) > LARGEST:
                del possible[index]
                why = f"its bias carries a zero point, and {carried[name]:.6g} is beyond float16"
                refused[index] = Refused("fp16", name, why)
        low = {graph.graph.node[index].name for index in possible}
        low |= {n.name for n in written.graph.node if n.name.endswith(RESTORED)}
        typed, casts = lower_floats(written, low, stage=STAGE)
        depth = roundings(typed)
        return typed, Lowering(
            graph,
            bound=HALF_CONFIDENCE * HALF_UNIT * math.sqrt(depth),
            applied=casts,
            refused=tuple(refused[index] for index in sorted(refused)),
            facts={"fp16_roundings": depth, "casts": len(casts)},
        )

    def _plan(self, graph: onnx.ModelProto) -> Plan:
        return self.placement.plan(graph, exclude=self.exclude)

    def _grids(self, plan: Plan, ranges: Ranges, pixels: frozenset[str]) -> dict[str, Quantiser]:
        """One grid per group, over the ranges of all its tensors; pixels need none chosen."""
        grids: dict[str, Quantiser] = {}
        for tensors in plan.members().values():
            missing = [tensor for tensor in tensors if tensor not in ranges.tensors]
            if missing:
                raise StageError(f"{STAGE}: no range was taken of '{missing[0]}'; calibrate again")
            seen = [ranges.tensors[tensor] for tensor in tensors]
            whole = TensorRange(min(r.minimum for r in seen), max(r.maximum for r in seen))
            if pixels.issuperset(tensors) and not self.placement.symmetric:
                whole = TensorRange(0.0, 255.0)  # scale 1 whatever was seen: nothing is lost
            moved = tensors[0] in plan.shifts.tensors
            if moved:  # a ReLU's, also where the range was taken for a grid around zero
                whole = TensorRange(0.0, whole.maximum)
            symmetric = self.placement.symmetric and not moved
            grid = activation_quantiser(whole, self.placement.activations, symmetric=symmetric)
            if self.placement.high != "fp32":
                grid = half_grid(grid)
            grids |= dict.fromkeys(tensors, grid)
        return grids

    def _cutting(self, graph: onnx.ModelProto, plan: Plan, grids: Mapping[str, Quantiser]) -> Plan:
        """`plan` with the ReLUs that their quantiser does not take in: it reaches below zero.

        That happens on a grid shared with signed tensors. The node before would run in float.
        """
        if all(rule.op != "Relu" for rule in self.placement.rules):
            return plan
        cutting = {
            node.name
            for node in graph.graph.node
            if node.op_type == "Relu"
            and (grid := grids.get(node.output[0])) is not None
            and grid.zero_point != grid.limits[0]
        }
        placed = cutting.union(plan.nodes)
        names = (node.name for node in graph.graph.node)
        return replace(plan, nodes=tuple(name for name in names if name in placed))

    def _weights(
        self, graph: onnx.ModelProto, plan: Plan, grids: Mapping[str, Quantiser]
    ) -> tuple[dict[str, QuantisedWeights], dict[str, NDArray[np.float64]]]:
        """Weights in integers and biases in float64, by node."""
        return self._writer.write(graph, frozenset(plan.nodes), grids)

    @property
    def _writer(self) -> WeightWriter:
        return WeightWriter(
            self.placement, self.bits, self.clip_weights, self.statistics, self.rounding
        )


def saturates(machine: Machine) -> bool:
    """Whether integer kernels add pairs of products in 16 bits there: x86 without VNNI.

    Of an x86 processor that does not list its instructions (`machine.describe` reads Linux's list)
    it is assumed: seven bits lose less than a saturated sum.
    """
    x86 = any(name in machine.platform for name in ("x86_64", "AMD64"))
    return x86 and _DOT_PRODUCTS.isdisjoint(machine.isa)


def _pixels(graph: onnx.ModelProto) -> frozenset[str]:
    """Float tensors that hold the values of a uint8 input: cast, and maybe moved."""
    found = {
        value.name
        for value in graph.graph.input
        if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    }
    for node in graph.graph.node:
        if node.op_type in _CARRIES and node.input[0] in found:
            found.update(node.output)
    return frozenset(found)


def _unruled(graph: onnx.ModelProto, plan: Plan, placement: Placement) -> tuple[Refused, ...]:
    """Nodes that compute something and stay float because the target has no rule for them."""
    ruled = {rule.op for rule in placement.rules} | placement.epilogues
    return tuple(
        Refused(
            "int8",
            node.name,
            placement.unruled.get(
                node.op_type, f"no integer kernel for {node.op_type} on {placement.name}"
            ),
        )
        for node in graph.graph.node
        if node.op_type not in ruled and node.op_type != "Relu"
    )


def _longest(model: onnx.ModelProto, powers: Mapping[str, float] | None = None) -> float:
    """Roundings on the longest way through the graph, those of weights included.

    Args:
        powers: quantised tensor → what its rounding counts, where that is not 1.
    """
    depth: dict[str, float] = {}
    for node in model.graph.node:
        before = max((depth.get(name, 0.0) for name in node.input), default=0.0)
        own = 0.0
        if node.op_type == "QuantizeLinear":
            own = (powers or {}).get(node.output[0].rpartition(":")[0], 1.0)
        elif node.op_type in ("Conv", "Gemm", "MatMul"):
            own = 1.0
        for name in node.output:
            depth[name] = before + own
    return max(depth.values(), default=0.0)


PRECISIONS = (Int8(),)
