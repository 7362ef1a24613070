"""How fast engines are, measured side by side in one run.

Two engines measured one after the other are compared across whatever the machine did meanwhile.
Alternating single runs is no cure: idle thread pools of one engine spin on the cores that the other
needs, which doubled some batch-1 figures. So engines alternate in blocks: one untimed run, then
several timed ones; then the next engine. All engines once are a round, and every round starts with
another engine.

The harness knows nothing of the model: it times calls. A runner that does nothing measures the
harness itself (well under 20 µs per query).
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from numpy.typing import NDArray

from inception_deploy.errors import BadInput, StageError
from inception_deploy.machine import describe, library_versions
from inception_deploy.progress import Progress, SilentProgress
from inception_deploy.throughput.latency import estimate_ratio, summarise
from inception_deploy.throughput.report import Ratio, Row, ThroughputReport

__all__ = ["Candidate", "Runner", "measure"]

MIN_ROUNDS = 5
BLOCK_SECONDS = 0.1
"""A block has as many runs as fit, within `BLOCK_RUNS`: switching engines stays rare."""
BLOCK_RUNS = (3, 1000)
WARMUP_SECONDS = 0.2  # trtexec's
WARMUP_LIMIT = 5.0
WINDOW_SECONDS = 0.05
STEADY = 0.1
"""Warm-up ends when the medians of two windows of runs differ by no more than this fraction."""
NOISY = 0.1
"""A larger coefficient of variation is worth a warning."""

Runner: TypeAlias = Callable[[NDArray[Any]], object]
"""Runs one batch, and returns only when it is done; what it returns is not looked at."""


@dataclass(frozen=True)
class Candidate:
    """Something that runs batches, loaded and ready.

    Args:
        engine: e.g. "onnxruntime", "pytorch".
        graph: the file it runs, or "torch".
        precision: e.g. "fp16".
        run: the batch in, anything out.
        load_seconds: how long loading took; None where that is not known.
        make_batch: batch size → the input of that many images, for one that takes another kind of
            input than the others; None takes what `measure` is given.
    """

    engine: str
    graph: str
    precision: str
    run: Runner
    load_seconds: float | None = None
    make_batch: Callable[[int], NDArray[Any]] | None = None

    @property
    def key(self) -> str:
        """As ratios and load times call it, e.g. "onnxruntime:model.onnx"."""
        return f"{self.engine}:{self.graph}"


def measure(
    candidates: Sequence[Candidate],
    make_batch: Callable[[int], NDArray[Any]],
    *,
    batches: Sequence[int] = (1, 8),
    seconds: float = 2.0,
    baseline: str | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> ThroughputReport:
    """Time all candidates on the same inputs, alternating in blocks.

    Per batch size every candidate is warmed up until its latency is steady; then rounds follow
    until `seconds` per candidate have passed, and at least five. Garbage collection is off
    meanwhile.

    Args:
        make_batch: batch size → the input of that many images; called once per size.
        seconds: of measurement per candidate and batch size, untimed runs included.
        baseline: key of the candidate that ratios refer to; None takes the first.
        pairs: (candidate, baseline) by key, in place of every candidate with one `baseline`.
        clock: seconds, monotonic.

    Raises:
        BadInput: no candidates, two of one key, an unknown baseline, a batch size below 1 or given
            twice, no time to measure in, or a batch of another size than asked for.
        StageError: a candidate failed; the message names it and the batch size.
    """
    keys = _checked_keys(candidates, batches, seconds)
    reference = keys[0] if baseline is None else baseline
    if reference not in keys:
        raise BadInput(f"no candidate '{reference}' to compare with; known: {', '.join(keys)}")
    wanted = [(key, reference) for key in keys if key != reference] if pairs is None else pairs
    for key in (key for pair in wanted for key in pair):
        if key not in keys:
            raise BadInput(f"no candidate '{key}' to compare; known: {', '.join(keys)}")
    rows: list[Row] = []
    ratios: list[Ratio] = []
    warnings: list[str] = []
    listener = progress or SilentProgress()
    for batch in batches:
        common = _batch(make_batch, batch)
        trials = {}
        for c in candidates:
            own = common if c.make_batch is None else _batch(c.make_batch, batch)
            trials[c.key] = _Trial(c, batch, own, clock)
        with _no_garbage_collection():
            with listener.stage(f"warming up, batch {batch}"):
                for trial in trials.values():
                    trial.warm_up()
            _alternate(list(trials.values()), seconds * len(trials), clock, listener)
        rows += [trial.row() for trial in trials.values()]
        warnings += [line for trial in trials.values() for line in trial.warnings()]
        for key, base in wanted:
            found = estimate_ratio(trials[base].medians, trials[key].medians)
            ratios.append(Ratio(batch, key, base, found.ratio, (found.low, found.high)))
    return ThroughputReport(
        machine=describe(),
        versions=library_versions(),
        rows=tuple(rows),
        ratios=tuple(ratios),
        load_seconds={c.key: c.load_seconds for c in candidates if c.load_seconds is not None},
        warnings=tuple(warnings),
    )


class _Trial:
    """One candidate at one batch size, while it is measured."""

    def __init__(
        self,
        candidate: Candidate,
        batch: int,
        inputs: NDArray[Any],
        clock: Callable[[], float],
    ) -> None:
        self.medians: list[float] = []
        self.block_runs = BLOCK_RUNS[0]
        self._candidate, self.batch = candidate, batch
        self._inputs, self._clock = inputs, clock
        self._seconds = array("d")
        self._first = math.nan
        self._steady = True

    def warm_up(self) -> None:
        """Run until steady, and settle how many runs make a block."""
        self._first = spent = self._run()
        medians: list[float] = []
        while spent < WARMUP_LIMIT:
            window = self._window()
            spent += math.fsum(window)
            medians.append(statistics.median(window))
            if spent >= WARMUP_SECONDS and _steady(medians):
                break
        # one too slow for two windows within the limit has not been seen to waver
        self._steady = len(medians) < 2 or _steady(medians)
        typical = medians[-1] if medians else self._first
        self.block_runs = min(max(round(BLOCK_SECONDS / typical), BLOCK_RUNS[0]), BLOCK_RUNS[1])

    def _window(self) -> list[float]:
        """Runs for `WINDOW_SECONDS`, at least three unless they are slow."""
        window = [self._run()]
        spent = window[0]
        while spent < WINDOW_SECONDS or (len(window) < 3 and spent < WARMUP_LIMIT / 5):
            window.append(self._run())
            spent += window[-1]
        return window

    def block(self) -> None:
        """One untimed run, then the timed ones."""
        self._run()
        timed = [self._run() for _ in range(self.block_runs)]
        self._seconds.extend(timed)
        self.medians.append(statistics.median(timed))

    def row(self) -> Row:
        latency, cov = summarise(self._seconds)
        queries_per_second = 1e3 / latency.median
        runs = len(self._seconds)
        return Row(
            engine=self._candidate.engine,
            graph=self._candidate.graph,
            precision=self._candidate.precision,
            batch=self.batch,
            runs=runs,
            rounds=len(self.medians),
            images_per_second=self.batch * queries_per_second,
            queries_per_second=queries_per_second,
            sustained_images_per_second=self.batch * runs / math.fsum(self._seconds),
            latency_ms=latency,
            cov=cov,
            first_ms=1e3 * self._first,
        )

    def warnings(self) -> Iterator[str]:
        where = f"{self._candidate.key} at batch {self.batch}"
        if not self._steady:
            yield f"{where}: not steady after {WARMUP_LIMIT:g} s of warm-up; is the machine busy?"
        _, cov = summarise(self._seconds)
        if cov > NOISY:
            yield (
                f"{where}: latency varies by {cov:.0%} (standard deviation over mean); "
                "trust the median, and measure again on an idle machine"
            )

    def _run(self) -> float:
        try:
            started = self._clock()
            self._candidate.run(self._inputs)
            return self._clock() - started
        except Exception as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise StageError(
                f"{self._candidate.key} failed at batch {self.batch}: {said}; "
                "try a smaller batch or leave it out"
            ) from error


def _batch(make: Callable[[int], NDArray[Any]], size: int) -> NDArray[Any]:
    inputs = make(size)
    if len(inputs) != size:
        raise BadInput(f"asked for a batch of {size} images, got {len(inputs)}")
    return inputs


def _steady(medians: Sequence[float]) -> bool:
    """Whether the last two windows took about as long."""
    return len(medians) > 1 and abs(medians[-1] - medians[-2]) <= STEADY * medians[-2]


def _alternate(
    trials: Sequence[_Trial], seconds: float, clock: Callable[[], float], listener: Progress
) -> None:
    """Rounds of blocks for `seconds`, at least `MIN_ROUNDS`; each starts with another candidate."""

    def rounds() -> Iterator[int]:
        started, done = clock(), 0
        while done < MIN_ROUNDS or clock() - started < seconds:
            yield done
            done += 1

    # a block lasts about BLOCK_SECONDS; the display may end early or late, the measurement not
    expected = max(MIN_ROUNDS, round(seconds / (BLOCK_SECONDS * len(trials))))
    for done in listener.track(rounds(), f"measuring batch {trials[0].batch}", expected):
        first = done % len(trials)
        for trial in (*trials[first:], *trials[:first]):
            trial.block()


def _checked_keys(
    candidates: Sequence[Candidate], batches: Sequence[int], seconds: float
) -> list[str]:
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
def _no_garbage_collection() -> Iterator[None]:
    """A collection falls on whichever candidate happens to run; keep it out of the figures."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
