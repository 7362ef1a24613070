"""How long the whole way takes, step by step, and how much memory: `export` of the family.

    python -m benchmarks.export_time                          results/export_time.json
    python -m benchmarks.export_time inception_v3 --precision int8 --calibration-size 512

Every export has a process of its own, with the command's defaults: 256 images for parity, 256 for
calibration, the result timed beside PyTorch. Weights are random, at native size; making them (batch
norm is given statistics) stands in for loading a checkpoint. Seconds are wall-clock and of one run,
from the start of the process to its end.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from benchmarks.native import kept_rows, provenance
from inception_deploy.networks import NETWORKS
from inception_deploy.progress import SilentProgress
from inception_deploy.recipe import Recipe
from inception_deploy.throughput.footprint import peak_rss

__all__ = ["GOALS", "RESULTS", "STEPS", "Stopwatch", "main", "step_of"]

RESULTS = Path(__file__).parent / "results" / "export_time.json"
PRECISIONS = ("fp32", "fp16", "int8")

GOALS = {"network": "inception_v3", "precision": "int8", "seconds": 90.0, "peak_rss_mb": 2147}
"""The whole export of this network with 256 calibration images, on two cores; peak memory below
2 GiB with 512."""

STEPS: Mapping[str, tuple[str, ...]] = {
    "weights": ("load weights",),
    "export": ("recording the golden", "export"),
    "rewrites": ("fuse/",),
    "calibration": ("calibrating", "looking at", "rounding weights", "running in FP32", "trying"),
    "lowering": ("lower/",),
    "parity": ("comparing",),
    "timing": ("warming up", "measuring batch", "profiling blocks"),
}
"""What a step is called here → how the descriptions begin that its stages give their listener; the
proof of a stage belongs to it."""

T = TypeVar("T")


class Stopwatch(SilentProgress):
    """Listens to a deployment and keeps the seconds of every step.

    What is inside a step belongs to it, and what no step claims is "rest".

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._seconds: dict[str, float] = {}
        self._inside = ["rest"]
        self._since = clock()

    @contextmanager
    def stage(self, description: str) -> Iterator[None]:
        self._lap()
        self._inside.append(step_of(description) or self._inside[-1])
        try:
            yield
        finally:
            self._lap()
            self._inside.pop()

    def track(self, items: Iterable[T], description: str, total: int) -> Iterator[T]:
        with self.stage(description):
            yield from items

    def seconds(self) -> dict[str, float]:
        """Step → seconds until now, in the order of `STEPS`, the rest last."""
        self._lap()
        return {name: self._seconds[name] for name in (*STEPS, "rest") if name in self._seconds}

    def _lap(self) -> None:
        now, step = self._clock(), self._inside[-1]
        self._seconds[step] = self._seconds.get(step, 0.0) + now - self._since
        self._since = now


def step_of(description: str) -> str | None:
    """The step that a stage's description belongs to; None where none claims it."""
    said = description.removeprefix("proving ")
    return next((name for name, begins in STEPS.items() if said.startswith(begins)), None)


def measured(network: str, precision: str, calibration_size: int) -> dict[str, Any]:
    """One export in this process."""
    watch = Stopwatch()
    from inception_deploy.pipeline import deploy  # PyTorch and all it needs: part of the rest

    with tempfile.TemporaryDirectory() as directory:
        recipe = Recipe.from_dict(
            {
                **Recipe().to_dict(),
                **{"network": network, "weights": "random:0", "precision": precision},
                **{"calibration_size": calibration_size},
            }
        )
        deploy(recipe, Path(directory) / "bundle", progress=watch)
    return {"steps": watch.seconds(), "peak_rss_mb": round(peak_rss() / 1e6)}


def row_of(network: str, precision: str, calibration_size: int) -> dict[str, Any]:
    """One export in a process of its own.

    Raises:
        click.ClickException: it failed.
    """
    command = [sys.executable, "-m", "benchmarks.export_time", network, "--one"]
    command += ["--precision", precision, "--calibration-size", str(calibration_size)]
    started = time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:]
        raise click.ClickException(f"{network} {precision}: {' '.join(said)}")
    told = json.loads(done.stdout.splitlines()[-1])
    steps: dict[str, float] = told["steps"]
    steps["rest"] += seconds - sum(steps.values())  # the interpreter's start and end
    return {
        "network": network,
        "precision": precision,
        "calibration_images": None if precision == "fp32" else calibration_size,
        "seconds": round(seconds, 2),
        "steps": {name: round(spent, 2) for name, spent in steps.items()},
        "peak_rss_mb": told["peak_rss_mb"],
    }


def _key(row: Mapping[str, Any]) -> tuple[str, str, int | None]:
    return row["network"], row["precision"], row["calibration_images"]


def write(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], path: Path) -> None:
    """The file, networks in the registry's order; replaced as a whole."""
    order = {spec.name: number for number, spec in enumerate(NETWORKS)}

    def place(row: Mapping[str, Any]) -> tuple[int, int, int]:
        images = row["calibration_images"] or 0
        return order[row["network"]], PRECISIONS.index(row["precision"]), images

    known = {"command": "python -m benchmarks.export_time", **facts, "goals": GOALS}
    text = json.dumps({**known, "rows": sorted(rows, key=place)}, indent=1)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)


@click.command()
@click.argument("networks", nargs=-1)
@click.option("--precision", "precisions", multiple=True, type=click.Choice(PRECISIONS))
@click.option("--calibration-size", default=Recipe().calibration_size, show_default=True)
@click.option("--again", is_flag=True, help="Also exports that have a row of this machine.")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
@click.option("--one", is_flag=True, hidden=True)
def main(
    networks: tuple[str, ...],
    precisions: tuple[str, ...],
    calibration_size: int,
    again: bool,
    results: Path,
    one: bool,
) -> None:
    """Export NETWORKS, all where none is named; rows of this machine and versions are kept."""
    if one:
        click.echo(json.dumps(measured(networks[0], precisions[0], calibration_size)))
        return
    now = provenance()
    stored = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {}
    rows = kept_rows(stored, now)
    for network in networks or tuple(spec.name for spec in NETWORKS):
        for precision in precisions or PRECISIONS:
            images = None if precision == "fp32" else calibration_size
            key = (network, precision, images)
            if not again and any(_key(row) == key for row in rows):
                click.echo(f"{network} {precision}: done before")
                continue
            row = row_of(network, precision, calibration_size)
            rows = [*(other for other in rows if _key(other) != key), row]
            click.echo(f"{network} {precision}: {row['seconds']} s, {row['peak_rss_mb']} MB")
            write(rows, now, results)


if __name__ == "__main__":
    main()
