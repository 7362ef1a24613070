"""One candidate at one batch size: warm-up, blocks of timed runs, and what they say."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

from inception_deploy.errors import BadInput, StageError
from inception_deploy.throughput.energy import EnergyMeter
from inception_deploy.throughput.latency import distribution, outliers, summarise
from inception_deploy.throughput.report import Row, Scenario

__all__ = [
    "BLOCK_RUNS",
    "BLOCK_SECONDS",
    "NOISY",
    "Candidate",
    "Loadable",
    "ManyRunner",
    "Runner",
    "Trial",
]

BLOCK_SECONDS = 0.1
"""A block has as many runs as fit, within `BLOCK_RUNS`: switching engines stays rare."""
BLOCK_RUNS = (3, 1000)
WARMUP_SECONDS = 0.2  # trtexec's
WARMUP_LIMIT = 5.0
WINDOW_SECONDS = 0.05
STEADY = 0.1
"""Warm-up ends when the medians of two windows of runs differ by no more than this fraction."""
NOISY = 0.025
"""A larger coefficient of variation is worth a warning: trtexec's bound for "unstable"."""
MANY_OUTLIERS = 0.01
FEW = 2
HARNESS_LIMIT = 0.02
"""A larger share of the harness in a figure is worth a warning."""

Runner: TypeAlias = Callable[[NDArray[Any]], object]
"""Runs one batch, and returns only when it is done; what it returns is not looked at."""

ManyRunner: TypeAlias = Callable[[Iterable[NDArray[Any]]], Iterator[object]]
"""Runs many batches, several at once where it can; done when the iterator is exhausted."""


class Loadable(Protocol):
    """A session that can be loaded again after it was closed; its runner stays valid."""

    def load(self) -> None:
        """Load it."""

    def close(self) -> None:
        """Free what `load` took."""


