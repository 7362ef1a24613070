"""How fast engines are, measured side by side in one run.

Two engines measured one after the other are compared across whatever the machine did meanwhile.
Alternating single runs is no cure: idle thread pools of one engine spin on the cores that the other
needs, which doubled some batch-1 figures. So engines alternate in blocks: one untimed run, then
several timed ones; then the next engine. All engines once are a round; `turns` says in which order,
and how often the sessions are loaded anew meanwhile.

The harness knows nothing of the model: it times calls. A runner that does nothing measures the
harness itself (well under 20 µs per query).

A query is a batch of images. In the scenarios' terms (MLPerf Inference, Reddi et al., ISCA 2020,
section IV): "single-stream" sends a query when the one before is done; "offline" hands many over at
once, so that an engine may work on several; "server", where queries arrive at random, is `server`.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

from numpy.typing import NDArray

from inception_deploy.errors import BadInput
from inception_deploy.machine import clocks, describe, library_versions
from inception_deploy.progress import Progress, SilentProgress
from inception_deploy.throughput.energy import EnergyMeter, find_meter
from inception_deploy.throughput.knee import MIN_POINTS, Knee, find_knee
from inception_deploy.throughput.latency import estimate_ratio
from inception_deploy.throughput.null import harness_seconds
from inception_deploy.throughput.report import Peak, Ratio, Row, ThroughputReport
from inception_deploy.throughput.trial import BLOCK_RUNS, Candidate, Runner, Trial
from inception_deploy.throughput.turns import alternate

__all__ = [
    "BLOCK_RUNS",
    "Candidate",
    "Runner",
    "batch_knees",
    "busy_warning",
    "checked_keys",
    "measure",
    "no_garbage_collection",
]


def measure(
    candidates: Sequence[Candidate],
    make_batch: Callable[[int], NDArray[Any]],
    *,
    batches: Sequence[int] = (1, 8),
    seconds: float = 2.0,
    scenario: Literal["single-stream", "offline"] = "single-stream",
    baseline: str | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.perf_counter,
    meter: EnergyMeter | None = None,
) -> ThroughputReport:
    """Time all candidates on the same inputs, alternating in blocks.

    Per batch size every candidate is warmed up until its latency is steady; then rounds follow
    until `seconds` per candidate have passed, and at least five. The sessions of those that have
    some are loaded anew in between, as far as time allows. Garbage collection is off meanwhile.
    Candidates that others name as their gauge are measured with them; their rates of multiply-adds
    become the others' peaks, and they have no rows of their own.

    Args:
        make_batch: batch size → the input of that many images; called once per size.
        seconds: of measurement per candidate and batch size, untimed runs included.
        baseline: key of the candidate that ratios refer to; None takes the first.
        pairs: (candidate, baseline) by key, in place of every candidate with one `baseline`.
        clock: seconds, monotonic.
        meter: of energy; None takes what this machine has.

    Raises:
        BadInput: no candidates, two of one key, an unknown baseline, a batch size below 1 or given
            twice, no time to measure in, or a batch of another size than asked for.
        StageError: a candidate failed; the message names it and the batch size.
    """
    keys = checked_keys(candidates, batches, seconds)
    gauges = {c.gauge for c in candidates if c.gauge is not None}
    wanted = _wanted(keys, gauges, baseline, pairs)
    rows: list[Row] = []
    ratios: list[Ratio] = []
    warnings: list[str] = []
    peaks: dict[str, Peak] = {}
    listener, meter = progress or SilentProgress(), meter or find_meter()
    before, harness = clocks(), harness_seconds(clock)
    for batch in batches:
        common: dict[int, NDArray[Any]] = {}
        trials = {}
        for c in candidates:
            if c.make_batch is None and not common:
                common[batch] = c.batch(batch, make_batch)
            inputs = common[batch] if c.make_batch is None else c.batch(batch, make_batch)
            trials[c.key] = Trial(c, batch, inputs, scenario, clock, meter)
        with no_garbage_collection():
            with listener.stage(f"warming up, batch {batch}"):
                for trial in trials.values():
                    trial.warm_up()
            alternate(list(trials.values()), seconds * len(trials), clock, listener)
        for key, trial in trials.items():
            row = trial.row(harness)
            if key in gauges:
                peaks[key] = _higher(peaks.get(key), row, trial.candidate)
            else:
                rows.append(row)
                warnings += trial.warnings(row)
        for key, base in wanted:
            found = estimate_ratio(trials[base].medians, trials[key].medians)
            ratios.append(Ratio(batch, key, base, found.ratio, (found.low, found.high)))
    gauge_of = {c.key: c.gauge for c in candidates if c.gauge is not None}
    rows = [
        _against_peak(row, peaks[gauge_of[row.key]]) if row.key in gauge_of else row for row in rows
    ]
    return ThroughputReport(
        machine=describe(),
        versions=library_versions(),
        rows=tuple(rows),
        ratios=tuple(ratios),
        load_seconds={
            c.key: c.load_seconds
            for c in candidates
            if c.load_seconds is not None and c.key not in gauges
        },
        warnings=tuple(warnings),
        harness_us=1e6 * harness,
        clocks={"before": before, "after": clocks()},
        energy=meter.says,
        knees=tuple(batch_knees(rows)),
        peaks=tuple(peaks.values()),
    )


def batch_knees(rows: Sequence[Row]) -> Iterator[Knee]:
    """The knee over batch sizes of every candidate that was measured at enough of them."""
    for key in dict.fromkeys(row.key for row in rows):
        own = sorted((row.batch, row.images_per_second) for row in rows if row.key == key)
        if len(own) >= MIN_POINTS:
            yield find_knee(key, "batch", [size for size, _ in own], [rate for _, rate in own])


def busy_warning() -> Iterator[str]:
    """A warning where other work was waiting for the processor in the last minute."""
    machine = describe()
    load = clocks().get("load_average")
    if load is not None and load > 0.5 * machine.cores + 0.5:
        yield (
            f"the machine was busy before: load average {load:.1f} on {machine.cores} cores; "
            "figures of an idle machine will be better"
        )


def _wanted(
    keys: Sequence[str],
    gauges: set[str],
    baseline: str | None,
    pairs: Sequence[tuple[str, str]] | None,
) -> Sequence[tuple[str, str]]:
    """(candidate, baseline) of every ratio."""
    measured = [key for key in keys if key not in gauges]
    if not measured:
        raise BadInput("there is nothing to measure but gauges; give at least one engine")
    reference = measured[0] if baseline is None else baseline
    if reference not in keys:
        raise BadInput(f"no candidate '{reference}' to compare with; known: {', '.join(keys)}")
    chosen = [(key, reference) for key in measured if key != reference] if pairs is None else pairs
    for key in (*gauges, *(key for pair in chosen for key in pair)):
        if key not in keys:
            raise BadInput(f"no candidate '{key}' to compare; known: {', '.join(keys)}")
    return chosen


def _higher(known: Peak | None, row: Row, gauge: Candidate) -> Peak:
    """The faster of what a gauge reached so far and at this batch size."""
    reached = row.macs_per_second or 0.0
    if known is not None and known.macs_per_second >= reached:
        return known
    return Peak(row.engine, row.precision, row.threads, gauge.ran, reached)


def _against_peak(row: Row, peak: Peak) -> Row:
    if row.macs_per_second is None or not peak.macs_per_second:
        return row
    return replace(row, utilisation=row.macs_per_second / peak.macs_per_second)


def checked_keys(
    candidates: Sequence[Candidate], batches: Sequence[int], seconds: float
) -> list[str]:
    """The candidates' keys. Raises `BadInput` for what cannot be measured."""
    keys = [candidate.key for candidate in candidates]
    if not keys:
        raise BadInput("there is nothing to measure; give at least one engine")
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BadInput(f"two candidates are called '{twice}'; give each its own graph name")
    if not batches or min(batches) < 1 or len(set(batches)) < len(batches):
        raise BadInput(f"batch sizes must be different and at least 1, not {list(batches)}")
    if not (math.isfinite(seconds) and seconds > 0):
        raise BadInput(f"the time to measure must be above 0 s, not {seconds}")
    return keys


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """A collection falls on whichever candidate happens to run; keep it out of the figures."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
