"""MLCommons' load generator drives a candidate: the queries are its own, and so is the verdict.

LoadGen knows nothing of the model. It asks for images by number, says when, and writes two logs:
`mlperf_log_summary.txt`, with the line "Result is : VALID" or "INVALID", and
`mlperf_log_detail.txt`. It takes the whole process for one system under test, so that candidates
cannot alternate under it: its figures stand for themselves, and ratios come from `harness`.

Its rules ask for ten minutes and more per run; here the run is as long as asked for, and "VALID"
says that LoadGen's own conditions for that length were met. It is no MLPerf result.
"""

from __future__ import annotations

import importlib
import math
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inception_deploy.errors import BadInput, MissingDependency, StageError
from inception_deploy.throughput.report import Scenario
from inception_deploy.throughput.trial import Candidate

__all__ = ["LOGS", "LoadgenResult", "available", "drive", "parse_summary"]

LOGS = ("mlperf_log_summary.txt", "mlperf_log_detail.txt")
_EMPTY_LOGS = ("mlperf_log_accuracy.json", "mlperf_log_trace.json")
"""Written as well, with nothing in them: accuracy is not asked for, nor a trace."""

GUESS_SECONDS = 0.2

SERVER_QUERIES = 1001
"""In the server scenario LoadGen wants to be 99 % sure that 99 % of all queries hold the bound
(`loadgen/early_stopping.cc`, the binomial distribution). Without a late answer 459 queries are
enough; with so many, three may be late."""

_REMEDY = "pip install 'inception-deploy[loadgen]'"
_MODULE = "mlperf_loadgen"
_NAMES: Mapping[Scenario, str] = {
    "single-stream": "SingleStream",
    "offline": "Offline",
    "server": "Server",
}


@dataclass(frozen=True)
class LoadgenResult:
    """What LoadGen's summary says.

    Args:
        candidate: its key.
        valid: "Result is : VALID".
        figures: label → value as LoadGen prints them, e.g. "Samples per second" → 812.3.
        advice: what LoadGen recommends where the result is not valid.
        folder: where the logs are.
    """

    candidate: str
    scenario: Scenario
    valid: bool
    figures: Mapping[str, float]
    advice: tuple[str, ...]
    folder: Path

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "candidate": self.candidate,
            "scenario": self.scenario,
            "valid": self.valid,
            "figures": dict(self.figures),
            "advice": list(self.advice),
            "folder": str(self.folder),
        }


def available() -> bool:
    """Whether `mlcommons-loadgen` can be imported here."""
    try:
        importlib.import_module(_MODULE)
    except ImportError:
        return False
    return True


def drive(
    candidate: Candidate,
    make_batch: Callable[[int], NDArray[Any]],
    folder: Path,
    *,
    scenario: Scenario,
    images: int,
    batch: int = 1,
    seconds: float = 2.0,
    bound: float | None = None,
    rate: float | None = None,
) -> LoadgenResult:
    """Run one scenario, at least `seconds` long, and leave LoadGen's logs in `folder`.

    The server scenario lasts longer where `rate` is so low that LoadGen could not decide by then:
    it sends at least `SERVER_QUERIES`.

    Args:
        make_batch: as for `measure`; called once, for `images` images.
        images: how many different ones LoadGen chooses from.
        batch: the most images that are run together; single-stream sends one at a time.
        bound, rate: of the server scenario, seconds and queries per second.

    Raises:
        MissingDependency: LoadGen is not installed.
        BadInput: the server scenario without a bound or a rate.
        StageError: the candidate failed, or LoadGen wrote no summary.
    """
    try:
        lg: Any = importlib.import_module(_MODULE)
    except ImportError as error:
        raise MissingDependency(f"LoadGen cannot be imported; run: {_REMEDY}") from error
    if scenario == "server" and (bound is None or rate is None):
        raise BadInput("LoadGen's server scenario needs --latency-bound and --qps")
    folder.mkdir(parents=True, exist_ok=True)
    for name in LOGS:
        (folder / name).unlink(missing_ok=True)
    system = _System(lg, candidate, candidate.batch(images, make_batch), batch, scenario)
    system.warm_up()
    settings = _settings(lg, scenario, seconds, system.guess, bound, rate)
    library = lg.ConstructQSL(images, images, lambda indices: None, lambda indices: None)
    under_test = lg.ConstructSUT(system.issue, lambda: None)
    try:
        with system:
            lg.StartTestWithLogSettings(under_test, library, settings, _logging(lg, folder))
    finally:
        lg.DestroySUT(under_test)
        lg.DestroyQSL(library)
    if system.error is not None:
        raise candidate.failed(batch, system.error) from system.error
    summary = folder / LOGS[0]
    if not summary.is_file():
        raise StageError(f"LoadGen left no {LOGS[0]} in {folder}; is the folder writable?")
    for name in _EMPTY_LOGS:
        (folder / name).unlink(missing_ok=True)
    valid, figures, advice = parse_summary(summary.read_text(encoding="utf-8"))
    return LoadgenResult(candidate.key, scenario, valid, figures, advice, folder)


