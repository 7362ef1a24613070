"""Fewest casts: against brute force over all arrangements of random graphs."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from inception_deploy.lowering.islands import Wire, fewest_casts


def casts(wires: Sequence[Wire], high: Collection[Hashable]) -> int:
    """How many casts an arrangement takes: per tensor, one if any reader is on the other side."""
    return sum(any((r in high) != (w.writer in high) for r in w.readers) for w in wires)


def test_a_free_vertex_between_two_fp32_ones_joins_them() -> None:
    wires = [Wire("world", (0,)), Wire(0, (1,)), Wire(1, (2,)), Wire(2, ("world",))]
    assert fewest_casts(wires, {"world", 0, 2}, set()) == {"world", 0, 1, 2}


def test_of_two_minima_the_one_with_less_fp32_is_taken() -> None:
    wires = [Wire("world", (0,)), Wire(0, (1,)), Wire(1, (2,)), Wire(2, ("world",))]
    assert fewest_casts(wires, {"world"}, {1}) == {"world"}


def test_many_readers_of_one_tensor_cost_one_cast() -> None:
    # vertex 1 has three FP32 writers before it, and one tensor with three float16 readers after it
    wires = [Wire(w, (1,)) for w in ("x", "y", "z")] + [Wire(1, ("p", "q", "r"))]
    assert 1 in fewest_casts(wires, {"x", "y", "z"}, {"p", "q", "r"})


@st.composite
def networks(draw: st.DrawFn) -> tuple[list[Wire], set[int], set[int], list[int]]:
    size = draw(st.integers(2, 7))
    wires = [
        Wire(writer, tuple(draw(st.sets(st.integers(writer + 1, size), max_size=3))))
        for writer in range(size)
    ]
    side = {v: draw(st.sampled_from(["high", "low", "free"])) for v in range(size + 1)}
    pick = {kind: [v for v, s in side.items() if s == kind] for kind in ("high", "low", "free")}
    return wires, set(pick["high"]), set(pick["low"]), pick["free"]


@given(networks())
def test_no_arrangement_has_fewer_casts_or_as_many_with_less_fp32(
    network: tuple[list[Wire], set[int], set[int], list[int]],
) -> None:
    wires, high, low, free = network
    found = fewest_casts(wires, high, low)
    assert high <= found
    assert not found & low
    every = []
    for choice in product([False, True], repeat=len(free)):
        side = high | {v for v, chosen in zip(free, choice, strict=True) if chosen}
        every.append((casts(wires, side), len(side)))
    assert (casts(wires, found), len(found)) == min(every)
