"""FP16 on random graphs: always strongly typed, never a useless cast, always within the bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_graphs import build, noise, observe_on, quarrels, types_of, useless_casts

from inception_deploy.artifact import FloatArray
from inception_deploy.engines import ENGINES
from inception_deploy.lowering.rounding import rounded
from inception_deploy.precisions.fp16 import Fp16

ENGINE = ENGINES.get("onnxruntime")
CHANNELS = 4


@dataclass
class Draft:
    """A graph in the making; everything in `tensors` is (batch, CHANNELS, 6, 6)."""

    lines: list[str] = field(default_factory=list)
    weights: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    tensors: list[str] = field(default_factory=lambda: ["input"])

    def node(self, expression: str) -> str:
        """One more node; its output's name."""
        name = f"t{len(self.lines)}"
        self.lines.append(f"{name} = {expression}")
        return name

    def weight(self, values: NDArray[np.float64]) -> str:
        """One more weight; its name."""
        name = f"w{len(self.weights)}"
        self.weights[name] = values.astype(np.float32)
        return name


@st.composite
def graphs(draw: st.DrawFn) -> onnx.ModelProto:
    """Convolutions, ReLUs, pools, concatenations, sums, scales and a linear head, in any order."""
    draft = Draft()
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    exponents = st.integers(-18, 18)

    def pick() -> str:
        return draw(st.sampled_from(draft.tensors))

    def convolution(source: str, channels: int) -> str:
        values = generator.standard_normal((CHANNELS, channels, 3, 3)) / np.sqrt(9 * channels)
        weight = draft.weight(values * 2.0 ** draw(exponents))
        return draft.node(f"Conv<pads=[1,1,1,1]>({source}, {weight})")

    for _ in range(draw(st.integers(1, 8))):
        match draw(st.sampled_from(["conv", "cat", "relu", "max", "mean", "add", "mul"])):
            case "conv":
                made = convolution(pick(), CHANNELS)
            case "cat":
                both = draft.node(f"Concat<axis=1>({pick()}, {pick()})")
                made = convolution(both, 2 * CHANNELS)
            case "relu":
                made = draft.node(f"Relu({pick()})")
            case "max":
                made = draft.node(f"MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>({pick()})")
            case "mean":
                made = draft.node(f"AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>({pick()})")
            case "add":
                made = draft.node(f"Add({pick()}, {pick()})")
            case _:
                factor = draft.weight(np.array([2.0 ** draw(exponents)]))
                made = draft.node(f"Mul({pick()}, {factor})")
        draft.tensors.append(made)
    outputs = ["output"]
    if len(draft.tensors) > 2 and draw(st.booleans()):
        outputs.append(draw(st.sampled_from(draft.tensors[1:-1])))
    last = draft.tensors[-1]
    head = draft.weight(generator.standard_normal((CHANNELS, 5)) / 2)
    draft.lines += [f"g = GlobalAveragePool({last})", "f = Flatten(g)", f"output = Gemm(f, {head})"]
    return build("\n".join(draft.lines), draft.weights, outputs=outputs)


def every_tensor(
    model: onnx.ModelProto, names: Sequence[str], images: FloatArray
) -> list[FloatArray]:
    probe = onnx.ModelProto.FromString(model.SerializeToString())
    shown = {output.name for output in probe.graph.output}
    probe.graph.output.extend(v for v in probe.graph.value_info if v.name not in shown)
    with ENGINE.session(probe.SerializeToString()) as session:
        values = session.infer({"input": images})
    return [values[name] for name in names]


@given(graphs(), st.integers(-12, 12), st.booleans())
@settings(max_examples=120, deadline=None)
def test_the_result_is_strongly_typed_with_no_useless_cast(
    model: onnx.ModelProto, exponent: int, fp32_io: bool
) -> None:
    images = noise(model, scale=2.0**exponent)
    result = Fp16(fp32_io).lower(model, observe_on(model, images))
    assert list(quarrels(result.model)) == []
    assert list(useless_casts(result.model)) == []
    kind = "FLOAT" if fp32_io else "FLOAT16"
    kinds = types_of(result.model)
    for info in (*model.graph.input, *model.graph.output):
        assert kinds[info.name] == kind
    # each node is accounted for once, and is where the record says
    done = {a.node for a in result.applied if a.rewrite == "fp16"}
    kept = {r.node for r in result.refused}
    assert not done & kept
    assert done | kept == {node.name for node in model.graph.node}
    for node in result.model.graph.node:
        if node.op_type != "Cast":
            assert (kinds[node.output[0]] == "FLOAT16") is (node.name in done)


@given(graphs(), st.integers(-12, 12))
@settings(max_examples=60, deadline=None)
def test_every_tensor_is_within_the_bound(model: onnx.ModelProto, exponent: int) -> None:
    """The bound is relative to a tensor's own largest value, so sums that cancel are left out."""
    images = noise(model, scale=2.0**exponent)
    result = Fp16().lower(model, observe_on(model, images))
    names = [name for node in model.graph.node for name in node.output]
    expected = every_tensor(model, names, images)
    actual = every_tensor(rounded(result.model), names, images)
    largest = dict(zip(names, (float(np.abs(v).max()) for v in expected), strict=True))
    for node in model.graph.node:
        inputs = [largest[name] for name in node.input if name in largest]
        assume(
            node.op_type not in ("Add", "GlobalAveragePool", "Gemm")
            or not inputs
            or largest[node.output[0]] > 0.1 * max(inputs)
        )
    for name, want, have in zip(names, expected, actual, strict=True):
        assert np.isfinite(have).all(), name
        assert np.abs(have - want).max() <= result.bound * largest[name], name
