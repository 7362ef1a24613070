"""Where OpenVINO's quantisers stand, and where they do not."""

from __future__ import annotations

from small_graphs import build

from inception_deploy.placements import PLACEMENTS

PLACEMENT = PLACEMENTS.get("openvino")


def test_what_only_moves_values_gets_no_quantiser_behind_it() -> None:
    model = build(
        """
        a = Conv(input, w)
        b = Conv(input, w)
        m = MaxPool<kernel_shape=[2,2]>(a)
        n = MaxPool<kernel_shape=[2,2]>(b)
        t = Concat<axis=1>(m, n)
        c = Conv(t, v)
        output = Softmax(c)
        """,
        {"w": (8, 4, 3, 3), "v": (8, 16, 1, 1)},
    )
    plan = PLACEMENT.plan(model)
    assert plan.nodes == ("node.a", "node.b", "node.m", "node.n", "node.t", "node.c")
    assert list(plan.groups) == ["input", "a", "b", "c"]
    assert plan.groups["a"] == plan.groups["b"]  # they meet on one grid in the Concat
    assert len({plan.groups[name] for name in ("input", "a", "c")}) == 3


def test_a_pool_of_float_values_stays_float_and_is_quantised_behind() -> None:
    model = build(
        "e = Exp(input)\n m = MaxPool<kernel_shape=[2,2]>(e)\nc = Conv(m, w)\n output = Softmax(c)",
        {"w": (8, 4, 3, 3)},
    )
    plan = PLACEMENT.plan(model)
    assert plan.nodes == ("node.c",)
    assert list(plan.groups) == ["m", "c"]
    assert "'e' is computed in float" in plan.refused[0].reason


def test_an_epilogue_is_computed_before_the_rounding() -> None:
    for activation in ("Relu", "Gelu"):
        model = build(
            f"a = Conv(input, w)\n r = {activation}(a)\n c = Conv(r, v)\n output = Softmax(c)",
            {"w": (8, 4, 3, 3), "v": (8, 8, 1, 1)},
        )
        assert list(PLACEMENT.plan(model).groups) == ["input", "r", "c"]


def test_an_activation_with_a_second_reader_of_its_input_is_no_epilogue() -> None:
    model = build(
        "a = Conv(input, w)\n r = Relu(a)\n s = Add(a, r)\n c = Conv(s, v)\n output = Softmax(c)",
        {"w": (8, 4, 3, 3), "v": (8, 8, 1, 1)},
    )
    assert list(PLACEMENT.plan(model).groups)[:2] == ["input", "a"]
