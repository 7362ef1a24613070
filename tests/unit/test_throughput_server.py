"""The server scenario on a clock that only runners and sleeping move."""

from __future__ import annotations

import numpy as np
import pytest

from inception_deploy.errors import BadInput, StageError
from inception_deploy.throughput import Candidate
from inception_deploy.throughput.report import Row, ThroughputReport
from inception_deploy.throughput.server import measure_server, serve, verdict


class World:
    """Reading the clock takes a microsecond; runs take a fixed time and one per image."""

    def __init__(self) -> None:
        self.now = 50.0
        self.sizes: list[int] = []

    def clock(self) -> float:
        self.now += 1e-6
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds

    def runner(self, fixed: float, each: float):
        def run(inputs: np.ndarray) -> None:
            self.sizes.append(len(inputs))
            self.now += fixed + each * len(inputs)

        return run

    def candidate(self, name: str, fixed: float, each: float) -> Candidate:
        return Candidate(name, "graph", "fp32", self.runner(fixed, each), 0.5)

    def serve(self, fixed: float, each: float, arrivals: list[float], most: int = 8):
        inputs = np.zeros((most, 1), np.float32)
        times = np.asarray(arrivals, np.float64)
        return serve(self.runner(fixed, each), inputs, times, clock=self.clock, sleep=self.sleep)

    def measure(self, *candidates: Candidate, **options) -> ThroughputReport:
        return measure_server(
            candidates,
            lambda size: np.zeros((size, 1), np.float32),
            clock=self.clock,
            sleep=self.sleep,
            **options,
        )


def test_latency_counts_from_the_arrival() -> None:
    world = World()
    # one at a time: the second and the third wait for the first
    found = world.serve(0.1, 0.0, [1.0, 1.01, 1.02], most=1)
    assert list(found.latencies) == pytest.approx([0.1, 0.19, 0.28], abs=2e-3)
    assert found.batches == [1, 1, 1]
    assert found.busy == pytest.approx(0.3, abs=1e-3)
    assert found.seconds == pytest.approx(1.3, abs=2e-3)
    assert found.overruns(0.2) == 1


def test_what_waits_is_run_together_up_to_the_largest_batch() -> None:
    world = World()
    found = world.serve(0.1, 0.0, [1.0, *(1.01 + 0.001 * n for n in range(5))], most=4)
    assert found.batches == [1, 4, 1]
    assert world.sizes == [1, 4, 1]
    assert found.queries == 6


def test_a_hopeless_overload_is_given_up() -> None:
    world = World()
    arrivals = [0.01 * n for n in range(1, 101)]  # a second's worth; a run takes a second
    found = world.serve(1.0, 0.0, arrivals, most=1)
    assert found.unserved > 90
    assert found.queries == 100
    assert found.overruns(0.5) == 100
    assert world.now < 50 + 4


def test_no_overrun_is_valid_from_299_queries() -> None:
    assert verdict(0, 298) == "INCONCLUSIVE"
    assert verdict(0, 299) == "VALID"
    assert verdict(30, 1000) == "INVALID"
    assert verdict(10, 1000) == "INCONCLUSIVE"


def only(report: ThroughputReport) -> Row:
    (row,) = report.rows
    assert row.server is not None
    return row


def test_the_rate_as_asked() -> None:
    world = World()
    row = only(world.measure(world.candidate("a", 0.001, 0.001), bound=0.1, rate=100, seconds=20))
    assert row.server is not None
    assert (row.scenario, row.batch, row.server.verdict) == ("server", 8, "VALID")
    assert row.server.searched is False
    assert row.server.offered_qps == 100
    assert row.queries_per_second == pytest.approx(100, rel=0.05)
    assert row.runs == pytest.approx(2000, rel=0.1)
    assert row.latency_ms.min == pytest.approx(2, abs=0.1)
    assert 0.15 < row.server.busy < 0.25
    assert row.distribution is not None
    assert sum(row.distribution.counts) + row.distribution.beyond == row.runs


def test_too_high_a_rate_is_invalid() -> None:
    world = World()
    report = world.measure(
        world.candidate("a", 0.0, 0.02), bound=0.05, rate=200, batch=1, seconds=5
    )
    row = only(report)
    assert row.server is not None
    assert row.server.verdict == "INVALID"
    assert any("overloaded at 200 queries/s" in line for line in report.warnings)


def test_the_highest_rate_is_found_for_each() -> None:
    world = World()
    # at one image a run of 10 ms and 5 ms: 100 and 200 a second at the very most
    slow, fast = world.candidate("slow", 0.0, 0.01), world.candidate("fast", 0.0, 0.005)
    report = world.measure(slow, fast, bound=0.05, batch=1, seconds=30)
    rates = {row.engine: row.server.offered_qps for row in report.rows if row.server}
    for row in report.rows:
        assert row.server is not None
        assert row.server.searched
        assert row.server.verdict in ("VALID", "INCONCLUSIVE")
        assert row.latency_ms.p99 < 60
    # queueing theory (M/D/1) puts them below the capacity, not far
    assert 40 < rates["slow"] < 100
    assert 100 < rates["fast"] < 200
    assert report.load_seconds == {"slow:graph": 0.5, "fast:graph": 0.5}


def test_a_bound_below_the_latency_says_so() -> None:
    world = World()
    report = world.measure(world.candidate("a", 0.0, 0.02), bound=0.01, batch=1, seconds=2)
    assert only(report).server is not None
    assert any("no rate holds 10 ms" in line for line in report.warnings)


def test_every_batch_size_is_met_before_it_counts() -> None:
    world = World()
    world.measure(world.candidate("a", 0.001, 0.0), bound=0.1, rate=10, batch=4, seconds=1)
    assert set(world.sizes[:9]) == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bound": 0.0}, "latency bound"),
        ({"bound": 0.1, "rate": 0.0}, "queries per second"),
        ({"bound": 0.1, "batch": 0}, "batch sizes"),
        ({"bound": 0.1, "seconds": 0.0}, "time to measure"),
    ],
)
def test_impossible_requests(options, said: str) -> None:
    world = World()
    with pytest.raises(BadInput, match=said):
        world.measure(world.candidate("a", 0.001, 0.0), **options)


def test_a_failing_candidate_is_named() -> None:
    def run(inputs: np.ndarray) -> None:
        if len(inputs) == 3:
            raise RuntimeError("three is too many")

    world = World()
    with pytest.raises(StageError, match="bad:graph failed at batch 4: three is too many"):
        world.measure(Candidate("bad", "graph", "fp32", run), bound=0.1, rate=5, batch=4)


def test_the_report_comes_back_from_json() -> None:
    world = World()
    report = world.measure(world.candidate("a", 0.001, 0.0), bound=0.1, rate=50, seconds=2)
    assert ThroughputReport.from_dict(report.to_dict()) == report
