"""Every fusion of the folder, on its own examples."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from inception_deploy.engines import ENGINES
from inception_deploy.engines.base import Array
from inception_deploy.fuse import rewrite
from inception_deploy.fusions import FUSIONS, Example, Fusion, Phase

BATCH = 3
ROUNDING = 1e-6  # a few float32 units: one small graph against the other

CASES = [
    pytest.param(fusion, example, id=f"{fusion.name}: {example.name}")
    for fusion in FUSIONS
    for example in fusion.examples
]
every_example = pytest.mark.parametrize(("fusion", "example"), CASES)


def run(model: onnx.ModelProto) -> dict[str, Array]:
    """All outputs on seeded noise, as the graph is written."""
    engine = ENGINES.get("onnxruntime")
    with engine.session(model.SerializeToString(), threads=1, optimise=False) as session:
        spec = session.inputs[0]
        shape = (BATCH, *(int(extent) for extent in spec.shape[1:]))
        noise = np.random.default_rng(0).standard_normal(shape)
        return session.infer({spec.name: noise.astype(spec.dtype)})


@every_example
def test_acts_exactly_where_it_should(fusion: Fusion, example: Example) -> None:
    model, applied, refused = rewrite(example.build(), fusion)
    assert len(applied) == example.applied, refused
    reasons = [refusal.reason for refusal in refused]
    if example.refused is None:
        assert not reasons
    else:
        assert reasons
        assert all(example.refused in reason for reason in reasons), reasons
    if fusion.phase is Phase.FOLD:
        assert len(model.graph.node) <= len(example.build().graph.node) - len(applied)


@every_example
def test_outputs_stay_the_same(fusion: Fusion, example: Example) -> None:
    original = example.build()
    model, applied, _ = rewrite(original, fusion)
    if not applied:
        assert model is original
        return
    before, after = run(original), run(model)
    assert before.keys() == after.keys()
    for name, golden in before.items():
        scale = np.abs(golden).max()
        assert scale > 0
        np.testing.assert_allclose(after[name], golden, rtol=0, atol=ROUNDING * scale)


@every_example
def test_leaves_its_input_alone(fusion: Fusion, example: Example) -> None:
    model = example.build()
    untouched = model.SerializeToString(deterministic=True)
    rewrite(model, fusion)
    assert model.SerializeToString(deterministic=True) == untouched


@every_example
def test_a_second_run_changes_nothing(fusion: Fusion, example: Example) -> None:
    once, _, refused = rewrite(example.build(), fusion)
    twice, applied, again = rewrite(once, fusion)
    assert twice is once
    assert not applied
    assert again == refused


@every_example
def test_leaves_a_tidy_graph(fusion: Fusion, example: Example) -> None:
    original = example.build()
    model, _, _ = rewrite(original, fusion)
    graph = model.graph
    onnx.checker.check_model(model, full_check=True)
    assert list(graph.input) == list(original.graph.input), "the interface, free batch included"
    assert [value.name for value in graph.output] == [v.name for v in original.graph.output]
    for value, given in zip(graph.output, original.graph.output, strict=True):
        have, want = value.type.tensor_type, given.type.tensor_type
        assert have.elem_type == want.elem_type
        for extent, was in zip(have.shape.dim, want.shape.dim, strict=True):
            unknown = not was.dim_value and was.dim_param != "batch"
            assert unknown or extent == was, "a rewrite may only add to what is known"

    used = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
    assert {tensor.name for tensor in graph.initializer} <= used
    for node in graph.node:
        assert used & set(node.output), f"nobody needs '{node.name}'"
    before = {node.name for node in original.graph.node}
    for name in {node.name for node in graph.node} - before:
        block = name.rpartition(".")[0]
        assert block, f"'{name}' is new and says nothing about where it belongs"
        assert any(f"{old}.".startswith(f"{block}.") for old in before), name


@pytest.mark.parametrize("fusion", tuple(FUSIONS), ids=lambda fusion: fusion.name)
def test_has_positive_and_negative_examples(fusion: Fusion) -> None:
    names = [example.name for example in fusion.examples]
    assert len(set(names)) == len(names)
    assert any(example.applied for example in fusion.examples)
    assert any(example.refused for example in fusion.examples)
    assert 0 < fusion.bound < 1e-3
