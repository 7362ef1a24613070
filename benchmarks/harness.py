"""What the harness itself costs, and how well it repeats.

    python -m benchmarks.harness                 the embedded network in FP16 → results/harness.json
    python -m benchmarks.harness --bundle DIR    a bundle of yours

The null engine does nothing, so that its query is the harness: call, validation, two readings of
the clock. For repeatability the bundle's graph is measured against itself, in two sessions, ten
times over: whatever the ratio is off 1 by, the harness or the machine has made. The third figure
is how long `bench` takes with its defaults.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks.native import CACHE, plain_errors, provenance
from inception_deploy.bundle import Bundle
from inception_deploy.contenders import engine_of
from inception_deploy.deployed import open_deployed
from inception_deploy.pipeline import deploy
from inception_deploy.recipe import Recipe
from inception_deploy.throughput import Candidate, ThroughputReport, measure
from inception_deploy.throughput.null import harness_seconds
from inception_deploy.trials import filled

__all__ = ["GOALS", "RESULTS", "main", "summary"]

RESULTS = Path(__file__).parent / "results" / "harness.json"
BATCHES = (1, 8)
RUNS = 10

GOALS = {"harness_us": 20.0, "share": 0.02, "within": 0.02, "runs_within": 9, "bench_seconds": 30.0}
"""At most so many µs per query and such a share of a figure; the ratio of a bundle to itself within
1 ± so much in so many of ten runs; `bench` with its defaults in so many seconds."""


def against_itself(bundle: Bundle, seconds: float) -> ThroughputReport:
    """The graph and itself, loaded twice, in one run."""
    engine = engine_of(bundle)
    make_batch = partial(filled, bundle.golden().feed)
    precision = str(bundle.manifest["precision"])
    with open_deployed(bundle) as one, open_deployed(bundle) as other:
        return measure(
            [
                Candidate.of(s, engine.name, name, precision)
                for name, s in (("one", one), ("other", other))
            ],
            make_batch,
            batches=BATCHES,
            seconds=seconds,
        )


def bench_seconds(bundle: Path) -> float:
    """What `inception-deploy bench BUNDLE` takes, its start included."""
    command = [sys.executable, "-m", "inception_deploy.cli.main", "bench", str(bundle), "-q"]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def summary(ratios: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Per batch: how many runs are within the goal, the median, the furthest from 1.

    Args:
        ratios: batch → ratio, one per run.
    """
    found = {}
    for batch in ratios[0]:
        values = [run[batch] for run in ratios]
        furthest = max(values, key=_off)
        found[batch] = {
            "within": sum(_off(value) <= GOALS["within"] for value in values),
            "runs": len(values),
            "median": round(statistics.median(values), 4),
            "furthest": round(furthest, 4),
        }
    return found


def _off(ratio: float) -> float:
    """How far from 1."""
    return abs(ratio - 1)


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path))
@click.option("--seconds", default=2.0, show_default=True, help="Per session and batch.")
@click.option("--runs", default=RUNS, show_default=True, type=click.IntRange(min=1))
@plain_errors()
def main(bundle: Path | None, seconds: float, runs: int) -> None:
    """Measure the harness and write results/harness.json."""
    if bundle is None:
        bundle = CACHE / "harness"
        if not bundle.exists():
            deploy(Recipe(precision="fp16", data_size=16, seconds=0.0), bundle)
    opened = Bundle.open(bundle)
    ratios, shares = [], []
    for number in range(runs):
        report = against_itself(opened, seconds)
        ratios.append({str(found.batch): round(found.ratio, 4) for found in report.ratios})
        shares += [row.harness_share for row in report.rows if row.harness_share is not None]
        click.echo(f"run {number + 1}: {ratios[-1]}")
    result = {
        "command": "python -m benchmarks.harness",
        **provenance(),
        "network": opened.manifest["network"]["title"],
        "precision": opened.manifest["precision"],
        "harness_us": round(1e6 * harness_seconds(), 2),
        "share": round(max(shares), 5),
        "seconds": seconds,
        "layouts": {str(row.batch): row.layouts for row in report.rows},
        "against_itself": summary(ratios),
        "ratios": ratios,
        "bench_seconds": round(bench_seconds(bundle), 1),
        "goals": GOALS,
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(f"null engine {result['harness_us']} µs, bench {result['bench_seconds']} s")
    click.echo(json.dumps(result["against_itself"]))


if __name__ == "__main__":
    main()
