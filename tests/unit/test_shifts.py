"""Zero points in biases: what may be moved, what may not, and what is written then."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from small_graphs import Weights, build, noise, observe_on, quarrels, weights_of

from inception_deploy.engines._trt_refusals import refusals
from inception_deploy.locate.anatomy import Anatomy, Grid
from inception_deploy.locate.causes import Before
from inception_deploy.locate.cutting import CutGraph
from inception_deploy.locate.examine import Examined, examine
from inception_deploy.locate.truth import GraphTruth
from inception_deploy.lowering.qdq import MOVED, RESTORED
from inception_deploy.lowering.rounding import rounded
from inception_deploy.placements import PLACEMENTS, Placement
from inception_deploy.placements._shifts import Carried, Shifts
from inception_deploy.precisions.base import Lowering
from inception_deploy.precisions.fp8 import Fp8
from inception_deploy.precisions.int8 import Int8
from inception_deploy.ranges import Ranges

WIDE: Placement = replace(PLACEMENTS.get("tensorrt"), least_channels=1)
SAME = "<pads = [1, 1, 1, 1]>"
POOL = "<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>"
COUNTS = POOL.replace(">", ", count_include_pad = 1>")
CEILS = "<kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1>"
W: Weights = {
    **dict.fromkeys(("w1", "w2"), (8, 4, 3, 3)),
    **dict.fromkeys(("b1", "b2", "b3"), (8,)),
    **dict.fromkeys(("v", "u"), (8, 8, 1, 1)),
    **{"s": (8, 8, 3, 3), "j": (8, 16, 1, 1)},
}
START = f"c1 = Conv{SAME}(input, w1, b1)\n r1 = Relu(c1)\n"
SECOND = f"c2 = Conv{SAME}(input, w2, b2)\n r2 = Relu(c2)\n"
END = "output = Neg(e)"


def graph(
    body: str, weights: Weights = W, outputs: Collection[str] = ("output",)
) -> onnx.ModelProto:
    """A graph with those of `weights` that it reads."""
    words = set(re.findall(r"\w+", body))
    used = {name: values for name, values in weights.items() if name in words}
    return build(body, used, outputs=tuple(outputs))


def shifts(
    model: onnx.ModelProto, placement: Placement = WIDE, exclude: Collection[str] = ()
) -> Shifts:
    return placement.plan(model, exclude=exclude).shifts


def moved(model: onnx.ModelProto, exclude: Collection[str] = ()) -> set[str]:
    return set(shifts(model, exclude=exclude).tensors)


MOVES: Mapping[str, tuple[str, set[str]]] = {
    "a relu that a 1×1 convolution reads": (START + "e = Conv(r1, v)\n", {"r1"}),
    "a convolution that pads nothing": (START + "e = Conv(r1, s)\n", {"r1"}),
    "auto_pad that pads nothing": (START + 'e = Conv<auto_pad = "VALID">(r1, s)\n', {"r1"}),
    "through a pool behind the quantiser": (
        START + f"m = MaxPool{POOL}(r1)\n e = Conv(m, v)\n",
        {"r1", "m"},
    ),
    "through two pools": (
        START + f"m = MaxPool{POOL}(r1)\n n = MaxPool{POOL}(m)\n e = Conv(n, v)\n",
        {"r1", "m", "n"},
    ),
    "branches of a concatenation": (
        START + SECOND + "t = Concat<axis = 1>(r1, r2)\n e = Conv(t, j)\n",
        {"t", "r1", "r2"},
    ),
    "a branch that is joined twice": (
        START + "t = Concat<axis = 1>(r1, r1)\n e = Conv(t, j)\n",
        {"t", "r1"},
    ),
    "a pool in front of the concatenation": (
        START + SECOND + f"m = MaxPool{POOL}(r1)\nt = Concat<axis = 1>(m, r2)\n e = Conv(t, j)\n",
        {"t", "m", "r1", "r2"},
    ),
    "an average pool that counts no padding": (
        START + f"m = AveragePool{POOL}(r1)\n e = Conv(m, v)\n",
        {"r1", "m"},
    ),
    "one that pads nothing": (
        START + "m = AveragePool<kernel_shape = [2, 2], count_include_pad = 1>(r1)\n"
        "e = Conv(m, v)\n",
        {"r1", "m"},
    ),
    "a block with the one before it, whose pool it takes in": (
        START + f"c2 = Conv(r1, v)\n r2 = Relu(c2)\n m = MaxPool{POOL}(r1)\n"
        "t = Concat<axis = 1>(r2, m)\n e = Conv(t, j)\n",
        {"t", "r2", "m", "r1"},
    ),
    "an identity": (START + "i = Identity(r1)\n e = Conv(i, v)\n", {"i", "r1"}),
    "a sum with a convolution": (
        f"c1 = Conv{SAME}(input, w1, b1)\n h = Abs(c1)\n d = Conv{SAME}(input, w2)\n"
        "a = Add(h, d)\n r = Relu(a)\n e = Conv(r, v)\n",
        {"r"},
    ),
    "a residual": (START + "d = Conv(r1, u)\n e = Add(r1, d)\n", {"r1"}),
}


@pytest.mark.parametrize("kind", MOVES)
def test_what_moves(kind: str) -> None:
    body, expected = MOVES[kind]
    assert moved(graph(body + END)) == expected


STAYS: Mapping[str, str] = {
    "a convolution that pads reads it": START + f"e = Conv{SAME}(r1, s)\n",
    "one that pads by itself": START + 'e = Conv<auto_pad = "SAME_UPPER">(r1, s)\n',
    "a padding convolution reads it, too": (
        START + f"d = Conv(r1, v)\n f = Conv{SAME}(r1, s)\n e = Add(d, f)\n"
    ),
    "behind a pool a convolution pads": START + f"m = MaxPool{POOL}(r1)\n e = Conv{SAME}(m, s)\n",
    "an average pool that counts its padding reads it": (
        START + f"m = AveragePool{COUNTS}(r1)\n d = Conv(m, v)\n f = Conv(r1, u)\n e = Add(d, f)\n"
    ),
    "an average pool with windows beyond the edge reads it": (
        START + f"m = AveragePool{CEILS}(r1)\n d = Conv(m, v)\n e = Abs(d)\n"
    ),
    "a float operator reads the average behind it": (
        START + f"m = AveragePool{POOL}(r1)\n d = Conv(m, v)\n f = Abs(m)\n e = Add(d, f)\n"
    ),
    "a convolution pads what the average pool gives": (
        START + f"m = AveragePool{POOL}(r1)\n e = Conv{SAME}(m, s)\n"
    ),
    "a block with the one before it, whose other reader pads": (
        START + f"c2 = Conv(r1, v)\n r2 = Relu(c2)\n m = MaxPool{POOL}(r1)\n"
        f"t = Concat<axis = 1>(r2, m)\n d = Conv(t, j)\n f = Conv{SAME}(r1, s)\n e = Add(d, f)\n"
    ),
    "a float operator reads it": START + "d = Conv(r1, v)\n f = Abs(r1)\n e = Add(d, f)\n",
    "a sum without a convolution reads it": (
        START + "d = Conv(r1, v)\n g = Abs(d)\n e = Add(r1, g)\n"
    ),
    "the sum's convolution has another reader": (
        START + "d = Conv(r1, v)\n g = Abs(d)\n f = Add(r1, d)\n e = Add(f, g)\n"
    ),
    "a float operator reads the pool behind it": (
        START + f"m = MaxPool{POOL}(r1)\n d = Conv(m, v)\n f = Abs(m)\n e = Add(d, f)\n"
    ),
    "what the relu reads has another reader": START + "d = Conv(r1, v)\n e = Add(c1, d)\n",
    "nothing but a convolution has a bias": "r1 = Relu(input)\n e = Conv(r1, w2)\n",
    "a pool is in front of the relu": (
        f"c1 = Conv{SAME}(input, w1)\n p = AveragePool{POOL}(c1)\n r1 = Relu(p)\n e = Conv(r1, v)\n"
    ),
    "there is no relu": f"c1 = Conv{SAME}(input, w1, b1)\n e = Conv(c1, v)\n",
    "another activation": START.replace("Relu", "LeakyRelu") + "e = Conv(r1, v)\n",
    "one branch has no relu": (
        START + f"c2 = Conv{SAME}(input, w2, b2)\n t = Concat<axis = 1>(r1, c2)\n e = Conv(t, j)\n"
    ),
    "a branch is read in float": (
        START + SECOND + "t = Concat<axis = 1>(r1, r2)\n d = Conv(t, j)\n f = Abs(r1)\n"
        "e = Add(d, f)\n"
    ),
    "a branch is on a grid of its own": (
        START + SECOND + "t = Concat<axis = 1>(r1, r2)\n d = Conv(t, j)\n"
        f"f = Conv{SAME}(r1, s)\n e = Add(d, f)\n"
    ),
    "a branch is constant": (START + "t = Concat<axis = 1>(r1, k)\n e = Conv(t, j)\n"),
    "the sum's operands are no convolutions": (
        f"c1 = Conv{SAME}(input, w1, b1)\n g = Abs(c1)\n h = Abs(g)\n a = Add(g, h)\n"
        "r1 = Relu(a)\n e = Conv(r1, v)\n"
    ),
    "the convolution's bias is computed": (
        f"h = Abs(b1)\n c1 = Conv{SAME}(input, w1, h)\n r1 = Relu(c1)\n e = Conv(r1, v)\n"
    ),
}


@pytest.mark.parametrize("kind", STAYS)
def test_what_stays(kind: str) -> None:
    weights = {**W, "k": np.ones((1, 8, 6, 6), np.float32)}
    model = graph(STAYS[kind] + END, weights)
    plan = WIDE.plan(model)
    assert plan.groups  # something is quantised, and might have moved
    assert plan.shifts == Shifts()


@pytest.mark.parametrize("leaving", ["r1", "c1", "m"])
def test_what_leaves_the_graph_stays(leaving: str) -> None:
    body = START + f"m = MaxPool{POOL}(r1)\n e = Conv(m, v)\n" + END
    assert moved(graph(body)) == {"r1", "m"}
    assert not moved(graph(body, outputs=("output", leaving)))


def test_convolutions_kept_in_float_carry_as_well_but_a_pool_does_not() -> None:
    model = graph(
        START + f"m = MaxPool{POOL}(r1)\n e = Conv(m, v)\n d = Conv(m, u)\n"
        "f = Add(d, e)\n output = Neg(f)"
    )
    assert moved(model, {"node.c1"}) == moved(model, {"node.d"}) == {"r1", "m"}
    # the quantiser is behind the pool then
    found = shifts(model, exclude={"node.m"})
    assert set(found.tensors) == {"m", "r1"}
    assert set(found.tensors.values()) == {"m"}
    assert not moved(model, {"node.m", "node.e", "node.d"})


def test_what_each_bias_carries() -> None:
    found = shifts(
        graph(
            START
            + "d = Conv(r1, u, b2)\n a = Add(r1, d)\n r2 = Relu(a)\n e = Conv(r2, v, b3)\n"
            + END
        )
    )
    assert found.tensors == {"r1": "r1", "r2": "r2"}
    assert found.activations == {"node.r1", "node.r2"}
    assert found.biases == {
        "node.c1": Carried(writes="r1"),
        "node.d": Carried(reads="r1", writes="r2", beside="r1"),
        "node.e": Carried(reads="r2"),
    }


def test_what_is_passed_on_shares_a_grid() -> None:
    for kind, together in (
        ("an average pool that counts no padding", {"r1", "m"}),
        ("a block with the one before it, whose pool it takes in", {"t", "r1"}),
    ):
        model = graph(MOVES[kind][0] + END)
        plan, plain = WIDE.plan(model), replace(WIDE, shifts=False).plan(model)
        assert plan.groups.keys() == plain.groups.keys()
        assert together in [set(members) for members in plan.members().values()]
        assert together not in [set(members) for members in plain.members().values()]


def test_only_tensorrt_moves_and_only_to_integers() -> None:
    model = graph(MOVES["branches of a concatenation"][0] + END)
    for placement in PLACEMENTS:
        assert bool(shifts(model, replace(placement, least_channels=1)).tensors) == placement.shifts
        assert placement.shifts == (placement.name == "tensorrt")
        if placement.shifts:  # the writer adds them in float
            assert placement.bias == "float"
    assert not Fp8().placement.shifts
    assert not Fp8().at("tensorrt").placement.shifts


def lowered(model: onnx.ModelProto, placement: Placement = WIDE) -> tuple[Lowering, Ranges]:
    ranges = observe_on(model)
    return Int8(placement=placement).lower(model, ranges), ranges


EVERY = {**{kind: body for kind, (body, _) in MOVES.items()}, **STAYS}


@pytest.mark.parametrize("kind", EVERY)
def test_every_tensor_keeps_its_name_and_its_values(kind: str) -> None:
    model = graph(EVERY[kind] + END, {**W, "k": np.ones((1, 8, 6, 6), np.float32)})
    lowering, _ = lowered(model)
    written, x = lowering.model, noise(model)[:1]
    assert not list(quarrels(written))
    assert not refusals(written)
    names = [str(name) for node in model.graph.node for name in node.output]
    expected = dict(zip(names, run(model, names, x), strict=True))
    for name, found in zip(names, run(written, names, x), strict=True):
        scale = np.abs(expected[name]).max()
        assert np.abs(found - expected[name]).max() <= lowering.bound * scale, name
    assert lowering.facts["moved_tensors"] == sum(
        name in WIDE.plan(model).groups for name in moved(model)
    )


def run(model: onnx.ModelProto, names: list[str], x: np.ndarray) -> list[np.ndarray]:
    spelled = copy.deepcopy(model)
    for node in spelled.graph.node:  # before onnx 1.23 the evaluator pads where VALID says not to
        for attribute in node.attribute:
            if attribute.s == b"VALID":
                attribute.s = b"NOTSET"
    found = ReferenceEvaluator(spelled).run(names, {"input": x})
    return [np.asarray(value, np.float64) for value in found]


@pytest.mark.parametrize("kind", MOVES)
def test_what_puts_a_shift_back_is_read_by_nothing_that_is_read(kind: str) -> None:
    """An engine that drops what nobody reads drops all of it, and the ReLUs with it."""
    written = lowered(graph(MOVES[kind][0] + END))[0].model
    assert any(node.name.endswith(RESTORED) for node in written.graph.node)
    alive, kept = {"output"}, []
    for node in reversed(written.graph.node):
        if not alive.isdisjoint(node.output):
            alive.update(node.input)
            kept.append(node)
    assert not [node.name for node in kept if node.name.endswith(RESTORED)]
    assert not [node.name for node in kept if node.op_type == "Relu"]


def test_a_moved_grid_has_all_its_steps_above_zero() -> None:
    model = graph(START + f"m = MaxPool{POOL}(r1)\n e = Conv(m, v)\n" + END)
    lowering, ranges = lowered(model)
    anatomy, largest = Anatomy(lowering.model), ranges.tensors["r1"].maximum
    grid = anatomy.grid("r1")
    assert grid is not None
    assert grid.low == 0.0
    assert largest <= grid.high <= largest * (1 + 2**-10)
    assert anatomy.shift("r1") == 128 * grid.scale
    plain = Anatomy(lowered(model, replace(WIDE, shifts=False))[0].model)
    around = plain.grid("r1")
    assert around is not None
    assert around.scale == pytest.approx(grid.scale * 255 / 127, rel=2e-3)
    assert plain.shift("r1") == 0.0
    assert anatomy.grid("input") is None  # its quantisers stand behind it


def test_a_range_taken_for_a_grid_around_zero_gives_the_same_grid() -> None:
    model = graph(START + "e = Conv(r1, v)\n" + END)
    seen = observe_on(model)
    around = {name: replace(r, minimum=-r.max_abs) for name, r in seen.tensors.items()}
    wide = replace(seen, tensors=around)
    grids = [
        Anatomy(Int8(placement=WIDE).lower(model, ranges).model).grid("r1")
        for ranges in (seen, wide)
    ]
    assert grids[0] == grids[1]


def test_each_tensor_has_the_grid_that_its_range_is_chosen_for() -> None:
    model = graph(START + "e = Conv(r1, v)\n" + END)
    grids = Int8(placement=WIDE).grids(model)
    assert {name: str(grid) for name, grid in grids.items()} == {"input": "s8", "r1": "u8"}
    plain = Int8(placement=replace(WIDE, shifts=False)).grids(model)
    assert {str(grid) for grid in plain.values()} == {"s8"}


def test_finer_grids_tighten_the_bound() -> None:
    model = graph(START + "e = Conv(r1, v)\n" + END)
    bounds = [lowered(model, replace(WIDE, shifts=on))[0].bound for on in (True, False)]
    assert bounds[0] < bounds[1]
    # input, weights, moved, weights: 2, 2, 1 and 2 parts of 255 instead of four times 2
    coarse = 8 * 2 / 255
    assert bounds[1] - bounds[0] == pytest.approx(coarse * (np.sqrt(4) - np.sqrt(3.25)))


def test_a_bias_beyond_float16_stays_float32() -> None:
    # one channel reaches thousands and gives the grid its range; only the others are summed
    body = START + "e = Conv(r1, v)\n" + END
    first = weights_of(graph(body))["w1"].copy()
    first[0] *= 300
    second = np.full((8, 8, 1, 1), 5, np.float32)
    second[:, 0] = 0
    model = graph(body, {**W, "w1": first, "v": second})
    ranges = observe_on(model)
    assert ranges.tensors["r1"].maximum < 65504 / 8  # itself, float16 holds with headroom
    written = Int8(placement=WIDE).lower(model, ranges)
    carried = weights_of(written.model)["node.e.bias"]
    assert np.abs(carried).max() > 65504
    assert carried.dtype == np.float32
    assert any("carries a zero point" in refused.reason for refused in written.refused)


# what `locate` makes of it


def looked_at(
    model: onnx.ModelProto, written: onnx.ModelProto, ranges: Ranges | None = None
) -> Examined:
    precision, x = Int8(placement=WIDE), noise(model)
    return examine(
        "lower/int8",
        GraphTruth(CutGraph(model, "rewritten"), x),
        CutGraph(rounded(written), "model.onnx"),
        written,
        x,
        blocks=(),
        before=Before(Anatomy(model)),
        table=ranges,
        eight_bits=precision.confidence * precision.unit,
    )


@pytest.mark.parametrize("kind", MOVES)
def test_a_clean_graph_shows_nothing_and_every_tensor_is_compared(kind: str) -> None:
    model = graph(MOVES[kind][0] + END)
    lowering, ranges = lowered(model)
    found = looked_at(model, lowering.model, ranges)
    assert found.findings == ()
    tensors = {name for node in model.graph.node for name in node.output}
    assert {row.place.tensor for row in found.rows} == tensors
    assert not {row.place.node for row in found.rows} & {
        node.name for node in lowering.model.graph.node if node.name.endswith(RESTORED)
    }


def changed(model: onnx.ModelProto, name: str, values: np.ndarray) -> onnx.ModelProto:
    """With other values in an initialiser."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    (tensor,) = (t for t in copy.graph.initializer if t.name == name)
    before = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(values, before.dtype), name))
    return copy


