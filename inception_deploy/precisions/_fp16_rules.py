"""Which nodes cannot run in float16 without harm, and why: one rule per function.

float16 has a largest value of 65504, a smallest normal one of 2⁻¹⁴, below which its spacing stays
2⁻²⁴, and a unit roundoff u = 2⁻¹¹ (IEEE 754 binary16). Rounding a normal value costs at most u of
it; every rule here refuses what costs more than that, or does not fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from inception_deploy.artifact import FloatArray
from inception_deploy.graphs import attribute
from inception_deploy.ranges import TensorRange

__all__ = ["CONTRACTIONS", "LIMIT", "UNIT", "NodeFacts", "reason"]

LARGEST = 65504.0
SMALLEST_NORMAL = 2.0**-14
UNIT = 2.0**-11

HEADROOM = 8.0
"""How much larger than in calibration a value may get. Factor 2: the maximum of exponentially
distributed values grows with the logarithm of their number, ln(10⁹·n) / ln(64·n) < 2 from 64
calibration images to 10⁹ images of n = 10⁵ values each. Factor 4: images unlike the calibration
images."""

LIMIT = LARGEST / HEADROOM

CONTRACTIONS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Where the time goes, and the only operators with sums of products."""

KEPT: Mapping[str, str] = {
    "Softmax": "probabilities below 2⁻²⁴ would be zero, and those below 2⁻¹⁴ lose digits",
    "LogSoftmax": "it sums exponentials",
    "LRN": "it squares: values above 255 would overflow, those below 2⁻¹² vanish",
    "InstanceNormalization": "it sums squares",
    "LayerNormalization": "it sums squares",
    "GroupNormalization": "it sums squares",
    "MeanVarianceNormalization": "it sums squares",
    "LpNormalization": "it sums squares",
    "LpPool": "it sums powers",
    "GlobalLpPool": "it sums powers",
    "ReduceL2": "it sums squares",
    "ReduceSumSquare": "it sums squares",
    "ReduceLogSumExp": "it sums exponentials",
}
"""Operators that stay in FP32 for what happens inside them, where no range is observed."""

MEANS = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum"})
ADDITIVE = frozenset({"Add", "Sub", "Sum"})


@dataclass(frozen=True)
class NodeFacts:
    """What the rules may look at: one node, and what is known of its float tensors.

    Args:
        node: the node.
        inputs: position → name of the float inputs that would change to float16.
        outputs: names of the outputs that would change.
        weights: name → values of the initialisers.
        ranges: name → observed range of the activations.
        elements: name → elements per image, where the shape is known.
    """

    node: onnx.NodeProto
    inputs: Mapping[int, str]
    outputs: tuple[str, ...]
    weights: Mapping[str, FloatArray]
    ranges: Mapping[str, TensorRange]
    elements: Mapping[str, int]

    @property
    def activations(self) -> Iterator[str]:
        """Names of the observed tensors: inputs that are no weights, then outputs."""
        yield from (name for name in self.inputs.values() if name not in self.weights)
        yield from self.outputs

    def largest(self, name: str) -> float:
        """Largest magnitude in a weight or an observed tensor."""
        if name in self.weights:
            return float(np.abs(self.weights[name]).max(initial=0.0))
        return self.ranges[name].max_abs

    @property
    def output_scale(self) -> float:
        """Largest magnitude in the outputs."""
        return max((self.largest(name) for name in self.outputs), default=0.0)


def reason(facts: NodeFacts, *, integral: bool = False) -> str | None:
    """Why the node must stay in FP32; None where it may run in float16.

    Args:
        integral: its products are those of eight-bit values, added up in 32 bits. Then its weights
            are not float16's, no partial sum is, and what a bias loses is below a step.
    """
    rules = _AROUND_INTEGERS if integral else _RULES
    return next(filter(None, (rule(facts) for rule in rules)), None)


def _inside(facts: NodeFacts) -> str | None:
    return KEPT.get(facts.node.op_type)


def _observed(facts: NodeFacts) -> str | None:
    """Every activation was seen, fits with headroom, and is not all subnormal.

    Below 2⁻¹⁴ the spacing is 2⁻²⁴, so a tensor with a smaller maximum is rounded to worse than u of
    that maximum.
    """
    for name in facts.activations:
        if name not in facts.ranges:
            return f"'{name}' was not observed during calibration"
        largest = facts.largest(name)
        if largest > LIMIT:
            return (
                f"'{name}' reaches {largest:.6g}, the limit is {LIMIT:g} "
                f"(65504 / headroom {HEADROOM:g})"
            )
        if 0 < largest < SMALLEST_NORMAL:
            return f"'{name}' stays below {largest:.3g}, which float16 only holds as subnormals"
    return None


def _weights_fit(facts: NodeFacts) -> str | None:
    for name in facts.inputs.values():
        if name in facts.weights and facts.largest(name) > LARGEST:
            values = facts.weights[name]
            worst = float(values.flat[int(np.abs(values).argmax())])
            return f"weight '{name}' holds {worst:.6g}, beyond float16's {LARGEST:g}"
    return None


