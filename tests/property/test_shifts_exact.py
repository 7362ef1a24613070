"""Shifts are exact: the moved graph and the one with zero points compute the same bits.

Weights, biases, images and grids are whole multiples of powers of two, and few enough that float32
holds every sum, so that nothing is rounded but by the quantisers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_graphs import build, observe_on

from inception_deploy.artifact import FloatArray
from inception_deploy.engines import ENGINES
from inception_deploy.lowering.qdq import quantised
from inception_deploy.placements import PLACEMENTS, Plan
from inception_deploy.placements._shifts import Shifts
from inception_deploy.precisions._carrying import carrying
from inception_deploy.quantisation import QuantisedWeights, Quantiser
from inception_deploy.ranges import Ranges

PLACEMENT = replace(PLACEMENTS.get("tensorrt"), least_channels=1)
CHANNELS, SIDE = 3, 5


@dataclass
class Draft:
    """A graph in the making; everything in `tensors` is (batch, CHANNELS, SIDE, SIDE)."""

    rng: np.random.Generator
    lines: list[str] = field(default_factory=list)
    weights: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    tensors: list[str] = field(default_factory=lambda: ["input"])

    def node(self, expression: str) -> str:
        name = f"t{len(self.lines)}"
        self.lines.append(f"{name} = {expression}")
        return name

    def convolution(self, source: str, channels: int, *, pads: bool, bias: bool) -> str:
        side = 3 if pads else 1
        number = len(self.weights)
        shape = (CHANNELS, channels, side, side)
        self.weights[f"w{number}"] = self.rng.integers(-3, 4, shape).astype(np.float32)
        operands = f"{source}, w{number}"
        if bias:
            values = self.rng.integers(-20, 21, CHANNELS) / 4
            self.weights[f"b{number}"] = values.astype(np.float32)
            operands += f", b{number}"
        return self.node(f"Conv{'<pads = [1, 1, 1, 1]>' if pads else ''}({operands})")


@st.composite
def graphs(draw: st.DrawFn) -> onnx.ModelProto:
    """Convolutions with ReLUs, pools, concatenations and residual sums, in any order."""
    draft = Draft(np.random.default_rng(draw(st.integers(0, 2**32 - 1))))

    def pick() -> str:
        return draw(st.sampled_from(draft.tensors[-3:]))

    def convolved(source: str, channels: int = CHANNELS) -> str:
        pads = draw(st.integers(0, 3)) == 0
        return draft.convolution(source, channels, pads=pads, bias=draw(st.booleans()))

    for _ in range(draw(st.integers(2, 6))):
        kind = draw(st.sampled_from(("conv", "conv", "pool", "join", "residual", "identity")))
        if kind == "conv":
            latest = draft.node(f"Relu({convolved(pick())})")
        elif kind == "pool":
            latest = draft.node(f"MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>({pick()})")
        elif kind == "identity":
            latest = draft.node(f"Identity({pick()})")
        elif kind == "residual":
            latest = draft.node(f"Relu({draft.node(f'Add({pick()}, {convolved(pick())})')})")
        else:
            branches = [
                pick() if draw(st.integers(0, 2)) == 0 else draft.node(f"Relu({convolved(pick())})")
                for _ in range(2)
            ]
            joined = draft.node(f"Concat<axis = 1>({', '.join(branches)})")
            latest = draft.node(f"Relu({convolved(joined, 2 * CHANNELS)})")
        draft.tensors.append(latest)
    last = convolved(draft.tensors[-1])
    body = "\n".join([*draft.lines, f"output = Neg({last})"])
    return build(body, draft.weights, shape=f"batch, {CHANNELS}, {SIDE}, {SIDE}")


def images() -> FloatArray:
    rng = np.random.default_rng(0)
    return (rng.integers(-16, 17, (2, CHANNELS, SIDE, SIDE)) / 8).astype(np.float32)


def grids_of(plan: Plan, ranges: Ranges) -> dict[str, Quantiser]:
    """Powers of two as steps; some cut values off."""
    grids: dict[str, Quantiser] = {}
    for tensors in plan.members().values():
        whole = max(ranges.tensors[tensor].max_abs for tensor in tensors)
        is_moved = tensors[0] in plan.shifts.tensors
        step = 2.0 ** np.floor(np.log2(max(whole, 1.0) / (255 if is_moved else 127)))
        grids |= dict.fromkeys(tensors, Quantiser(step, -128 if is_moved else 0, "int8"))
    return grids


def written(model: onnx.ModelProto, plan: Plan, ranges: Ranges, shifts: Shifts) -> onnx.ModelProto:
    """In integers, with the grids that `plan` asks for, moved or with zero points."""
    values = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    grids = grids_of(plan, ranges)
    weights, biases = {}, {}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.name in plan.nodes:
            own = values[node.input[1]].astype(np.int8)
            weights[node.name] = QuantisedWeights(own, np.ones(CHANNELS, np.float32), 0)
            if len(node.input) > 2:
                biases[node.name] = values[node.input[2]].astype(np.float64)
    biases = carrying(model.graph, shifts, grids, values, weights, biases)
    return quantised(
        model,
        replace(plan, shifts=shifts),
        grids,
        weights,
        biases,
        bias_form=PLACEMENT.bias,
        linear_form=PLACEMENT.linear,
    )


def run(model: onnx.ModelProto, names: list[str], x: FloatArray) -> list[FloatArray]:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    for name in names:
        copy.graph.output.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        )
    engine = ENGINES.get("onnxruntime")
    with engine.session(copy.SerializeToString(), threads=1, optimise=False) as session:
        found = session.infer({"input": x})
    return [found[name] for name in names]


@given(graphs())
@settings(max_examples=40, deadline=None)
def test_moved_or_with_zero_points_all_tensors_are_the_same_bits(model: onnx.ModelProto) -> None:
    plan = PLACEMENT.plan(model)
    assume(plan.shifts.tensors)
    x = images()
    ranges = observe_on(model, x)
    moved = written(model, plan, ranges, plan.shifts)
    onnx.checker.check_model(moved, full_check=True)
    names = [str(name) for node in model.graph.node for name in node.output]
    plain = run(written(model, plan, ranges, Shifts()), names, x)
    for name, first, second in zip(names, run(moved, names, x), plain, strict=True):
        assert np.array_equal(first, second), name