class Runnable(Loadable, Protocol):
    """A session, as far as a measurement needs to know it."""

    @property
    def load_seconds(self) -> float:
        """How long loading took."""
        ...

    def run(self, images: NDArray[Any]) -> NDArray[Any]:
        """The batch in, anything out."""
        ...


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
        run_many: for the offline scenario; None runs one batch after the other.
        parts: seconds of the parts of the last run by name, for one that can tell.
        threads, streams, end_to_end: as in `Row`; they are only recorded.
        macs: images → multiply-adds of running them at once; None where that is not known.
        gauge: key of the candidate whose rate of multiply-adds is this one's peak.
        ran: of a gauge, the precision that the engine says it computes in.
        sessions: what `run` works on, to be loaded anew in the middle of a measurement; empty where
            that cannot be done.
    """

    engine: str
    graph: str
    precision: str
    run: Runner
    load_seconds: float | None = None
    make_batch: Callable[[int], NDArray[Any]] | None = None
    run_many: ManyRunner | None = None
    parts: Callable[[], Mapping[str, float]] | None = None
    threads: int | None = None
    streams: int = 1
    end_to_end: bool = False
    macs: Callable[[int], int] | None = None
    gauge: str | None = None
    ran: str | None = None
    sessions: Sequence[Loadable] = ()

    @classmethod
    def of(cls, session: Runnable, engine: str, graph: str, precision: str) -> Candidate:
        """An open session, to be loaded anew in the middle of a measurement."""
        run, seconds = session.run, session.load_seconds
        return cls(engine, graph, precision, run, seconds, sessions=(session,))

    @property
    def key(self) -> str:
        """As ratios and load times call it, e.g. "onnxruntime:model.onnx"."""
        return f"{self.engine}:{self.graph}"

    def batch(self, size: int, common: Callable[[int], NDArray[Any]]) -> NDArray[Any]:
        """Its input of `size` images. Raises `BadInput` where it is of another size."""
        inputs = (self.make_batch or common)(size)
        if len(inputs) != size:
            raise BadInput(f"asked for a batch of {size} images, got {len(inputs)}")
        return inputs

    @contextmanager
    def running(self, batch: int) -> Iterator[None]:
        """Around its runs at this batch size.

        Raises:
            StageError: whatever it raised, with its key and the batch size.
        """
        try:
            yield
        except Exception as error:  # engines raise classes of their own, torch a RuntimeError
            raise self.failed(batch, error) from error

    def failed(self, batch: int, error: Exception) -> StageError:
        """What to raise where it cannot run a batch of this size."""
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return StageError(
            f"{self.key} failed at batch {batch}: {said}; try a smaller batch or leave it out"
        )


class Trial:
    """One candidate at one batch size, while it is measured.

    Args:
        inputs: one batch, given again and again.
        scenario: "single-stream" times every run; "offline" hands a block's batches over at once
            and times the block.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        candidate: Candidate,
        batch: int,
        inputs: NDArray[Any],
        scenario: Scenario,
        clock: Callable[[], float],
        meter: EnergyMeter,
    ) -> None:
        self.medians: list[list[float]] = [[]]
        """Of each block, in seconds per query; one list per layout in memory."""
        self.block_runs = BLOCK_RUNS[0]
        self.candidate, self.batch = candidate, batch
        self._inputs, self._scenario = inputs, scenario
        self._clock, self._meter = clock, meter
        self._seconds = array("d")
        self._parts: dict[str, array[float]] = {}
        self._first = self._typical = math.nan
        self._steady = True
        self._queries = self._metered = 0
        self._processor = 0.0
        self._joules: float | None = None

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
        self._typical = medians[-1] if medians else self._first
        runs = round(BLOCK_SECONDS / self._typical)
        self.block_runs = min(max(runs, BLOCK_RUNS[0]), BLOCK_RUNS[1])

    @property
    def block_seconds(self) -> float:
        """What a block is expected to take, its untimed run included."""
        return (self.block_runs + 1) * self._typical

    @property
    def reload_seconds(self) -> float:
        """What loading anew is expected to take, with the first run; 0 without sessions."""
        sessions = len(self.candidate.sessions)
        return sessions * ((self.candidate.load_seconds or 0.0) + self._first)

    def new_layout(self) -> None:
        """After its sessions were loaded anew: warm up again, and keep what follows apart."""
        if self.candidate.sessions:
            self._run()
            self._window()
        self.medians.append([])

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
        joules, processor = self._meter.read(), time.process_time()
        timed = self._overlapped() if self._scenario == "offline" else self._one_by_one()
        self._processor += time.process_time() - processor
        spent = self._meter.joules(joules, self._meter.read())
        if spent is not None:
            self._joules = (self._joules or 0.0) + spent
        self._queries += self.block_runs
        self._seconds.extend(timed)
        self.medians[-1].append(statistics.median(timed))

    def _one_by_one(self) -> list[float]:
        timed, tell = [], self.candidate.parts
        for _ in range(self.block_runs):
            timed.append(self._run())
            if tell is not None:
                for name, seconds in tell().items():
                    self._parts.setdefault(name, array("d")).append(seconds)
        return timed

    def _overlapped(self) -> list[float]:
        """The block's batches handed over at once: mean seconds per query."""
        batches = itertools.repeat(self._inputs, self.block_runs)
        many = self.candidate.run_many
        with self.candidate.running(self.batch):
            started = self._clock()
            done = sum(1 for _ in (many(batches) if many else map(self.candidate.run, batches)))
            seconds = self._clock() - started
        if done != self.block_runs:
            raise StageError(
                f"{self.candidate.key} gave {done} answers to {self.block_runs} batches; "
                "measure it with --scenario single-stream"
            )
        return [seconds / self.block_runs]

    def row(self, harness: float) -> Row:
        """The figures. `harness` is the null engine's seconds per query."""
        latency, cov = summarise(self._seconds)
        queries_per_second = 1e3 / latency.median
        mine, queries = self.candidate, self._queries
        parts_ms = {name: 1e3 * statistics.median(v) for name, v in self._parts.items()}
        # transfers multiply nothing: where a GPU's clock tells the kernels apart, theirs counts
        busy = parts_ms.get("compute", latency.median)
        rate = None if mine.macs is None else 1e3 * mine.macs(self.batch) / busy
        return Row(
            engine=mine.engine,
            graph=mine.graph,
            precision=mine.precision,
            batch=self.batch,
            runs=queries,
            rounds=sum(map(len, self.medians)),
            layouts=len(self.medians),
            images_per_second=self.batch * queries_per_second,
            queries_per_second=queries_per_second,
            sustained_images_per_second=self.batch * len(self._seconds) / math.fsum(self._seconds),
            latency_ms=latency,
            cov=cov,
            first_ms=1e3 * self._first,
            scenario=self._scenario,
            threads=mine.threads,
            streams=mine.streams,
            end_to_end=mine.end_to_end,
            distribution=distribution(self._seconds),
            outliers=outliers(self._seconds),
            harness_share=1e3 * harness / latency.median,
            cpu_ms=1e3 * self._processor / queries,
            parts_ms=parts_ms,
            energy_mj=None if self._joules is None else 1e3 * self._joules / queries,
            macs_per_second=rate,
        )

    def warnings(self, row: Row) -> Iterator[str]:
        """What makes `row`, its own, worth a second look."""
        where = f"{self.candidate.key} at batch {self.batch}"
        if not self._steady:
            yield f"{where}: not steady after {WARMUP_LIMIT:g} s of warm-up; is the machine busy?"
        if row.cov > NOISY:
            yield (
                f"{where}: latency varies by {row.cov:.1%} (standard deviation over mean); "
                "trust the median, and measure again on an idle machine"
            )
        if row.outliers > max(MANY_OUTLIERS * len(self._seconds), FEW):
            yield (
                f"{where}: {row.outliers} of {len(self._seconds)} runs are outliers; "
                "something else takes the processor now and then"
            )
        if row.harness_share is not None and row.harness_share > HARNESS_LIMIT:
            yield (
                f"{where}: the harness itself is {row.harness_share:.1%} of the latency; "
                "measure a larger batch"
            )

    def _run(self) -> float:
        with self.candidate.running(self.batch):
            started = self._clock()
            self.candidate.run(self._inputs)
            ended = self._clock()
        return ended - started


def _steady(medians: Sequence[float]) -> bool:
    """Whether the last two windows took about as long."""
    return len(medians) > 1 and abs(medians[-1] - medians[-2]) <= STEADY * medians[-2]