def _weights_keep_digits(facts: NodeFacts) -> str | None:
    """No weight loses more than its rounding, where that can be seen in the output.

    Normal values lose at most u each, so an output channel whose weights lose more than u of their
    norm loses it to subnormals and zeros. That does no harm in a dead channel: the change of the
    output, at most max|x|·Σ|Δw|, must exceed u of the output's maximum too. Added constants are
    judged by that change alone, factors by each one's own loss.
    """
    for position, name in facts.inputs.items():
        if name not in facts.weights:
            continue
        values = facts.weights[name]
        lost = np.abs(values - values.astype(np.float16).astype(np.float32)).astype(np.float64)
        op = facts.node.op_type
        if op in ADDITIVE or (op in CONTRACTIONS and position == 2):
            worst = float(lost.max(initial=0.0))
            if worst > UNIT * facts.output_scale:
                return (
                    f"'{name}' loses {worst:.3g} to rounding, more than 2⁻¹¹ of the output's "
                    f"{facts.output_scale:.3g}"
                )
        elif op in CONTRACTIONS:
            axes = _summed_axes(facts.node, position, values.ndim)
            norm = np.sqrt(np.square(values, dtype=np.float64).sum(axes))
            share = np.sqrt(np.square(lost).sum(axes)) / np.where(norm > 0, norm, 1)
            change = _other_largest(facts, position) * lost.sum(axes)
            hurt = (share > UNIT) & (change > UNIT * facts.output_scale)
            if hurt.any():
                worst = float(share[hurt].max())
                return (
                    f"weight '{name}' loses {worst:.1%} of an output channel to subnormals "
                    f"({int(hurt.sum())} of {hurt.size} channels)"
                )
        else:
            share = lost / np.where(values == 0, 1, np.abs(values))
            if share.max(initial=0.0) > UNIT:
                worst = float(np.abs(values.flat[int(share.argmax())]))
                return f"'{name}' holds {worst:.3g}, of which float16 loses {share.max():.1%}"
    return None


def _sums_fit(facts: NodeFacts) -> str | None:
    """No partial sum overflows, in whatever order and width a kernel adds.

    |Σ w·x + b| ≤ max|x|·max_c Σ|w_c| + max|b|: the worst signs, so no headroom on top. A mean over
    n values may be a sum of n first.
    """
    node = facts.node
    bound = 0.0
    if node.op_type in MEANS:
        count = _mean_count(facts)
        if count is None:
            return f"how many values {node.op_type} sums is not known from the graph"
        bound = count * max(map(facts.largest, facts.inputs.values()))
    elif node.op_type in CONTRACTIONS and len(facts.inputs) >= 2:
        bound = _products(facts)
    if bound > LARGEST:
        return f"partial sums may reach {bound:.6g}, beyond float16's {LARGEST:g}"
    return None


_RULES: tuple[Callable[[NodeFacts], str | None], ...] = (
    _inside,
    _observed,
    _weights_fit,
    _weights_keep_digits,
    _sums_fit,
)
_AROUND_INTEGERS: tuple[Callable[[NodeFacts], str | None], ...] = (_observed, _weights_fit)


def _products(facts: NodeFacts) -> float:
    """Largest possible |Σ w·x| + |b| of a contraction."""
    names, node = facts.inputs, facts.node
    scale = max(1.0, abs(_number(node, "alpha")))  # a factor below one comes after the sum
    beta = abs(_number(node, "beta"))
    bias = facts.largest(names[2]) * beta if 2 in names else 0.0
    for position in (1, 0):
        if names[position] in facts.weights:
            values = facts.weights[names[position]]
            axes = _summed_axes(node, position, values.ndim)
            total = np.abs(values).sum(axes, dtype=np.float64).max(initial=0.0)
            return scale * _other_largest(facts, position) * float(total) + bias
    terms = facts.elements.get(names[0], math.inf)  # at most as many as an image has values
    return scale * terms * facts.largest(names[0]) * facts.largest(names[1]) + bias


def _other_largest(facts: NodeFacts, position: int) -> float:
    other = facts.inputs.get(1 - position)
    return facts.largest(other) if other is not None else math.inf


def _summed_axes(node: onnx.NodeProto, position: int, rank: int) -> tuple[int, ...]:
    """Axes of a contraction's weight over which one output value sums."""
    if node.op_type == "Conv":
        return tuple(range(1, rank))
    if node.op_type == "ConvTranspose":
        return (0, *range(2, rank))
    if node.op_type == "Gemm":
        transposed = attribute(node, "transB" if position == 1 else "transA") == 1
        return (1,) if transposed == (position == 1) else (0,)
    if rank == 1:
        return (0,)
    return (rank - 2,) if position == 1 else (rank - 1,)


def _mean_count(facts: NodeFacts) -> int | None:
    """How many values one output value sums; None where the shapes do not say."""
    kernel = attribute(facts.node, "kernel_shape")
    if kernel is not None:
        return int(np.prod(kernel))
    before = facts.elements.get(facts.inputs[0])
    after = facts.elements.get(facts.outputs[0]) if facts.outputs else None
    return before // after if before and after else None


def _number(node: onnx.NodeProto, name: str) -> float:
    """A factor, 1 where the node does not state it."""
    value = attribute(node, name)
    return 1.0 if value is None else float(value)
