"""What every placement promises on every kind of block, and what ONNX Runtime then runs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from block_graphs import BLOCKS, block
from small_graphs import noise, observe_on

from inception_deploy.engines import ENGINES
from inception_deploy.placements import PLACEMENTS
from inception_deploy.placements.base import WEIGHTED, Plan
from inception_deploy.precisions.int8 import Int8
from inception_deploy.ranges import Ranges, TensorRange

every_placement = pytest.mark.parametrize("name", PLACEMENTS.names())
every_block = pytest.mark.parametrize("kind", BLOCKS)


def reasons(plan: Plan) -> dict[str, str]:
    return {refused.node: refused.reason for refused in plan.refused}


@every_placement
@every_block
def test_every_node_with_a_rule_is_placed_or_refused_or_part_of_the_one_before(
    name: str, kind: str
) -> None:
    placement, graph = PLACEMENTS.get(name), block(kind).graph
    plan = placement.plan(block(kind))
    ruled = {rule.op for rule in placement.rules}
    placed, refused = set(plan.nodes), set(reasons(plan))
    assert len(plan.nodes) == len(placed)
    assert not placed & refused
    producers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type not in ruled:
            assert node.name not in placed | refused
        elif node.name not in placed | refused:
            assert node.op_type in placement.epilogues
            assert producers[node.input[0]].name in placed
            assert node.output[0] in plan.groups


@every_placement
@every_block
def test_what_leaves_the_graph_is_never_rounded(name: str, kind: str) -> None:
    plan = PLACEMENTS.get(name).plan(block(kind))
    assert not {value.name for value in block(kind).graph.output} & set(plan.groups)


@every_placement
@every_block
def test_nodes_that_move_values_have_one_grid_on_both_sides(name: str, kind: str) -> None:
    placement = PLACEMENTS.get(name)
    plan, graph = placement.plan(block(kind)), block(kind).graph
    rules = {rule.op: rule for rule in placement.rules}
    constants = {tensor.name for tensor in graph.initializer}
    moved: dict[str, int] = {}
    for node in graph.node:
        if node.name not in plan.nodes:
            continue
        read = node.input[:1] if node.op_type in WEIGHTED else node.input
        grids = [
            plan.groups[tensor] if tensor in plan.groups else moved[tensor]
            for tensor in read
            if tensor not in constants
        ]  # a KeyError here: it is read in integers, but has no grid
        if rules[node.op_type].shares:
            grids += [plan.groups[output] for output in node.output if output in plan.groups]
            assert len(set(grids)) == 1, node.name
            moved |= dict.fromkeys(node.output, grids[0])


@every_block
def test_tensors_that_share_a_grid_on_onnxruntime(kind: str) -> None:
    plan = PLACEMENTS.get("onnxruntime").plan(block(kind))
    for tensors in BLOCKS[kind].together:
        assert len({plan.groups[tensor] for tensor in tensors}) == 1
    shared = [tensors for tensors in plan.members().values() if len(tensors) > 1]
    # a head's Flatten moves bytes, too
    asked = {*BLOCKS[kind].together, frozenset({"pooled", "flat"})}
    assert {frozenset(tensors) for tensors in shared} <= asked


@every_placement
@every_block
def test_nodes_kept_in_float_on_request_are(name: str, kind: str) -> None:
    placement = PLACEMENTS.get(name)
    for node in placement.plan(block(kind)).nodes:
        plan = placement.plan(block(kind), exclude={node})
        assert node not in plan.nodes
        assert reasons(plan)[node] == "kept in float on request"


@every_placement
@every_block
def test_the_quantised_graph_computes_the_same_to_eight_bits(name: str, kind: str) -> None:
    model = block(kind)
    images = noise(model, batch=3)
    precision = Int8().at(name, reduce_range=False)
    lowered = precision.lower(model, observe_on(model, images))
    engine = ENGINES.get("onnxruntime")
    with engine.session(model.SerializeToString()) as session:
        expected = session.infer({"input": images})
    with engine.session(lowered.model.SerializeToString()) as session:
        found = session.infer({"input": images})
    assert list(found) == list(expected)
    for output, values in expected.items():
        error = np.abs(found[output] - values).max() / np.abs(values).max()
        assert error <= lowered.bound, output
        assert error <= 0.06, output


@every_block
def test_refusals_on_onnxruntime_say_why(kind: str) -> None:
    found = reasons(PLACEMENTS.get("onnxruntime").plan(block(kind)))
    expected = BLOCKS[kind].refused
    assert set(found) == {f"node.{output}" for output in expected}
    for output, reason in expected.items():
        assert reason in found[f"node.{output}"]


@every_block
def test_onnxruntime_runs_in_integers_what_was_placed(kind: str, tmp_path: Path) -> None:
    model = block(kind)
    precision = Int8().at("onnxruntime", reduce_range=False)
    lowered = precision.lower(model, observe_on(model))
    assert Counter(kernels(lowered.model, tmp_path)) == Counter(BLOCKS[kind].kernels)


@every_block
def test_signed_activations_do_not_change_what_runs(kind: str, tmp_path: Path) -> None:
    """A ReLU on a grid that reaches below zero is one of bytes; all else runs as before."""
    model = block(kind)
    precision = Int8().at("onnxruntime", reduce_range=False)
    seen = observe_on(model)
    made_by_relu = {n.output[0] for n in model.graph.node if n.op_type == "Relu"}
    wider = {
        tensor: r if tensor in made_by_relu else TensorRange(-1 - r.max_abs, 2 + r.max_abs)
        for tensor, r in seen.tensors.items()
    }
    ranges = Ranges(wider, seen.model, seen.data, seen.images, seen.calibrator)
    lowered = precision.lower(model, ranges)
    found, expected = Counter(kernels(lowered.model, tmp_path)), Counter(BLOCKS[kind].kernels)
    assert found["Clip"] >= expected.pop("Clip", 0)
    del found["Clip"]
    assert found == expected


def kernels(model: onnx.ModelProto, folder: Path) -> list[str]:
    """Operators of the graph that ONNX Runtime's optimiser makes of `model`, of those on bytes."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(folder / "optimised.onnx").graph
    quantised = {n.output[0] for n in graph.node if n.op_type == "QuantizeLinear"}
    found: list[str] = []
    for node in graph.node:
        kind = node.op_type.removeprefix("Nhwc")
        integral = kind.startswith("QLinear") or kind in ("QGemm", "MatMulIntegerToFloat")
        computes = integral or kind in ("MaxPool", "Clip", "Split")
        if integral or node.input[0] in quantised:
            found += [kind] if computes else []
            carried = computes or kind in ("Transpose", "Reshape", "Flatten")
            quantised.update(node.output if carried and not _float_result(node) else ())
    return found


def _float_result(node: onnx.NodeProto) -> bool:
    sums = node.op_type == "QGemm" and len(node.input) < 9
    return sums or node.op_type == "MatMulIntegerToFloat"