def parse_summary(text: str) -> tuple[bool, dict[str, float], tuple[str, ...]]:
    """Of mlperf_log_summary.txt: is it valid, its figures ("label : number"), its advice.

    Figures are those above the list of parameters.

    Raises:
        StageError: there is no verdict in it.
    """
    result = re.search(r"^Result is\s*:\s*(\w+)", text, re.MULTILINE)
    if result is None:
        raise StageError("LoadGen's summary has no line 'Result is'; the run did not finish")
    measured = text.partition("Test Parameters Used")[0]
    pairs = re.findall(r"^\s*(?:\* )?(\S[^:\n]*?)\s*[:=]\s*(-?\d+(?:\.\d+)?)\s*$", measured, re.M)
    advice = re.findall(r"^ *\* ([^:\n]+?)\s*$", measured, re.MULTILINE)
    figures = {label: float(value) for label, value in pairs}
    return result.group(1) == "VALID", figures, tuple(advice)


class _System:
    """The system under test: a worker that runs what has been asked for, as it comes.

    LoadGen calls `issue` from threads of its own and must not be kept waiting in the server
    scenario, so the queries go through a queue.
    """

    def __init__(
        self, lg: Any, candidate: Candidate, images: NDArray[Any], batch: int, scenario: Scenario
    ) -> None:
        self.error: Exception | None = None
        self.guess = 1.0  # images per second
        self._lg, self._candidate, self._images = lg, candidate, images
        self._batch = 1 if scenario == "single-stream" else batch
        self._waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._worker = threading.Thread(target=self._work, name="system under test")

    def warm_up(self) -> None:
        """Every batch size once; then the largest, again and again, tells how fast it is.

        LoadGen draws its queries beforehand, as many as this rate answers within the run; fewer
        would end it early, and make it invalid. So the fastest run counts.
        """
        with self._candidate.running(self._batch):
            for size in range(1, self._batch + 1):
                self._candidate.run(self._images[np.arange(size) % len(self._images)])
            whole, spent = self._images[np.arange(self._batch) % len(self._images)], [0.0]
            while math.fsum(spent) < GUESS_SECONDS:
                started = time.perf_counter()
                self._candidate.run(whole)
                spent.append(time.perf_counter() - started)
        self.guess = self._batch / max(min(spent[1:]), 1e-9)

    def __enter__(self) -> None:
        self._worker.start()

    def __exit__(self, *_: object) -> None:
        self._waiting.put(None)
        self._worker.join()

    def issue(self, samples: Any) -> None:
        """LoadGen's call: these samples, please."""
        for sample in samples:
            self._waiting.put((sample.id, sample.index))

    def _work(self) -> None:
        ended = False
        while not ended:
            asked = [self._waiting.get()]
            while len(asked) < self._batch and not self._waiting.empty():
                asked.append(self._waiting.get())
            ended = asked[-1] is None
            asked = [one for one in asked if one is not None]
            if asked:
                self._answer(asked)

    def _answer(self, asked: list[tuple[int, int]]) -> None:
        if self.error is None:
            try:
                self._candidate.run(self._images[[index for _, index in asked]])
            except Exception as error:  # noqa: BLE001 - it is raised where the test was started
                self.error = error
        # also after an error: LoadGen waits until every sample is answered
        self._lg.QuerySamplesComplete(
            [self._lg.QuerySampleResponse(ident, 0, 0) for ident, _ in asked]
        )


def _settings(
    lg: Any,
    scenario: Scenario,
    seconds: float,
    guess: float,
    bound: float | None,
    rate: float | None,
) -> Any:
    settings = lg.TestSettings()
    settings.scenario = getattr(lg.TestScenario, _NAMES[scenario])
    settings.mode = lg.TestMode.PerformanceOnly
    settings.min_duration_ms = round(1e3 * seconds)
    few: Mapping[Scenario, int] = {"offline": 1, "single-stream": 100, "server": SERVER_QUERIES}
    settings.min_query_count = few[scenario]
    if scenario == "offline":
        settings.offline_expected_qps = guess
    elif scenario == "single-stream":
        settings.single_stream_expected_latency_ns = round(1e9 / guess)
    else:
        assert bound is not None
        assert rate is not None
        settings.server_target_qps = rate
        settings.server_target_latency_ns = round(1e9 * bound)
    return settings


def _logging(lg: Any, folder: Path) -> Any:
    output = lg.LogOutputSettings()
    output.outdir = str(folder)
    output.copy_summary_to_stdout = False
    settings = lg.LogSettings()
    settings.log_output = output
    settings.enable_trace = False
    return settings
