"""The harness with a clock that only runners move, and once with the real clock and no work."""

from __future__ import annotations

import gc
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from inception_deploy.errors import BadInput, BundleError, StageError
from inception_deploy.throughput import Candidate, ThroughputReport, harness, measure, turns


class World:
    """A clock, and runners that take the time they are told to; every run is written down."""

    def __init__(self) -> None:
        self.now = 100.0
        self.log: list[tuple[str, int]] = []

    def clock(self) -> float:
        return self.now

    def candidate(self, name: str, *seconds: float, load: float | None = None) -> Candidate:
        """Takes `seconds` in turn, then the last of them for ever."""
        left: Iterator[float] = iter(seconds)

        def run(inputs: np.ndarray) -> None:
            self.log.append((name, len(inputs)))
            self.now += next(left, seconds[-1]) * len(inputs)

        return Candidate(name, "graph", "fp32", run, load)

    def measure(self, *candidates: Candidate, batches=(1,), seconds=1.0, **options):
        return measure(
            candidates,
            lambda size: np.zeros((size, 3, 2, 2), np.float32),
            batches=batches,
            seconds=seconds,
            clock=self.clock,
            **options,
        )


# ---------------------------------------------------------------- figures


def test_figures_are_exact_for_constant_latency():
    world = World()
    found = world.measure(world.candidate("a", 0.04), world.candidate("b", 0.01), batches=(1, 2))
    by = {(row.engine, row.batch): row for row in found.rows}
    assert list(by) == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    row = by["b", 2]
    assert row.images_per_second == pytest.approx(100)
    assert row.queries_per_second == pytest.approx(50)
    assert row.sustained_images_per_second == pytest.approx(100)
    assert row.latency_ms.to_dict() == pytest.approx(dict.fromkeys(row.latency_ms.to_dict(), 20.0))
    assert row.cov == pytest.approx(0, abs=1e-9)
    assert found.warnings == ()
    for ratio in found.ratios:
        assert (ratio.candidate, ratio.baseline) == ("b:graph", "a:graph")
        assert (ratio.ratio, *ratio.ci95) == pytest.approx((4, 4, 4))
    assert [ratio.batch for ratio in found.ratios] == [1, 2]


def test_outlier_shows_in_the_sustained_throughput_but_not_in_the_typical():
    world = World()
    slow = [0.05] * 100
    slow[40] = 0.55
    (row,) = world.measure(world.candidate("a", *slow), seconds=5).rows
    assert row.latency_ms.median == pytest.approx(50)
    assert row.latency_ms.max == pytest.approx(550)
    assert row.images_per_second == row.queries_per_second == pytest.approx(20)
    sustained = row.runs / (0.05 * row.runs + 0.5)
    assert row.sustained_images_per_second == pytest.approx(sustained)


def test_baseline_can_be_chosen():
    world = World()
    found = world.measure(
        world.candidate("a", 0.04),
        world.candidate("b", 0.01),
        world.candidate("c", 0.02),
        baseline="c:graph",
    )
    assert {ratio.candidate: ratio.ratio for ratio in found.ratios} == pytest.approx(
        {"a:graph": 0.5, "b:graph": 2.0}
    )


def test_first_run_is_told_apart():
    world = World()
    (row,) = world.measure(world.candidate("a", 3.0, 0.02)).rows
    assert row.first_ms == pytest.approx(3000)
    assert row.latency_ms.max == pytest.approx(20)


def test_load_times_are_those_that_are_known():
    world = World()
    found = world.measure(world.candidate("a", 0.04, load=1.5), world.candidate("b", 0.01))
    assert found.load_seconds == {"a:graph": 1.5}


# ---------------------------------------------------------------- the order of runs


