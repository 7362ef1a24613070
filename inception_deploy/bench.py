"""`bench`: bundles side by side, in one run, beside the PyTorch network they were made from."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from inception_deploy.bundle import Bundle
from inception_deploy.contenders import Contender, Field, Setting, engine_of
from inception_deploy.deployed import open_deployed
from inception_deploy.errors import BadInput, StageError
from inception_deploy.images import choose_images
from inception_deploy.progress import Progress
from inception_deploy.throughput import Candidate, Scenario, ThroughputReport, measure
from inception_deploy.throughput.end_to_end import write_jpegs
from inception_deploy.throughput.footprint import footprint
from inception_deploy.throughput.harness import busy_warning
from inception_deploy.throughput.knee import MIN_POINTS, Knee, Over, find_knee
from inception_deploy.throughput.loadgen import LOGS, LoadgenResult, drive
from inception_deploy.throughput.profile import block_times
from inception_deploy.throughput.report import BlockTime, Footprint, Row
from inception_deploy.throughput.server import measure_server
from inception_deploy.trials import filled

__all__ = ["BenchOptions", "bench_bundles", "graph_name", "run_loadgen"]

IMAGES = 32
"""JPEG files for end-to-end queries."""

PROFILE_RUNS = 10


@dataclass(frozen=True)
class BenchOptions:
    """What is asked of a benchmark.

    Args:
        batches: images per query; in the server scenario the largest is what is run together.
        seconds: per candidate and batch size.
        threads, streams: of the engines, every combination; None leaves the threads to the engine.
        bound, rate: of the server scenario, seconds and queries per second; without a rate, the
            highest that holds the bound is sought.
        with_pytorch: also time the PyTorch network of the first bundle, where there is one.
        with_reference: also time reference.onnx of the first bundle, the plain export.
        end_to_end: queries are JPEG files; decoding and preprocessing are part of them.
        data: where the JPEGs' images come from; None takes those of the first bundle.
        thorough: utilisation, the profile by block, and the footprint in a fresh process, too.
    """

    batches: Sequence[int] = (1, 8)
    seconds: float = 2.0
    scenario: Scenario = "single-stream"
    threads: Sequence[int | None] = (None,)
    streams: Sequence[int] = (1,)
    bound: float | None = None
    rate: float | None = None
    with_pytorch: bool = True
    with_reference: bool = False
    end_to_end: bool = False
    data: str | None = None
    thorough: bool = True

    def __post_init__(self) -> None:
        if self.scenario == "server" and self.bound is None:
            raise BadInput("the server scenario needs --latency-bound, e.g. 15 (milliseconds)")
        if self.scenario != "server" and (self.bound is not None or self.rate is not None):
            raise BadInput("--latency-bound and --qps belong to --scenario server")
        if self.scenario != "offline" and set(self.streams) != {1}:
            raise BadInput("--streams belongs to --scenario offline, where queries may overlap")
        if self.end_to_end and set(self.streams) != {1}:
            raise BadInput("--end-to-end has one stream: one thread decodes; leave out --streams")

    @property
    def settings(self) -> list[Setting]:
        """Every combination of threads and streams."""
        return [Setting(t, s) for t, s in itertools.product(self.threads, self.streams)]


def bench_bundles(
    bundles: Sequence[Bundle], options: BenchOptions, progress: Progress
) -> ThroughputReport:
    """Time the deployed graphs of all bundles, alternating in blocks.

    Raises:
        BadInput: the bundles take images of different sizes.
    """
    _one_size(bundles)
    first, warnings = bundles[0], list(busy_warning())
    with ExitStack() as stack:
        field = Field(stack, _jpegs(stack, first, options))
        candidates, contenders = [], []
        if options.with_pytorch:
            candidates += field.pytorch(first)
        if options.with_reference:
            candidates.append(field.reference(first, options.threads[0]))
        gauges: dict[str, Candidate] = {}
        alone = options.scenario != "server" and not options.end_to_end
        for bundle in bundles:
            entered, gauged, notes = field.bundle(
                bundle,
                graph_name(bundle, bundles),
                options.settings,
                gauged=options.thorough and alone,
            )
            contenders += entered
            gauges |= {gauge.key: gauge for gauge in gauged}
            warnings += notes
        candidates += [c.candidate for c in contenders]
        make_batch = partial(filled, first.golden().inputs)
        report = _measured([*candidates, *gauges.values()], make_batch, options, progress)
        if options.thorough and alone:
            with progress.stage("profiling blocks"):
                report = replace(
                    report,
                    blocks={c.candidate.key: _blocks(c, options, report) for c in contenders},
                    profiled_batch=options.batches[0],
                )
    knees = [*report.knees, *_setting_knees(report.rows, contenders)]
    report = replace(report, knees=tuple(knees), warnings=(*warnings, *report.warnings))
    return _with_footprints(report, contenders, options, progress) if options.thorough else report


def graph_name(bundle: Bundle, bundles: Sequence[Bundle]) -> str:
    """What a bundle's graph is called among `bundles`."""
    return "model.onnx" if len(bundles) == 1 else f"{bundle.path.name}/model.onnx"


def _one_size(bundles: Sequence[Bundle]) -> None:
    sizes = {bundle.preprocessing.size for bundle in bundles}
    if len(sizes) > 1:
        raise BadInput(f"bundles take images of {sorted(sizes)} pixels; bench one size at a time")
    names = [graph_name(bundle, bundles) for bundle in bundles]
    if len(set(names)) < len(names):
        raise BadInput(f"two bundles are called '{bundles[0].path.name}'; rename one's folder")


