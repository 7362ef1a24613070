"""The family side by side: network × precision × engine × batch, at native size.

    python -m benchmarks.sweep                      all networks → results/sweep.json
    python -m benchmarks.sweep inception_v3         one network, its row written anew
    python -m benchmarks.sweep --engine openvino    one engine; again for more
    python -m benchmarks.sweep --prepare            only make the bundles

All graphs of one network alternate in one run, so that its ratios are of one run; no ratio compares
networks. A network whose row is of this machine and these versions is passed over, so that a sweep
that was stopped goes on where it was; --again measures it anew.

Weights are random (`inception_deploy/random_weights.py`): speed does not depend on them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast, get_args

import click
import numpy as np

from benchmarks.native import (
    CACHE,
    kept_rows,
    noise_images,
    provenance,
    ratio_facts,
)
from inception_deploy.bundle import Bundle
from inception_deploy.deployed import open_deployed
from inception_deploy.engines import ENGINES
from inception_deploy.errors import InceptionDeployError, StageError
from inception_deploy.networks import NETWORKS
from inception_deploy.pipeline import deploy, reference_of
from inception_deploy.recipe import PrecisionName, Recipe, TargetName, serves
from inception_deploy.targets import TARGETS
from inception_deploy.throughput import Candidate, measure
from inception_deploy.trials import filled

__all__ = ["PRECISIONS", "RESULTS", "main", "row_of"]

RESULTS = Path(__file__).parent / "results" / "sweep.json"

PRECISIONS: tuple[PrecisionName, ...] = ("fp32", "fp16", "int8")
BATCHES = (1, 8)
IMAGES = 16
"""For calibration; ranges decide on accuracy, not on speed."""


def prepare(
    network: str, folder: Path, precisions: Sequence[PrecisionName], engines: Collection[str]
) -> tuple[dict[str, Path], dict[str, str]]:
    """The bundles of a network for `engines`, made where they are missing.

    Returns:
        "engine:precision" → directory; and, for those whose export was refused, what it said. That
        is kept in the folder, too.
    """
    found, refused = {}, {}
    images = folder / "images.npz"
    for target in TARGETS:
        if target.name not in get_args(TargetName):
            continue
        if target.engine not in engines or not ENGINES.get(target.engine).availability().ok:
            continue
        for precision in precisions:
            if not serves(target.name, precision):
                continue
            key, path = f"{target.engine}:{precision}", folder / f"{target.name}-{precision}"
            said = path.with_suffix(".txt")
            if said.exists():
                refused[key] = said.read_text(encoding="utf-8")
                continue
            if not path.exists():
                recipe = Recipe(
                    network=network,
                    weights="random:0",
                    target=cast(TargetName, target.name),
                    precision=precision,
                    calibration=str(images),
                    data=str(images),
                    calibration_size=IMAGES,
                    data_size=8,
                    seconds=0.0,
                )
                if not images.exists():
                    preprocessing = reference_of(recipe).preprocessing
                    np.savez(images, input=noise_images(preprocessing, IMAGES))
                try:
                    deploy(recipe, path)
                except StageError as error:
                    said.write_text(str(error), encoding="utf-8")
                    refused[key] = str(error)
                    continue
            found[key] = path
    return found, refused


def row_of(network: str, bundles: Mapping[str, Path], seconds: float) -> dict[str, Any]:
    """Every bundle of one network, measured in one run.

    Args:
        bundles: "engine:precision" → directory; ratios refer to the first.
        seconds: per bundle and batch size.
    """
    with ExitStack() as stack:
        candidates = []
        for key, path in bundles.items():
            bundle, precision = Bundle.open(path), key.partition(":")[2]
            session = stack.enter_context(open_deployed(bundle))
            candidates.append(Candidate.of(session, session.name, precision, precision))
        golden = Bundle.open(next(iter(bundles.values()))).golden()
        report = measure(
            candidates,
            lambda size: filled(golden.inputs, size),
            batches=BATCHES,
            seconds=seconds,
        )
    return {
        "network": network,
        "image_size": int(golden.inputs.shape[-1]),
        "figures": [
            {
                "engine": row.engine,
                "precision": row.precision,
                "batch": row.batch,
                "median_ms": round(row.latency_ms.median, 3),
                "p99_ms": round(row.latency_ms.p99, 3),
                "images_per_second": round(row.images_per_second, 2),
                "cov": round(row.cov, 4),
                "first_ms": round(row.first_ms, 2),
            }
            for row in report.rows
        ],
        "ratios": [{"batch": ratio.batch, **ratio_facts(ratio)} for ratio in report.ratios],
        "warnings": list(report.warnings),
    }


def write(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], path: Path) -> None:
    """The file, networks in the registry's order; replaced as a whole."""
    order = {spec.name: number for number, spec in enumerate(NETWORKS)}
    rows = sorted(rows, key=lambda row: order[row["network"]])
    text = json.dumps({"command": "python -m benchmarks.sweep", **facts, "rows": rows}, indent=1)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)


@click.command()
@click.argument("networks", nargs=-1)
@click.option("--precision", "precisions", multiple=True, type=click.Choice(PRECISIONS))
@click.option("--engine", "engines", multiple=True, type=click.Choice(ENGINES.names()))
@click.option("--seconds", default=2.0, show_default=True, help="Per bundle and batch size.")
@click.option("--bundles", type=click.Path(path_type=Path), default=CACHE / "sweep")
@click.option("--prepare", "only_prepare", is_flag=True, help="Make the bundles, measure nothing.")
@click.option("--again", is_flag=True, help="Also networks that have a row of this machine.")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def main(
    networks: tuple[str, ...],
    precisions: tuple[PrecisionName, ...],
    engines: tuple[str, ...],
    seconds: float,
    bundles: Path,
    only_prepare: bool,
    again: bool,
    results: Path,
) -> None:
    """Sweep NETWORKS, all where none is named."""
    now = provenance()
    stored = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {}
    rows = kept_rows(stored, now)
    for network in networks or tuple(spec.name for spec in NETWORKS):
        if not again and not networks and any(row["network"] == network for row in rows):
            click.echo(f"{network}: done before")
            continue
        folder = bundles / network
        folder.mkdir(parents=True, exist_ok=True)
        try:
            made, refused = prepare(
                network, folder, precisions or PRECISIONS, engines or ENGINES.names()
            )
            for key, said in refused.items():
                click.echo(f"{network} {key}: {said}", err=True)
            if only_prepare:
                continue
            row = {**row_of(network, made, seconds), "refused": refused}
        except InceptionDeployError as error:
            raise click.ClickException(f"{network}: {error}") from error
        rows = [*(r for r in rows if r["network"] != network), row]
        write(rows, now, results)
        for found in row["figures"]:
            click.echo(
                f"{network} {found['engine']} {found['precision']} batch {found['batch']}: "
                f"{found['median_ms']} ms, {found['images_per_second']} images/s"
            )


if __name__ == "__main__":
    main()