def test_blocks_alternate_and_the_order_rotates():
    world = World()
    names = ["a", "b", "c"]
    # all take 50 ms: blocks of max(3, 100 / 50) = 3 timed runs after an untimed one
    report = world.measure(*(world.candidate(name, 0.05) for name in names), seconds=1.15)
    assert {row.rounds for row in report.rows} == {6}
    assert {row.runs for row in report.rows} == {18}
    timed = [name for name, _ in world.log][-6 * 3 * 4 :]
    order = [timed[i] for i in range(0, len(timed), 4)]
    assert all(len(set(timed[i : i + 4])) == 1 for i in range(0, len(timed), 4))
    assert order == [*"abc", *"cba", *"bca", *"acb", *"cab", *"bac"]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_every_candidate_has_every_place_and_follows_every_other_as_often(count):
    rounds = [turns.order(range(count), done) for done in range(2 * count)]
    for place in range(count):
        taken = [found[place] for found in rounds]
        assert all(taken.count(item) == 2 for item in range(count))
    follows = [pair for found in rounds for pair in itertools.pairwise(found)]
    assert all(follows.count(pair) == follows.count(pair[::-1]) > 0 for pair in follows)


def test_first_run_of_every_block_is_not_timed():
    world = World()

    def run(inputs):
        # after a switch of engines the first run takes ten times as long
        switched = not world.log or world.log[-1][0] != "cold"
        world.log.append(("cold", 1))
        world.now += 0.5 if switched else 0.05

    cold = Candidate("cold", "graph", "fp32", run)
    found = world.measure(cold, world.candidate("other", 0.05), seconds=3)
    row = found.rows[0]
    assert row.latency_ms.max == pytest.approx(50)
    assert row.runs == 3 * row.rounds


@pytest.mark.parametrize(
    ("seconds", "runs"), [(2.0, 3), (0.05, 3), (0.02, 5), (0.001, 100), (1e-5, 1000)]
)
def test_runs_per_block_follow_from_the_latency(seconds, runs):
    world = World()
    (row,) = world.measure(world.candidate("a", seconds), seconds=0.5).rows
    assert row.runs == runs * row.rounds


def test_measuring_lasts_as_long_as_asked_and_at_least_five_rounds():
    world = World()
    (row,) = world.measure(world.candidate("a", 0.02), seconds=3).rows
    assert row.rounds == pytest.approx(3 / (6 * 0.02), abs=1)
    world = World()
    (row,) = world.measure(world.candidate("a", 1.0), seconds=0.1).rows
    assert row.rounds == 5


def test_every_batch_size_is_made_once_and_shared():
    world = World()
    made: list[int] = []
    seen: dict[str, set[int]] = {"a": set(), "b": set()}

    def make_batch(size):
        made.append(size)
        return np.zeros((size, 3, 2, 2), np.float32)

    def runner(name):
        def run(inputs):
            seen[name].add(id(inputs))
            world.now += 0.05

        return Candidate(name, "graph", "fp32", run)

    measure([runner("a"), runner("b")], make_batch, batches=(4, 2), seconds=0.1, clock=world.clock)
    assert made == [4, 2]
    assert seen["a"] == seen["b"]


# ---------------------------------------------------------------- layouts in memory


class Memory:
    """Sessions on one graph, each as slow as the place where it lies: the first place is worst."""

    def __init__(self, world: World, *places: float, load: float = 0.01) -> None:
        self.world, self.places, self.load_seconds = world, places, load
        self.loaded: list[str] = []
        self.loads: list[str] = []

    def candidate(self, name: str, seconds: float, *, again: bool = True) -> Candidate:
        """Takes `seconds`, and the share of its place on top."""
        memory, world = self, self.world

        class Fake:
            place = 0

            def load(self) -> None:
                self.place = len(memory.loaded)
                memory.loaded.append(name)
                memory.loads.append(name)
                world.now += memory.load_seconds

            def close(self) -> None:
                memory.loaded.remove(name)

        session = Fake()
        session.load()

        def run(inputs: np.ndarray) -> None:
            assert name in memory.loaded
            world.log.append((name, len(inputs)))
            world.now += seconds * (1 + memory.places[session.place])

        kept = (session,) if again else ()
        return Candidate(name, "graph", "fp32", run, self.load_seconds, sessions=kept)