JOINED = graph(MOVES["branches of a concatenation"][0] + END)


def test_a_clipped_range_of_a_moved_tensor_is_found() -> None:
    lowering, ranges = lowered(JOINED)
    scale = weights_of(lowering.model)["t:scale"]
    first = looked_at(JOINED, changed(lowering.model, "t:scale", scale / 3), ranges).findings[0]
    assert first.place.tensor == "t"
    assert first.place.node in ("node.t", "node.c1", "node.c2")
    assert any("clipped range" in cause for cause in first.causes)


def test_a_table_of_another_state_is_found() -> None:
    lowering, ranges = lowered(JOINED)
    tensors = dict(ranges.tensors)
    tensors["t"] = replace(tensors["t"], maximum=2 * tensors["t"].maximum)
    (finding,) = looked_at(JOINED, lowering.model, replace(ranges, tensors=tensors)).findings
    assert finding.place.tensor == "t"
    assert "calibration.json asks" in finding.said


@pytest.mark.parametrize("node", ["c1", "e"])
def test_a_bias_without_its_shift_is_found(node: str) -> None:
    lowering, _ = lowered(JOINED)
    own = weights_of(JOINED).get(f"b{node[-1]}", np.zeros(8))
    broken = changed(lowering.model, f"node.{node}.bias", own)
    assert looked_at(JOINED, broken).findings[0].place.node == f"node.{node}"


def test_swapped_branches_are_told_by_their_names() -> None:
    lowering, _ = lowered(JOINED)
    broken = onnx.ModelProto()
    broken.CopyFrom(lowering.model)
    (join,) = (node for node in broken.graph.node if node.op_type == "Concat")
    assert list(join.input) == [f"r1{MOVED}", f"r2{MOVED}"]
    join.input[:] = reversed(join.input)
    first = looked_at(JOINED, broken).findings[0]
    assert first.place.node == "node.t"
    assert any("another order" in cause for cause in first.causes)


def test_a_branch_far_smaller_than_its_grid_is_no_finding() -> None:
    """Half precision rounds what is stored, x − c, and c may be thousands of times x."""
    weights = {
        **W,
        "w2": np.float32(1e-4) * weights_of(JOINED)["w2"],
        "b2": np.zeros(8, np.float32),
    }
    model = graph(MOVES["branches of a concatenation"][0] + END, weights)
    assert looked_at(model, lowered(model)[0].model).findings == ()


def test_grids_are_compared_as_what_they_mean() -> None:
    assert Anatomy(lowered(JOINED)[0].model).grid("r1") is None  # only what they join in has one
    assert isinstance(Anatomy(lowered(JOINED)[0].model).grid("t"), Grid)