def _measured(
    candidates: Sequence[Candidate],
    make_batch: Callable[[int], NDArray[Any]],
    options: BenchOptions,
    progress: Progress,
) -> ThroughputReport:
    if options.scenario == "server":
        assert options.bound is not None
        return measure_server(
            candidates,
            make_batch,
            bound=options.bound,
            rate=options.rate,
            batch=max(options.batches),
            seconds=options.seconds,
            progress=progress,
        )
    return measure(
        candidates,
        make_batch,
        batches=options.batches,
        seconds=options.seconds,
        scenario=options.scenario,
        progress=progress,
    )


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="inception-deploy-") as name:
        yield Path(name)


def _jpegs(stack: ExitStack, bundle: Bundle, options: BenchOptions) -> list[Path] | None:
    if not options.end_to_end:
        return None
    images = choose_images(
        options.data or bundle.manifest["data"],
        bundle.preprocessing,
        count=IMAGES,
        seed=0,
        skip_bad=False,
    )
    return write_jpegs(images, stack.enter_context(_folder()))


def _blocks(
    contender: Contender, options: BenchOptions, report: ThroughputReport
) -> tuple[BlockTime, ...]:
    """The engine's profile by block; empty where it has none or the blocks are not known."""
    batch = options.batches[0]
    parity = contender.bundle.read_json("parity.json") or {}
    names = [block["name"] for block in parity.get("blocks", [])]
    seconds = contender.session.profile(
        filled(contender.bundle.golden().feed, batch), runs=PROFILE_RUNS
    )
    if seconds is None or not names:
        return ()
    mine = contender.candidate
    peaks = [
        peak.macs_per_second
        for peak in report.peaks
        if (peak.engine, peak.precision, peak.threads)
        == (mine.engine, mine.precision, mine.threads)
    ]
    peak = peaks[0] if peaks else None
    return block_times(seconds, contender.macs, names, batch=batch, peak=peak)


def _setting_knees(rows: Sequence[Row], contenders: Sequence[Contender]) -> Iterator[Knee]:
    """The knees over threads and over streams, where enough of them were measured."""
    of = {contender.candidate.key: contender for contender in contenders}
    ways: tuple[tuple[Over, Over], ...] = (("threads", "streams"), ("streams", "threads"))
    for over, held in ways:
        curves: dict[tuple[str, int, int | None], list[tuple[int, float]]] = {}
        for row in rows:
            size = getattr(row, over)
            if row.key in of and size is not None:
                curve = (of[row.key].name, row.batch, getattr(row, held))
                curves.setdefault(curve, []).append((size, row.images_per_second))
        for (name, batch, other), points in curves.items():
            sizes, rates = zip(*sorted(points), strict=True)
            if len(set(sizes)) >= MIN_POINTS:
                said = f"{name}, batch {batch}"
                said += "" if other in (None, 1) else f", {held} {other}"
                yield find_knee(said, over, sizes, rates)


def _with_footprints(
    report: ThroughputReport,
    contenders: Sequence[Contender],
    options: BenchOptions,
    progress: Progress,
) -> ThroughputReport:
    """Load every graph once more, in a process of its own; a failure is a warning."""
    found: dict[str, Footprint] = {}
    failed = []
    batch = max(options.batches)
    with progress.stage("footprints, in fresh processes"):
        for one in contenders:
            if one.setting.streams > 1:
                continue
            try:
                compiled = one.bundle.manifest.get("engine")
                found[one.candidate.key] = footprint(
                    one.engine.name,
                    one.bundle.model,
                    batch,
                    one.setting.threads,
                    compiled and (one.bundle.checked(compiled["file"]), compiled["sha256"]),
                )
            except StageError as error:
                failed.append(f"no footprint: {error}")
    return replace(report, footprints=found, warnings=(*report.warnings, *failed))


def run_loadgen(
    bundles: Sequence[Bundle], options: BenchOptions, progress: Progress
) -> list[LoadgenResult]:
    """Drive each bundle with MLCommons' LoadGen; its logs become part of the bundle.

    Raises:
        MissingDependency: LoadGen is not installed.
        BadInput: the server scenario without a bound and a rate.
        StageError: an engine failed.
    """
    results = []
    for bundle in bundles:
        golden, engine = bundle.golden(), engine_of(bundle)
        place = f"loadgen/{options.scenario}"
        folder = bundle.path / place
        with open_deployed(bundle, threads=options.threads[0]) as session:
            mine = Candidate(
                engine.name, graph_name(bundle, bundles), bundle.manifest["precision"], session.run
            )
            with progress.stage(f"LoadGen, {options.scenario}: {bundle.path.name}"):
                results.append(
                    drive(
                        mine,
                        partial(filled, golden.feed),
                        folder,
                        scenario=options.scenario,
                        images=len(golden.feed),
                        batch=max(options.batches),
                        seconds=options.seconds,
                        bound=options.bound,
                        rate=options.rate,
                    )
                )
        for name in LOGS:
            # as part of the bundle, with its hash: a verdict without its logs is hearsay
            text = (folder / name).read_text(encoding="utf-8")
            bundle = bundle.rewrite(f"{place}/{name}", text)
    return results
