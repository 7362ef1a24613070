"""Which channels go together, in graphs where it can be seen."""

from __future__ import annotations

import pytest
from small_graphs import build

from inception_deploy.channel_groups import FIXED, channel_groups

FIRST = "a = Conv(input, w, b)\n"
"""Six channels of the input's four."""

WEIGHTS = {"w": (6, 4, 1, 1), "b": (6,), "v": (5, 6, 1, 1), "u": (6, 4, 1, 1), "c": (1, 6, 1, 1)}


def groups_of(body: str, outputs: tuple[str, ...] = ("output",)) -> dict[str, list[int]]:
    found = channel_groups(build(body, WEIGHTS, outputs=outputs))
    return {name: groups.tolist() for name, groups in found.items()}


def fixed(groups: list[int]) -> bool:
    return set(groups) == {FIXED}


def test_what_stands_between_two_convolutions_is_free_channel_by_channel() -> None:
    found = groups_of(FIRST + "r = Relu(a)\n m = MaxPool<kernel_shape = [2, 2]>(r)\n"
                      "output = Conv(m, v)")  # fmt: skip
    assert found["a"] == found["r"] == found["m"]
    assert len(set(found["a"])) == 6
    assert FIXED not in found["a"]


def test_what_enters_and_leaves_a_graph_is_fixed() -> None:
    found = groups_of(FIRST + "output = Relu(a)")
    assert fixed(found["input"])
    assert fixed(found["output"])
    assert fixed(found["a"])


def test_a_sum_ties_both_sides_and_what_comes_before() -> None:
    found = groups_of(FIRST + "d = Conv(input, u)\n r = Relu(d)\n s = Add(a, r)\n"
                      "output = Conv(s, v)")  # fmt: skip
    assert found["a"] == found["r"] == found["d"] == found["s"]
    assert not fixed(found["s"])


def test_a_sum_with_what_is_fixed_fixes() -> None:
    found = groups_of(FIRST + "d = Conv(input, u)\n s = Add(a, d)\n g = Gelu(d)\n"
                      "output = Conv(s, v)\n other = Conv(g, v)", ("output", "other"))  # fmt: skip
    assert fixed(found["a"])


def test_a_concatenation_and_a_split_hand_groups_on() -> None:
    found = groups_of(FIRST + "d = Conv(input, u)\n k = Concat<axis = 1>(a, d)\n"
                      "s, t = Split<axis = 1, num_outputs = 2>(k)\n"
                      "output = Conv(s, v)\n other = Conv(t, v)", ("output", "other"))  # fmt: skip
    assert found["k"] == found["a"] + found["d"]
    assert found["s"] == found["a"]
    assert found["t"] == found["d"]
    assert len(set(found["k"])) == 12


@pytest.mark.parametrize("step", ["Mul(a, c)", "Mul(c, a)", "Div(a, c)", "LeakyRelu(a)"])
def test_a_product_with_a_constant_hands_groups_on(step: str) -> None:
    found = groups_of(FIRST + f"s = {step}\n output = Conv(s, v)")
    assert found["s"] == found["a"]
    assert not fixed(found["a"])


@pytest.mark.parametrize(
    "step",
    ["Mul(a, a)", "Div(c, a)", "Add(a, c)", "Sigmoid(a)", "Gelu(a)", "Softmax(a)",
     "Concat<axis = 2>(a, a)", "Transpose<perm = [0, 1, 3, 2]>(a)"],
)  # fmt: skip
def test_what_is_not_proportional_to_its_channels_fixes_them(step: str) -> None:
    found = groups_of(FIRST + f"s = {step}\n output = Conv(s, v)")
    assert fixed(found["a"])
    assert fixed(found["s"])


def test_weights_that_are_computed_take_nothing_in() -> None:
    found = groups_of(FIRST + "n = Neg(v)\n output = Conv(a, n)")
    assert fixed(found["a"])
