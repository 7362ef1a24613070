"""Speed and size: ratios measured side by side decide; absolute times need a calm machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

from inception_deploy.bundle import Bundle
from inception_deploy.compare import truth_predictor
from inception_deploy.deployed import open_deployed
from inception_deploy.engines import ENGINES
from inception_deploy.gate.bounds import Bounds
from inception_deploy.gate.verdict import Check, at_least
from inception_deploy.parity.paired import Outcome
from inception_deploy.progress import Progress
from inception_deploy.recipe import Recipe
from inception_deploy.reference import Reference
from inception_deploy.throughput import Candidate, ThroughputReport, measure
from inception_deploy.trials import filled

__all__ = ["CALM", "Timing", "deployed_bytes", "of_size", "of_speed", "timed"]

CALM = 0.1
"""Largest coefficient of variation (standard deviation over mean) of a machine whose absolute times
can be held against anybody; as `throughput` warns of."""

FEW_RUNS = 100
"""With fewer, the 99th percentile is the slowest run there was."""


@dataclass(frozen=True)
class Timing:
    """How speed is measured.

    Args:
        batches: None takes the size that the bundle was made for.
        seconds: per candidate and batch size.
        threads: of the deployed engine; None leaves the choice to it.
        always: measure even where no bound asks for it, for a baseline to remember.
    """

    batches: tuple[int, ...] | None = None
    seconds: float = 2.0
    threads: int | None = None
    always: bool = False


def timed(
    bundle: Bundle, reference: Reference | None, timing: Timing, progress: Progress
) -> ThroughputReport:
    """The deployed graph beside the truth, alternating in blocks in one run.

    Args:
        reference: PyTorch's network; None takes reference.onnx.
    """
    golden = bundle.golden()
    engine = ENGINES.get(bundle.manifest["target"])
    recipe = Recipe.from_dict(dict(bundle.manifest["recipe"]))
    with ExitStack() as stack:
        truth, name = truth_predictor(bundle, reference, stack)
        session = stack.enter_context(open_deployed(bundle, threads=timing.threads))
        candidates = [
            Candidate(name, "torch" if name == "pytorch" else "reference.onnx", "fp32", truth),
            replace(
                Candidate.of(session, engine.name, "model.onnx", str(bundle.manifest["precision"])),
                make_batch=lambda size: filled(golden.feed, size),
            ),
        ]
        return measure(
            candidates,
            lambda size: filled(golden.inputs, size),
            batches=timing.batches or (recipe.batch.optimum,),
            seconds=timing.seconds,
            progress=progress,
        )


def of_speed(report: ThroughputReport, bounds: Bounds) -> Iterator[Check]:
    """The ratio by its interval; the latency as far as the machine was calm enough to say."""
    if bounds.min_speedup is not None:
        for ratio in report.ratios:
            low, high = ratio.ci95
            bound = bounds.min_speedup
            outcome = at_least(low, high, bound)
            yield Check(
                f"speedup_batch_{ratio.batch}",
                "speed",
                outcome,
                f"{ratio.ratio:.2f} times as fast as {ratio.baseline} at batch {ratio.batch} "
                f"(95 % interval {low:.2f} to {high:.2f}); at least {bound:g} is asked for"
                + ("; measure longer with --seconds" if outcome == "INCONCLUSIVE" else ""),
                value=ratio.ratio,
                bound=bound,
                interval=(low, high),
                unit="times",
            )
    if bounds.max_p99_ms is not None:
        deployed = [row for row in report.rows if row.graph == "model.onnx"]
        for row in deployed:
            yield _latency(row.batch, row.latency_ms.p99, row.cov, row.runs, bounds.max_p99_ms)


def _latency(batch: int, p99: float, cov: float, runs: int, bound: float) -> Check:
    """Over the bound on a restless machine is INCONCLUSIVE: it may be the machine."""
    found = f"99th percentile {p99:.3g} ms at batch {batch}, allowed are {bound:g} ms"
    counted = f"{runs} runs" if runs < FEW_RUNS else ""
    noisy = f"the machine is restless (latency varies by {cov:.0%})" if cov > CALM else ""
    doubt = " and ".join(part for part in (noisy, counted and f"there were only {counted}") if part)
    outcome: Outcome
    if p99 <= bound:
        outcome, reason = "PASS", found
    elif doubt:
        outcome = "INCONCLUSIVE"
        reason = f"{found}, but {doubt}; measure on an idle machine, or hold --min-speedup instead"
    else:
        outcome, reason = "FAIL", found
    return Check(
        f"latency_p99_batch_{batch}",
        "speed",
        outcome,
        reason,
        value=p99,
        bound=bound,
        unit="ms",
    )


def deployed_bytes(bundle: Bundle) -> int:
    """What has to be shipped: the engine's own files where it has some, else the graph."""
    compiled = bundle.manifest["engine"]
    if not compiled:
        return int(bundle.manifest["graph"]["bytes"])
    names = [compiled["file"], *compiled.get("others", ())]
    return sum((bundle.path / name).stat().st_size for name in names)


def of_size(bundle: Bundle, bounds: Bounds) -> Iterator[Check]:
    """The deployed files together."""
    if bounds.max_size is None:
        return
    size = deployed_bytes(bundle)
    yield Check(
        "size",
        "size",
        "PASS" if size <= bounds.max_size else "FAIL",
        f"the deployed files take {size:,} bytes, allowed are {bounds.max_size:,}",
        value=float(size),
        bound=float(bounds.max_size),
        unit="bytes",
    )
