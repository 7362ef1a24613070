"""Any graph, any of the fusions, any order: the same function, and within a phase one result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import BATCH, CHANNELS, SIDE, models

from inception_deploy.engines import ENGINES
from inception_deploy.engines.base import Array
from inception_deploy.fuse import rewrite
from inception_deploy.fusions import FUSIONS, Fusion, Phase

ALWAYS = [fusion for fusion in FUSIONS if fusion.phase <= Phase.FOLD]
"""These run for every target."""

ROUNDING = 2e-5
"""Of the largest value, after a dozen layers in float32 (measured: below 5e-6)."""

ROUNDS = 6
"""More than any graph drawn here needs until nothing is left to do."""


def run(model: onnx.ModelProto, images: Array) -> dict[str, Array]:
    engine = ENGINES.get("onnxruntime")
    with engine.session(model.SerializeToString(), threads=1, optimise=False) as session:
        return session.infer({"input": images})


def noise(seed: int) -> Array:
    shape = (BATCH, CHANNELS, SIDE, SIDE)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def agree(have: dict[str, Array], want: dict[str, Array]) -> None:
    assert have.keys() == want.keys()
    for name, golden in want.items():
        # a dead output has no scale of its own
        scale = max(1.0, float(np.abs(golden).max()))
        np.testing.assert_allclose(have[name], golden, rtol=0, atol=ROUNDING * scale, err_msg=name)


def tidy(model: onnx.ModelProto) -> None:
    """Valid, no node or weight that nobody needs, the batch free."""
    onnx.checker.check_model(model, full_check=True)
    graph = model.graph
    used = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
    for node in graph.node:
        assert used & set(node.output), f"nobody needs '{node.name}'"
    assert {tensor.name for tensor in graph.initializer} <= used
    for value in (*graph.input, *graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch", value.name


def once(model: onnx.ModelProto, fusions: Iterable[Fusion]) -> onnx.ModelProto:
    for fusion in fusions:
        model, _, _ = rewrite(model, fusion)
    return model


def settled(model: onnx.ModelProto, fusions: Sequence[Fusion]) -> onnx.ModelProto:
    """Round after round, until one changes nothing."""
    for _ in range(ROUNDS):
        before = model
        model = once(model, fusions)
        if model is before:
            return model
    raise AssertionError(f"not settled after {ROUNDS} rounds")


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(model=models(), chosen=st.permutations(tuple(FUSIONS)), data=st.data())
def test_any_subset_in_any_order_is_the_same_function(
    model: onnx.ModelProto, chosen: list[Fusion], data: st.DataObject
) -> None:
    subset = chosen[: data.draw(st.integers(1, len(chosen)), label="fusions")]
    images = noise(0)
    rewritten = model
    for fusion in subset:
        rewritten, applied, _ = rewrite(rewritten, fusion)
        again, more, _ = rewrite(rewritten, fusion)
        assert again is rewritten, f"a second run of {fusion.name} finds {more} after {applied}"
    tidy(rewritten) if rewritten is not model else None
    agree(run(rewritten, images), run(model, images))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(model=models(), order=st.permutations(ALWAYS))
def test_within_the_phases_order_does_not_matter(
    model: onnx.ModelProto, order: list[Fusion]
) -> None:
    """Each phase runs until nothing changes; what is left is then the same, node for node."""
    results = []
    for fusions in (ALWAYS, ALWAYS[::-1], order):
        rewritten = model
        for phase in (Phase.CANONICAL, Phase.FOLD):
            rewritten = settled(rewritten, [f for f in fusions if f.phase is phase])
        results.append(rewritten)
    counts = [operators(result) for result in results]
    assert counts[1] == counts[0]
    assert counts[2] == counts[0]
    images = noise(1)
    agree(run(results[2], images), run(model, images))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(model=models())
def test_all_phases_settle_and_folding_removes_nodes(model: onnx.ModelProto) -> None:
    rewritten = model
    for phase in Phase:
        before = sum(operators(rewritten).values())
        rewritten = settled(rewritten, [f for f in FUSIONS if f.phase is phase])
        after = sum(operators(rewritten).values())
        assert phase is not Phase.FOLD or after <= before
    if rewritten is not model:
        tidy(rewritten)
    images = noise(2)
    agree(run(rewritten, images), run(model, images))
