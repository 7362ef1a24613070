"""Drawn Inception modules: all rewrites, in any order within their phases, leave nothing to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
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

CHANNELS, SIDE, BATCH = 6, 5, 2
"""Every image is of this side; channels vary."""


@dataclass
class Module:
    """A graph under construction; `tensors` maps what there is to its channels."""

    draw: st.DrawFn
    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, NDArray[Any]] = field(default_factory=dict)
    tensors: dict[str, int] = field(default_factory=lambda: {"input": CHANNELS})

    def node(self, operator: str, *inputs: str, outputs: Sequence[int], **attributes: Any) -> None:
        """Append a node with one output for each number of channels in `outputs`."""
        name = f"block.{operator}_{len(self.nodes)}"
        names = [name, *(f"{name}:{i}" for i in range(1, len(outputs)))]
        self.nodes.append(onnx.helper.make_node(operator, inputs, names, name, **attributes))
        self.tensors.update(zip(names, outputs, strict=True))

    def weight(self, *shape: int, low: float = -1.0) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights[name] = self.rng.uniform(low, 1.0, shape).astype(np.float32)
        return name

    def pick(self) -> str:
        """The latest tensor, or any other."""
        names = list(self.tensors)
        return self.draw(st.sampled_from(names)) if self.draw(st.booleans()) else names[-1]

    def conv(self, x: str) -> None:
        size, shared = self.tensors[x], self.draw(st.integers(0, 7)) == 0
        kind = self.draw(st.sampled_from(["1x1", "1x1", "1x1", "3x3", "depthwise"]))
        filters = size if kind == "depthwise" else self.draw(st.integers(1, 5))
        k = 1 if kind == "1x1" else 3
        group = size if kind == "depthwise" else 1
        shape = (filters, size // group, k, k)
        known = [name for name, value in self.weights.items() if value.shape == shape]
        weights = known[0] if shared and known else self.weight(*shape)
        bias = [self.weight(filters)] if self.draw(st.booleans()) else []
        pads = [k // 2] * 4
        self.node("Conv", x, weights, *bias, outputs=[filters], group=group, pads=pads)

    def conv_relu(self, x: str) -> None:
        self.conv(x)
        self.relu(list(self.tensors)[-1])

    def relu(self, x: str) -> None:
        self.node("Relu", x, outputs=[self.tensors[x]])

    def norm(self, x: str) -> None:
        size = self.tensors[x]
        parameters = [self.weight(size), self.weight(size), self.weight(size)]
        variance = self.weight(size, low=0.3)
        self.node("BatchNormalization", x, *parameters, variance, outputs=[size])

    def pool(self, x: str) -> None:
        kind = self.draw(st.sampled_from(["AveragePool", "AveragePool", "MaxPool"]))
        counted = {"count_include_pad": int(self.draw(st.booleans()))}
        attributes = counted if kind == "AveragePool" else {}
        size = self.tensors[x]
        self.node(kind, x, outputs=[size], kernel_shape=[3, 3], pads=[1] * 4, **attributes)

    def concat(self, x: str) -> None:
        others = self.draw(st.lists(st.sampled_from(list(self.tensors)), min_size=1, max_size=2))
        inputs = [x, *others]
        if sum(self.tensors[name] for name in inputs) <= 24:
            channels = sum(self.tensors[name] for name in inputs)
            self.node("Concat", *inputs, outputs=[channels], axis=1)

    def rejoin(self, x: str) -> None:
        """Split, and join what may be all pieces, some, or others."""
        if (size := self.tensors[x]) < 2:
            return
        left = self.draw(st.integers(1, size - 1))
        sizes = [left, *([1] * (size - left) if size - left < 3 else [1, size - left - 1])]
        self.weights[name := f"sizes_{len(self.weights)}"] = np.array(sizes)
        self.node("Split", x, name, outputs=sizes, axis=1)
        pieces = list(self.nodes[-1].output)
        count = self.draw(st.integers(2, len(pieces)))
        channels = sum(sizes[:count])
        self.node("Concat", *pieces[:count], outputs=[channels], axis=1)

    def bias(self, x: str) -> None:
        size = self.tensors[x]
        operator = self.draw(st.sampled_from(["Add", "Mul"]))
        self.node(operator, x, self.weight(size, 1, 1), outputs=[size])

    def residual(self, x: str) -> None:
        size = self.tensors[x]
        equal = [name for name, channels in self.tensors.items() if channels == size]
        self.node("Add", x, self.draw(st.sampled_from(equal)), outputs=[size])

    def model(self, outputs: list[str]) -> onnx.ModelProto:
        def value(name: str) -> onnx.ValueInfoProto:
            shape: list[str | int | None] = ["batch", self.tensors[name], SIDE, SIDE]
            return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

        graph = onnx.helper.make_graph(
            self.nodes,
            "drawn",
            [value("input")],
            [value(name) for name in outputs],
            [onnx.numpy_helper.from_array(v, name) for name, v in self.weights.items()],
        )
        opsets = [onnx.helper.make_opsetid("", 20)]
        return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)


@st.composite
def modules(draw: st.DrawFn) -> onnx.ModelProto:
    """A few steps of the family's operators, branching and joining as they like."""
    module = Module(draw, np.random.default_rng(draw(st.integers(0, 2**32 - 1))))
    steps = [
        module.conv,
        module.conv,
        module.conv_relu,
        module.relu,
        module.norm,
        module.pool,
        module.concat,
        module.rejoin,
        module.bias,
        module.residual,
    ]
    for _ in range(draw(st.integers(3, 10))):
        draw(st.sampled_from(steps))(module.pick())
    inner = list(module.tensors)[1:]
    if not inner:
        module.relu("input")
        inner = list(module.tensors)[1:]
    return module.model(sorted({inner[-1], *draw(st.lists(st.sampled_from(inner), max_size=2))}))


def run(model: onnx.ModelProto, images: Array) -> dict[str, Array]:
    engine = ENGINES.get("onnxruntime")
    with engine.session(model.SerializeToString(), threads=1, optimise=False) as session:
        return session.infer({"input": images})


def orders() -> list[list[Fusion]]:
    """As listed and reversed, both phase by phase."""
    straight = list(FUSIONS)
    return [sorted(order, key=lambda f: f.phase) for order in (straight, straight[::-1])]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(model=modules())
def test_one_run_of_all_rewrites_leaves_nothing_to_do(model: onnx.ModelProto) -> None:
    images = np.random.default_rng(0).standard_normal((BATCH, CHANNELS, SIDE, SIDE))
    before = run(model, images.astype(np.float32))
    found = []
    for order in orders():
        fused = model
        for fusion in order:
            fused, _, _ = rewrite(fused, fusion)
        after = run(fused, images.astype(np.float32))
        assert after.keys() == before.keys()
        for name, golden in before.items():
            scale = max(1.0, float(np.abs(golden).max()))
            np.testing.assert_allclose(after[name], golden, rtol=0, atol=1e-5 * scale)
        for fusion in order:
            again, applied, _ = rewrite(fused, fusion)
            assert again is fused, (fusion.name, applied)
        found.append(Counter(node.op_type for node in fused.graph.node))
    assert found[0] == found[1]
