"""Any graph, any order of fusions: the same function, the same operators."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inception_deploy.engines import ENGINES
from inception_deploy.engines.base import Array
from inception_deploy.fuse import rewrite
from inception_deploy.fusions import FUSIONS, Fusion

CHANNELS, SIDE, BATCH = 4, 5, 2
"""Every tensor has this shape, so that any two can be added."""


@dataclass
class Builder:
    """A graph under construction; every drawn step appends nodes and returns a new tensor."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"{operator}_{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def weight(self, shape: tuple[int, ...], low: float = -1.0, high: float = 1.0) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights[name] = self.rng.uniform(low, high, shape).astype(np.float32)
        return name

    def model(self, outputs: list[str]) -> onnx.ModelProto:
        shape: list[str | int | None] = ["batch", CHANNELS, SIDE, SIDE]
        value = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph(
            self.nodes,
            "drawn",
            [value("input", onnx.TensorProto.FLOAT, shape)],
            [value(name, onnx.TensorProto.FLOAT, shape) for name in outputs],
            [onnx.numpy_helper.from_array(v, name) for name, v in self.weights.items()],
        )
        opsets = [onnx.helper.make_opsetid("", 20)]
        return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)


@st.composite
def models(draw: st.DrawFn) -> onnx.ModelProto:
    """Convolutions, batch norms, scaled sums, activations and concatenations, in any order.

    Half of the steps follow the pattern that fusions look for. A step takes the latest tensor or
    any other, so outputs are shared, scaled twice, summed with themselves, or left dangling;
    filters are reused now and then; an inner tensor may leave the graph.
    """
    build = Builder(np.random.default_rng(draw(st.integers(0, 2**32 - 1))))
    filters: list[tuple[str, int]] = []
    tensors = ["input"]
    steps = {
        "conv": lambda x: _convolution(draw, build, x, filters),
        "bn": lambda x: _batch_norm(draw, build, x),
        "sum": lambda x: build.node("Add", draw(st.sampled_from(tensors)), _scale(draw, build, x)),
        "relu": lambda x: build.node("Relu", x),
        "add": lambda x: build.node("Add", x, draw(st.sampled_from(tensors))),
        "concat": lambda x: _concatenation(build, x, draw(st.sampled_from(tensors))),
    }
    pattern = ("conv", "bn", "sum")
    for index in range(draw(st.integers(3, 9))):
        kind = pattern[index % 3] if draw(st.booleans()) else draw(st.sampled_from(list(steps)))
        source = draw(st.sampled_from(tensors)) if draw(st.integers(0, 3)) == 0 else tensors[-1]
        tensors.append(steps[kind](source))
    outputs = {tensors[-1], *draw(st.lists(st.sampled_from(tensors), max_size=1))} - {"input"}
    return build.model(sorted(outputs))


def _convolution(
    draw: st.DrawFn, build: Builder, source: str, filters: list[tuple[str, int]]
) -> str:
    if filters and draw(st.integers(0, 4)) == 0:
        weights, group = draw(st.sampled_from(filters))
    else:
        group = draw(st.sampled_from([1, 2, CHANNELS]))
        weights = build.weight((CHANNELS, CHANNELS // group, 3, 3))
        filters.append((weights, group))
    bias = [build.weight((CHANNELS,))] if draw(st.booleans()) else []
    return build.node("Conv", source, weights, *bias, group=group, pads=[1, 1, 1, 1])


def _batch_norm(draw: st.DrawFn, build: Builder, source: str) -> str:
    parameters = [build.weight((CHANNELS,)) for _ in range(3)]
    variance = build.weight((CHANNELS,), 0.3, 2.0)
    epsilon = draw(st.sampled_from([1e-5, 1e-3]))
    return build.node("BatchNormalization", source, *parameters, variance, epsilon=epsilon)


def _scale(draw: st.DrawFn, build: Builder, source: str) -> str:
    """A scalar, one factor per channel, or one per column, which cannot be folded."""
    shape = draw(st.sampled_from([(), (1,), (CHANNELS, 1, 1), (1, CHANNELS, 1, 1), (SIDE,)]))
    scale = build.weight(shape, 0.5, 1.5)
    if draw(st.integers(0, 4)) == 0:
        build.weights[scale][...] = 1.0
    operator = draw(st.sampled_from(["Mul", "Div"]))
    swap = operator == "Mul" and draw(st.booleans())
    return build.node(operator, *((scale, source) if swap else (source, scale)))


def _concatenation(build: Builder, left: str, right: str) -> str:
    joined = build.node("Concat", left, right, axis=1)
    return build.node("Conv", joined, build.weight((CHANNELS, 2 * CHANNELS, 1, 1)))


def run(model: onnx.ModelProto, images: Array) -> dict[str, Array]:
    engine = ENGINES.get("onnxruntime")
    with engine.session(model.SerializeToString(), threads=1, optimise=False) as session:
        return session.infer({"input": images})


def _orders(seed: int) -> list[list[Fusion]]:
    """Three orders, the last one drawn, that all keep to the phases."""
    drawn = np.random.default_rng(seed).permutation(len(FUSIONS))
    straight = list(FUSIONS)
    orders = (straight, straight[::-1], [straight[i] for i in drawn])
    return [sorted(order, key=lambda fusion: fusion.phase) for order in orders]


@settings(max_examples=120, deadline=None, derandomize=True)
@given(model=models(), seed=st.integers(0, 2**32 - 1))
def test_any_order_gives_the_same_function_and_the_same_operators(
    model: onnx.ModelProto, seed: int
) -> None:
    images = np.random.default_rng(seed).standard_normal((BATCH, CHANNELS, SIDE, SIDE))
    before = run(model, images.astype(np.float32))
    counts = []
    for order in _orders(seed):
        fused, count = model, 0
        for fusion in order:
            fused, applied, _ = rewrite(fused, fusion)
            count += len(applied)
        after = run(fused, images.astype(np.float32))
        assert after.keys() == before.keys()
        for name, golden in before.items():
            # a dead output has no scale of its own
            scale = max(1.0, float(np.abs(golden).max()))
            np.testing.assert_allclose(after[name], golden, rtol=0, atol=1e-5 * scale)
        counts.append((count, Counter(node.op_type for node in fused.graph.node)))
    assert all(entry == counts[0] for entry in counts)
