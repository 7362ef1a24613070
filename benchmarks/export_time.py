"""How long the whole way takes, stage by stage, and how much memory: `export` of the family.

    python -m benchmarks.export_time                          results/export_time.json
    python -m benchmarks.export_time inception_v3 --precision int8

Every export has a process of its own: random weights, native size, 64 images for parity and for
calibration, no timing of the result. Seconds are wall-clock and of one run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.native import kept_rows, provenance
from inception_deploy.bundle import Bundle
from inception_deploy.networks import NETWORKS
from inception_deploy.throughput.footprint import peak_rss

__all__ = ["RESULTS", "by_stage", "main"]

RESULTS = Path(__file__).parent / "results" / "export_time.json"
PRECISIONS = ("fp32", "fp16", "int8")
IMAGES = 64


def measured(network: str, precision: str) -> dict[str, Any]:
    """One export in this process."""
    from inception_deploy.pipeline import deploy
    from inception_deploy.recipe import Recipe

    with tempfile.TemporaryDirectory() as directory:
        recipe = Recipe.from_dict(
            {
                **Recipe().to_dict(),
                **{"network": network, "weights": "random:0", "precision": precision},
                **{"data_size": IMAGES, "calibration_size": IMAGES, "seconds": 0.0},
            }
        )
        started = time.perf_counter()
        bundle: Bundle = deploy(recipe, Path(directory) / "bundle")
        seconds = time.perf_counter() - started
        stages = bundle.manifest["stages"]
    return {
        "network": network,
        "precision": precision,
        "seconds": round(seconds, 2),
        "stages": {name: round(spent, 3) for name, spent in by_stage(stages, seconds).items()},
        "peak_rss_mb": round(peak_rss() / 1e6),
    }


def by_stage(stages: Sequence[Mapping[str, Any]], total: float) -> dict[str, float]:
    """Seconds of export, rewrites and lowering; "other" is loading, calibration and parity."""
    found: dict[str, float] = {}
    for stage in stages:
        name = stage["name"].partition("/")[0]
        found[name] = found.get(name, 0.0) + stage["seconds"]
    return {**found, "other": total - sum(found.values())}


@click.command()
@click.argument("networks", nargs=-1)
@click.option("--precision", "precisions", multiple=True, type=click.Choice(PRECISIONS))
@click.option("--one", is_flag=True, hidden=True)
def main(networks: tuple[str, ...], precisions: tuple[str, ...], one: bool) -> None:
    """Export NETWORKS, all where none is named; rows of this machine and versions are kept."""
    if one:
        click.echo(json.dumps(measured(networks[0], precisions[0])))
        return
    now = provenance()
    stored = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    rows = kept_rows(stored, now)
    for network in networks or tuple(spec.name for spec in NETWORKS):
        for precision in precisions or PRECISIONS:
            key = (network, precision)
            if not networks and any((r["network"], r["precision"]) == key for r in rows):
                continue
            command = [sys.executable, "-m", __spec__.name, network]
            done = subprocess.run(
                [*command, "--precision", precision, "--one"],
                check=False,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                said = done.stderr.strip().splitlines()[-1:]
                raise click.ClickException(f"{network} {precision}: {' '.join(said)}")
            row = json.loads(done.stdout.splitlines()[-1])
            rows = [r for r in rows if (r["network"], r["precision"]) != key] + [row]
            click.echo(f"{network} {precision}: {row['seconds']} s, {row['peak_rss_mb']} MB")
            order = {spec.name: n for n, spec in enumerate(NETWORKS)}
            rows.sort(key=lambda r: (order[r["network"]], PRECISIONS.index(r["precision"])))
            facts = {"command": "python -m benchmarks.export_time", **now, "images": IMAGES}
            text = json.dumps({**facts, "rows": rows}, indent=1)
            RESULTS.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