def test_what_was_loaded_first_has_no_part_in_the_ratio():
    for again, ratio, layouts in ((True, 1.0, 4), (False, 1.02, 1)):
        world = World()
        memory = Memory(world, 0.02, 0.0)
        pair = [memory.candidate(name, 0.01, again=again) for name in "ab"]
        found = world.measure(*pair, seconds=2)
        assert found.ratios[0].ratio == pytest.approx(ratio)
        assert {row.layouts for row in found.rows} == {layouts}
        assert memory.loads == [*"ab", *("ba" * again), *("ab" * again), *("ba" * again)]
        assert sum(row.runs * 0.0101 for row in found.rows) == pytest.approx(4, rel=0.15)
        interval = found.ratios[0].ci95
        # and its interval owns up to the places
        assert interval == pytest.approx((1 / 1.02, 1.02) if again else (1.02, 1.02))


def test_a_layout_is_warmed_up_before_it_is_timed():
    world = World()
    runs: list[float] = []

    class Cold:
        def load(self) -> None:
            runs.clear()

        def close(self) -> None:
            pass

    def run(inputs: np.ndarray) -> None:
        runs.append(0.05 if len(runs) < 3 else 0.01)
        world.now += runs[-1]

    cold = Candidate("cold", "graph", "fp32", run, 0.01, sessions=(Cold(),))
    found = world.measure(cold, world.candidate("other", 0.01), seconds=2)
    assert found.rows[0].layouts == 4
    assert found.rows[0].latency_ms.max == pytest.approx(10)
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("seconds", "load", "layouts", "rounds"),
    [
        (0.01, 0.1, 4, 20),
        (0.01, 0.4, 2, 20),  # loading twice four times would take longer than half of 4 s
        (0.01, 2.0, 1, 20),
        (0.4, 0.1, 2, 5),  # five rounds are too few for four layouts
        (9.0, 0.1, 1, 5),
    ],
)
def test_layouts_are_as_many_as_there_is_time_for(seconds, load, layouts, rounds):
    world = World()
    memory = Memory(world, 0.0, 0.0, load=load)
    found = world.measure(*(memory.candidate(name, seconds) for name in "ab"), seconds=2)
    assert {row.layouts for row in found.rows} == {layouts}
    assert all(abs(row.rounds - rounds) <= 2 for row in found.rows)
    assert len(memory.loads) == 2 * layouts


@pytest.mark.parametrize("stall", [1.2, 2.1, 30.0])
def test_a_stall_takes_no_layout_its_rounds(stall):
    """A busy machine: the time of the layouts to come is spent when the first one ends."""
    world = World()
    memory = Memory(world, 0.0, 0.0)
    pair = [memory.candidate(name, 0.01) for name in "ab"]
    stalled, once = pair[1].run, [stall]

    def run(inputs: np.ndarray) -> None:
        stalled(inputs)
        if len(world.log) > 200 and once:
            world.now += once.pop()

    found = world.measure(pair[0], replace(pair[1], run=run), seconds=2)
    assert not once
    assert {row.layouts for row in found.rows} == {4}
    assert all(row.rounds >= 4 * turns.LAYOUT_ROUNDS for row in found.rows)
    assert found.ratios[0].ratio == pytest.approx(1)


# ---------------------------------------------------------------- warm-up and noise


def test_warm_up_lasts_until_steady():
    world = World()
    # halves with every run down to 10 ms, as a JIT does
    falling = [max(0.64 / 2**k, 0.01) for k in range(12)]
    found = world.measure(world.candidate("a", *falling))
    assert found.rows[0].latency_ms.max == pytest.approx(10)
    assert found.warnings == ()


def test_warm_up_that_never_settles_is_given_up_with_a_warning():
    world = World()
    rising = [0.01 * 1.1**k for k in range(200)]
    found = world.measure(world.candidate("a", *rising), seconds=0.1)
    assert any("a:graph at batch 1: not steady after 5 s" in line for line in found.warnings)


def test_slow_candidate_is_not_warmed_up_for_ever():
    world = World()
    found = world.measure(world.candidate("a", 6.0), seconds=1)
    assert len(world.log) == 1 + 5 * 4
    assert found.warnings == ()


def test_noise_is_warned_of():
    world = World()
    found = world.measure(world.candidate("a", *([0.02, 0.02, 0.04] * 100)), seconds=1)
    (line,) = found.warnings
    assert "a:graph at batch 1: latency varies by 35.0%" in line


