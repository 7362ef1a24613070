"""Asked for int8, ran in int8: every target's placement, read back from its engine."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from small_graphs import build, noise, observe_on
from small_networks import exported, images

from inception_deploy.calibrate import observe
from inception_deploy.engines import ENGINES
from inception_deploy.fuse import rewrite
from inception_deploy.placements import PLACEMENTS
from inception_deploy.precisions import Lowering
from inception_deploy.precisions.int8 import Int8
from inception_deploy.ranges import Ranges
from inception_deploy.recipe import serves
from inception_deploy.targets import TARGETS, Target

NETWORKS = (
    "googlenet",
    "inception_v3",
    "inception_v4",
    "inception_resnet_v2",
    "xception",
    "inception_next_tiny",
)


@pytest.fixture(params=[name for name in TARGETS.names() if serves(name, "int8")], scope="module")
def target(request: pytest.FixtureRequest) -> Target:
    """Every target whose engine works here and tells what it made of a graph."""
    target = TARGETS.get(request.param)
    available = ENGINES.get(target.engine).availability()
    if not available.ok:
        pytest.skip(
            f"{target.engine}: {available.detail}; {available.remedy or available.obstacle}"
        )
    return target


def lowered(model: onnx.ModelProto, target: Target, ranges: Ranges) -> Lowering:
    return Int8(placement=PLACEMENTS.get(target.placement)).lower(model, ranges)


def missed(target: Target, lowering: Lowering) -> list[str]:
    """Placed nodes that did not run in int8, and what they ran in."""
    engine = ENGINES.get(target.engine)
    with engine.session(lowering.model.SerializeToString()) as session:
        told = session.executed_precisions()
    if told is None:
        pytest.skip(f"{engine.name} does not tell what it made of a graph")
    return [
        f"{done.node} ({done.detail}): {told.get(done.node)}"
        for done in lowering.applied
        if told.get(done.node) != "int8"
    ]


BLOCK = build(
    """
    a = Conv<pads=[1,1,1,1]>(input, wa, ba)
    x = Relu(a)
    b = Conv(x, wb)
    y = Relu(b)
    c = Conv<pads=[1,1,1,1], group=8>(x, wc)
    z = Relu(c)
    d = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1], strides=[1,1]>(x)
    e = Conv(d, we)
    u = Relu(e)
    t = Concat<axis=1>(y, z, u)
    f = Conv(t, wf, bf)
    s = Add(f, x)
    v = Relu(s)
    p = GlobalAveragePool(v)
    q = Flatten(p)
    output = Gemm<transB=1>(q, wg, bg)
    """,
    {
        "wa": (8, 4, 3, 3),
        "ba": (8,),
        "wb": (8, 8, 1, 1),
        "wc": (8, 1, 3, 3),
        "we": (8, 8, 1, 1),
        "wf": (8, 24, 1, 1),
        "bf": (8,),
        "wg": (5, 8),
        "bg": (5,),
    },
)


def test_every_placed_node_of_a_block_runs_in_int8(target: Target) -> None:
    lowering = lowered(BLOCK, target, observe_on(BLOCK))
    weighted = [node.name for node in BLOCK.graph.node if node.op_type in ("Conv", "Gemm")]
    assert set(weighted) <= {done.node for done in lowering.applied}
    assert missed(target, lowering) == []


def test_int8_gives_the_numbers_it_stands_for(target: Target) -> None:
    """As written, quantisers simulated in float, and with the engine's integer kernels."""
    lowering = lowered(BLOCK, target, observe_on(BLOCK))
    graph, engine = lowering.model.SerializeToString(), ENGINES.get(target.engine)
    outputs = []
    for optimise in (True, False):
        with engine.session(graph, optimise=optimise) as session:
            outputs.append(session.run(noise(BLOCK)))
    fast, plain = outputs
    with engine.session(BLOCK.SerializeToString()) as session:
        exact = session.run(noise(BLOCK))
    scale = np.abs(exact).max()
    assert np.abs(plain - exact).max() <= 0.05 * scale
    assert np.abs(fast - plain).max() <= 0.02 * scale


def test_a_node_kept_in_float_is_told_apart(target: Target) -> None:
    placement = PLACEMENTS.get(target.placement)
    kept = Int8(placement=placement, exclude=frozenset({"node.c"}))
    lowering = kept.lower(BLOCK, observe_on(BLOCK))
    with ENGINES.get(target.engine).session(lowering.model.SerializeToString()) as session:
        told = session.executed_precisions()
    assert told is not None
    assert told["node.c"] == "float32"
    assert told["node.a"] == "int8"


@pytest.mark.parametrize("network", NETWORKS)
def test_every_convolution_of_the_family_runs_in_int8(network: str, target: Target) -> None:
    model = exported(network).model
    for fusion in target.rewrites("int8"):
        model, _, _ = rewrite(model, fusion)
    ranges = observe(
        model,
        [images(network, 2)],
        engine=ENGINES.get("onnxruntime"),
        data_digest="images",
        total=1,
    )
    lowering = lowered(model, target, ranges)
    convolutions = {node.name for node in model.graph.node if node.op_type == "Conv"}
    assert convolutions <= {done.node for done in lowering.applied}
    weighted = [line for line in missed(target, lowering) if "(Conv)" in line or "(Gemm)" in line]
    assert weighted == []
