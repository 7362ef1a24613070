"""The server scenario: single images arrive at random, and 99 % must be done within a bound.

Latency counts from the scheduled arrival, not from when the engine got round to it, so that a slow
engine cannot slow its own load down ("coordinated omission"). What waits when the engine becomes
free is run together, up to the largest batch. As the schedule is drawn beforehand, one thread is
both the load and the server: nothing else competes with the engine for the processor.

The rule is MLPerf's for image classification (Reddi et al., ISCA 2020, table III): the 99th
percentile keeps the bound. Runs are short here, so the verdict is a test, not a comparison of two
numbers, and says when there were too few queries.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inception_deploy.errors import BadInput
from inception_deploy.machine import clocks, describe, library_versions
from inception_deploy.progress import Progress, SilentProgress
from inception_deploy.throughput.arrivals import poisson_arrivals
from inception_deploy.throughput.harness import checked_keys, no_garbage_collection
from inception_deploy.throughput.latency import distribution, outliers, summarise
from inception_deploy.throughput.null import harness_seconds
from inception_deploy.throughput.report import Row, ServerFacts, ThroughputReport, Verdict
from inception_deploy.throughput.trial import Candidate

__all__ = ["OVERRUNS", "Served", "measure_server", "serve", "verdict"]

OVERRUNS = 0.01
"""Share of the queries that may be slower than the bound."""

LEVEL = 0.05
SEARCH_STEPS = 7
"""Halvings of the range of rates: the result is within 1 % of the engine's capacity."""
ATTEMPTS = 4
STEP_BACK = 0.85
"""A rate that was found in short trials and does not hold in the measurement is lowered by this."""
ROUNDS = 4
"""Parts of the final measurement, in which the candidates take turns."""
GIVE_UP = 2.0
"""A segment is given up when it lasts so many times as long as its arrivals."""

_SPIN = 0.001
"""Seconds before an arrival in which the clock is watched instead of slept."""


@dataclass
class Served:
    """What became of the queries of one segment, or of several.

    Args:
        latencies: seconds from arrival to completion, of those that were served.
        batches: images run together, one entry per run.
        unserved: queries that were given up; they count as overruns.
        busy, seconds: in the engine, and in all.
    """

    latencies: array[float] = field(default_factory=lambda: array("d"))
    batches: list[int] = field(default_factory=list)
    unserved: int = 0
    busy: float = 0.0
    seconds: float = 0.0

    def add(self, other: Served) -> None:
        self.latencies.extend(other.latencies)
        self.batches += other.batches
        self.unserved += other.unserved
        self.busy += other.busy
        self.seconds += other.seconds

    def overruns(self, bound: float) -> int:
        """Queries slower than `bound` seconds, those given up among them."""
        return self.unserved + sum(1 for latency in self.latencies if latency > bound)

    @property
    def queries(self) -> int:
        return len(self.latencies) + self.unserved


@dataclass
class _Contender:
    candidate: Candidate
    inputs: NDArray[Any]
    capacity: float
    low: float = 0.0
    high: float = math.inf
    rate: float = 0.0
    first: float = math.nan
    served: Served = field(default_factory=Served)

    def verdict(self, bound: float) -> Verdict:
        return verdict(self.served.overruns(bound), self.served.queries)