def test_garbage_collection_is_off_meanwhile_and_on_again():
    world = World()
    states = []

    def run(inputs):
        states.append(gc.isenabled())
        world.now += 0.05

    world.measure(Candidate("a", "graph", "fp32", run))
    assert not any(states)
    assert gc.isenabled()


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "MemoryError"),
        (RuntimeError("CUDA out of memory.\nTried to allocate 2 GiB"), "CUDA out of memory."),
    ],
)
def test_failing_candidate_is_named(error, said):
    world = World()

    def run(inputs):
        if len(inputs) == 8:
            raise error
        world.now += 0.05

    bad = Candidate("bad", "model.onnx", "fp16", run)
    with pytest.raises(StageError, match=rf"^bad:model\.onnx failed at batch 8: {said}; try a s"):
        world.measure(world.candidate("good", 0.05), bad, batches=(1, 8))
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batches": ()}, "batch sizes"),
        ({"batches": (0,)}, "batch sizes"),
        ({"batches": (2, 2)}, "batch sizes"),
        ({"seconds": 0}, "time to measure"),
        ({"seconds": float("nan")}, "time to measure"),
        ({"baseline": "b:graph"}, "no candidate 'b:graph' to compare with; known: a:graph"),
    ],
)
def test_impossible_requests(options, message):
    world = World()
    with pytest.raises(BadInput, match=message):
        world.measure(world.candidate("a", 0.05), **options)


def test_nothing_to_measure():
    with pytest.raises(BadInput, match="nothing to measure"):
        World().measure()


def test_two_of_one_name():
    world = World()
    with pytest.raises(BadInput, match="two candidates are called 'a:graph'"):
        world.measure(world.candidate("a", 0.05), world.candidate("a", 0.05))


def test_batch_of_another_size():
    world = World()
    with pytest.raises(BadInput, match="asked for a batch of 4 images, got 3"):
        measure([world.candidate("a", 0.05)], lambda size: np.zeros((3, 1)), batches=(4,))


# ---------------------------------------------------------------- the file, and the real clock


def test_round_trip_through_json():
    world = World()
    found = world.measure(world.candidate("a", 0.04, load=0.5), world.candidate("b", 0.02, 0.03))
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert ThroughputReport.from_dict(json.loads(text)) == found


def damaged():
    world = World()
    good = world.measure(world.candidate("a", 0.04), world.candidate("b", 0.02)).to_dict()
    yield "schema", {**good, "schema": 0}
    yield "rows", {**good, "rows": [{"engine": "a"}]}
    yield "ratios", {**good, "ratios": [{**good["ratios"][0], "ci95": [1.0]}]}
    yield "machine", {**good, "machine": {"cpu": "x"}}
    yield "missing", {name: value for name, value in good.items() if name != "warnings"}


@pytest.mark.parametrize("values", [v for _, v in damaged()], ids=[name for name, _ in damaged()])
def test_reading_a_damaged_report(values):
    with pytest.raises(BundleError, match=r"throughput\.json"):
        ThroughputReport.from_dict(values)


def test_harness_costs_less_than_20_microseconds_per_query():
    null = Candidate("null", "none", "none", lambda inputs: None)
    found = measure(
        [null], lambda size: np.zeros((size, 3, 8, 8), np.float32), batches=(1,), seconds=0.05
    )
    assert found.rows[0].latency_ms.median < 0.02
    assert found.rows[0].runs >= 5 * harness.BLOCK_RUNS[1]


def test_ratios_are_of_the_pairs_asked_for():
    world = World()
    three = [world.candidate("a", 0.04), world.candidate("b", 0.02), world.candidate("c", 0.01)]
    key = {c.engine: c.key for c in three}
    found = world.measure(*three, pairs=[(key["c"], key["b"]), (key["b"], key["a"])])
    assert [(r.candidate, r.baseline, r.ratio) for r in found.ratios] == [
        (key["c"], key["b"], pytest.approx(2.0)),
        (key["b"], key["a"], pytest.approx(2.0)),
    ]
    with pytest.raises(BadInput, match="no candidate 'd' to compare"):
        world.measure(*three, pairs=[("d", key["a"])])