def serve(
    run: Callable[[NDArray[Any]], object],
    inputs: NDArray[Any],
    arrivals: NDArray[np.float64],
    *,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Served:
    """Serve queries of one image that arrive at `arrivals` seconds from now.

    Args:
        inputs: the largest batch; the first k of it are run where k queries wait.
        arrivals: ascending.
    """
    found = Served()
    most, count = len(inputs), len(arrivals)
    limit = GIVE_UP * float(arrivals[-1]) if count else 0.0
    started, done = clock(), 0
    while done < count:
        now = clock() - started
        if now < arrivals[done]:
            left = float(arrivals[done]) - now
            if left > _SPIN:
                sleep(left - _SPIN)
            continue
        if now > limit and done:
            found.unserved = count - done
            break
        waiting = int(np.searchsorted(arrivals, now, side="right")) - done
        size = min(waiting, most)
        run(inputs[:size])
        finished = clock() - started
        found.busy += finished - now
        found.batches.append(size)
        found.latencies.extend(finished - arrivals[done : done + size])
        done += size
    found.seconds = clock() - started
    return found


def verdict(overruns: int, queries: int) -> Verdict:
    """Whether at most 1 % of all queries overrun: a one-sided exact binomial test each way, 5 %.

    Without a single overrun, 299 queries are enough for VALID.
    """
    at_most = math.fsum(_binomial(k, queries) for k in range(overruns + 1))
    if at_most <= LEVEL:
        return "VALID"
    at_least = 1 - math.fsum(_binomial(k, queries) for k in range(overruns))
    return "INVALID" if at_least <= LEVEL else "INCONCLUSIVE"


def _binomial(k: int, n: int) -> float:
    """P(k of n overrun) where 1 % do in the long run."""
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(ways + k * math.log(OVERRUNS) + (n - k) * math.log1p(-OVERRUNS))


def measure_server(
    candidates: Sequence[Candidate],
    make_batch: Callable[[int], NDArray[Any]],
    *,
    bound: float,
    rate: float | None = None,
    batch: int = 8,
    seconds: float = 10.0,
    seed: int = 0,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> ThroughputReport:
    """Serve the same arrivals with every candidate, taking turns.

    Without a `rate`, the highest that holds the bound is sought first, for each candidate: the
    range from 0 to what it can do at all is halved `SEARCH_STEPS` times.

    Args:
        bound: seconds within which 99 % of the queries must be done.
        rate: queries per second.
        batch: the most images that are run together.
        seconds: of arrivals per candidate in the measurement, and about as many in the search.
        seed: of the arrivals.

    Raises:
        BadInput: no candidates, a bound, rate, batch or length that is not above 0.
        StageError: a candidate failed.
    """
    checked_keys(candidates, (batch,), seconds)
    if not (math.isfinite(bound) and bound > 0):
        raise BadInput(f"the latency bound must be above 0, not {1e3 * bound:g} ms")
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise BadInput(f"queries per second must be above 0, not {rate:g}")
    listener = progress or SilentProgress()
    before, harness = clocks(), harness_seconds(clock)
    with no_garbage_collection():
        with listener.stage(f"warming up, batches of 1 to {batch}"):
            contenders = [_warmed(c, batch, make_batch, clock) for c in candidates]
        if rate is None:
            steps = range(SEARCH_STEPS)
            for step in listener.track(steps, "looking for the highest rate", SEARCH_STEPS):
                for one in contenders:
                    _halve(one, bound, seconds / SEARCH_STEPS, (seed, step), clock, sleep)
        for one in contenders:
            # where nothing held, a twentieth of the capacity shows by how much
            one.rate = rate or one.low or 0.05 * one.capacity
        left = contenders
        for attempt in range(1 if rate else ATTEMPTS):
            for part in listener.track(range(ROUNDS), "serving", ROUNDS):
                first = part % len(left)
                for one in (*left[first:], *left[:first]):
                    seeds = (seed, SEARCH_STEPS + ROUNDS * attempt + part)
                    times = _arrivals(one.rate, seconds / ROUNDS, seeds)
                    one.served.add(_served(one, times, clock, sleep))
            left = [one for one in left if one.low and one.verdict(bound) == "INVALID"]
            if not left:
                break
            if attempt < ATTEMPTS - 1:
                for one in left:
                    one.rate, one.served = STEP_BACK * one.rate, Served()
    rows = [_row(one, bound, batch, rate is None, harness) for one in contenders]
    return ThroughputReport(
        machine=describe(),
        versions=library_versions(),
        rows=tuple(rows),
        ratios=(),
        load_seconds={c.key: c.load_seconds for c in candidates if c.load_seconds is not None},
        warnings=tuple(
            line for one, row in zip(contenders, rows, strict=True) for line in _says(one, row)
        ),
        harness_us=1e6 * harness,
        clocks={"before": before, "after": clocks()},
        energy="not measured: an idle server spends energy that no query can be charged with",
    )


def _arrivals(rate: float, seconds: float, seeds: tuple[int, int]) -> NDArray[np.float64]:
    """The same for every candidate at one rate; at least one query."""
    times = poisson_arrivals(rate, seconds, seeds[0] * 1000 + seeds[1])
    return times if len(times) else np.zeros(1)


def _warmed(
    candidate: Candidate,
    batch: int,
    make_batch: Callable[[int], NDArray[Any]],
    clock: Callable[[], float],
) -> _Contender:
    """Every batch size run, so that none is met for the first time later; the capacity known."""
    inputs = candidate.batch(batch, make_batch)
    with candidate.running(batch):
        started = clock()
        candidate.run(inputs[:1])
        first = clock() - started
        for size in range(1, batch + 1):
            for _ in range(2):
                candidate.run(inputs[:size])
        rates = []
        for size in {1, batch}:
            runs = []
            for _ in range(5):
                started = clock()
                candidate.run(inputs[:size])
                runs.append(clock() - started)
            rates.append(size / max(float(np.median(runs)), 1e-9))
    return _Contender(candidate, inputs, max(rates), high=max(rates), first=first)


def _served(
    one: _Contender,
    arrivals: NDArray[np.float64],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Served:
    with one.candidate.running(len(one.inputs)):
        one.candidate.run(one.inputs[:1])  # untimed: another engine has just had the processor
        return serve(one.candidate.run, one.inputs, arrivals, clock=clock, sleep=sleep)


def _halve(
    one: _Contender,
    bound: float,
    seconds: float,
    seeds: tuple[int, int],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> None:
    """One step of the search: the middle of the range is tried."""
    middle = (one.low + one.high) / 2
    tried = _served(one, _arrivals(middle, seconds, seeds), clock, sleep)
    if tried.overruns(bound) <= OVERRUNS * tried.queries:
        one.low = middle
    else:
        one.high = middle


def _row(one: _Contender, bound: float, batch: int, searched: bool, harness: float) -> Row:
    served, mine = one.served, one.candidate
    latency, cov = summarise(served.latencies)
    rate = len(served.latencies) / served.seconds
    overruns = served.overruns(bound)
    facts = ServerFacts(
        bound_ms=1e3 * bound,
        offered_qps=one.rate,
        overruns=overruns,
        verdict=one.verdict(bound),
        mean_batch=math.fsum(served.batches) / len(served.batches),
        busy=served.busy / served.seconds,
        searched=searched,
    )
    row = Row(
        engine=mine.engine,
        graph=mine.graph,
        precision=mine.precision,
        batch=batch,
        runs=served.queries,
        rounds=ROUNDS,
        images_per_second=rate,
        queries_per_second=rate,
        sustained_images_per_second=rate,
        latency_ms=latency,
        cov=cov,
        first_ms=1e3 * one.first,
        scenario="server",
        threads=mine.threads,
        streams=mine.streams,
        end_to_end=mine.end_to_end,
        distribution=distribution(served.latencies),
        outliers=outliers(served.latencies),
        harness_share=1e3 * harness / latency.median,
        server=facts,
    )
    return replace(row, macs_per_second=None if mine.macs is None else mine.macs(1) * rate)


def _says(one: _Contender, row: Row) -> list[str]:
    """Warnings on one candidate."""
    found, facts, key = [], row.server, one.candidate.key
    assert facts is not None
    if one.served.unserved:
        found.append(
            f"{key}: overloaded at {one.rate:.4g} queries/s, {one.served.unserved} of "
            f"{one.served.queries} were given up; offer fewer with --qps"
        )
    if facts.searched and not one.low:
        found.append(
            f"{key}: no rate holds {facts.bound_ms:g} ms for 99 % of the queries; "
            f"raise --latency-bound above {row.latency_ms.p99:.3g} ms or lower --batch"
        )
    elif facts.verdict == "INCONCLUSIVE":
        found.append(
            f"{key}: {row.runs} queries with {facts.overruns} overruns do not decide; "
            "measure longer with --seconds, or offer fewer with --qps"
        )
    return found
