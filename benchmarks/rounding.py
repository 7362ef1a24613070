"""SQNR of INT8 logits: weights rounded to nearest or by what is read, outliers kept or weighed.

    python -m benchmarks.rounding                          everything → results/rounding.json
    python -m benchmarks.rounding googlenet --weights embedded     one network, its rows anew

Per network and target four graphs are made of the same histograms, two ways to choose ranges by two
ways to round weights, and compared with PyTorch on images that did not serve calibration. "auto" of
the command line takes that way to choose ranges that is better on calibration images
(`inception_deploy/clipping.py`); which one that is is recorded, too.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx

from benchmarks.activation_sqnr import sqnr_db
from benchmarks.native import kept_rows, provenance
from benchmarks.peer_graphs import recipe_of
from inception_deploy.artifact import Artifact, FloatArray
from inception_deploy.calibrate import calibrate, observe_histograms
from inception_deploy.calibration import AUTO, CHOICE_IMAGES, informed
from inception_deploy.calibrators import calibrator
from inception_deploy.clipping import least_noise
from inception_deploy.deployed import runner
from inception_deploy.engines import ENGINES
from inception_deploy.export import export
from inception_deploy.fuse import fuse
from inception_deploy.golden import record_golden
from inception_deploy.images import ImagePlan, plan_images
from inception_deploy.pipeline import reference_of
from inception_deploy.precisions import PRECISIONS
from inception_deploy.progress import SilentProgress
from inception_deploy.recipe import Recipe, TargetName, WeightRounding
from inception_deploy.targets import TARGETS
from inception_deploy.trials import torch_predictor

__all__ = ["RESULTS", "SUBJECTS", "main", "rounding_table"]

RESULTS = Path(__file__).parent / "results" / "rounding.json"

SUBJECTS = (
    ("googlenet", "embedded"),
    ("inception_resnet_v2", "embedded"),
    ("googlenet", "random:0"),
    ("inception_v3", "random:0"),
    ("inception_next_tiny", "random:0"),
)
PLACED: tuple[TargetName, ...] = ("onnxruntime", "openvino", "tensorrt-rtx")
ROUNDINGS: tuple[WeightRounding, ...] = ("nearest", "gptq")
SIZES = {"embedded": (256, 1000), "random:0": (32, 24)}
"""Images for calibration, and for the SQNR."""

_SILENT = SilentProgress()


def measured(
    recipe: Recipe, exported: Artifact, images: ImagePlan, logits: FloatArray, target: TargetName
) -> dict[str, Any]:
    """The four SQNRs of one target, dB, by "RANGES, ROUNDING", and the ranges that auto takes."""
    recipe = recipe.but(target=target)
    asked = TARGETS.get(target)
    model = fuse(exported, asked.rewrites("int8"), progress=_SILENT).model
    precision = PRECISIONS.get("int8").at(asked.placement)
    chosen = images.calibration
    watched = precision.watched(model)
    assert watched is not None, "INT8 chooses its ranges"
    histograms = observe_histograms(
        model,
        (batch.inputs for batch in chosen.batches()),
        tensors=tuple(watched),
        engine=ENGINES.get("onnxruntime"),
        data_digest="",
        total=chosen.batch_count(),
    )
    grids = precision.grids(model)
    candidates = [calibrate(histograms, calibrator(m), grids, watched) for m in AUTO]
    shown, engine = chosen.spread(CHOICE_IMAGES), ENGINES.get("onnxruntime")
    found: dict[str, float] = {}
    taken = ""
    for rounding in ROUNDINGS:
        own = recipe.but(weight_rounding=rounding)
        knowing = informed(own, model, chosen, precision, candidates[0], _SILENT)
        for ranges in candidates:
            lowered = knowing.lower(model, ranges).model
            outputs = _outputs(lowered, target, images.parity.batches(4))
            found[f"{ranges.calibrator}, {rounding}"] = round(sqnr_db(logits, outputs), 2)
        taken = least_noise(
            model,
            knowing,
            candidates,
            lambda: (batch.inputs for batch in shown.batches(2)),
            exact=engine,
            engine=engine if target != "tensorrt-rtx" else runner(target),
            total=shown.batch_count(2),
        ).calibrator
    return {"sqnr_db": found, "auto": taken}


def _outputs(model: onnx.ModelProto, target: str, batches: Iterable[Any]) -> FloatArray:
    """Of a lowered graph, as this machine runs the target's."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        onnx.save(model, path)
        with runner(target).session(path) as session:
            return np.concatenate([session.run(batch.inputs) for batch in batches])


def rounding_table(facts: Mapping[str, Any]) -> str:
    """dB, the ranges that auto takes in bold."""
    lines = ["| network, weights | target | nearest | by what is read |", "|---|---|---:|---:|"]
    for row in facts["rows"]:
        cells = []
        for rounding in ROUNDINGS:
            values = {r: row["sqnr_db"][f"{r}, {rounding}"] for r in AUTO}
            cells.append(
                " / ".join(
                    f"**{v:.1f}**" if r == row["auto"] else f"{v:.1f}" for r, v in values.items()
                )
            )
        kind = row["weights"].partition(":")[0]
        lines.append(f"| {row['network']}, {kind} | {row['target']} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def _write(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
    order = {subject: index for index, subject in enumerate(SUBJECTS)}
    ordered = sorted(rows, key=lambda r: order.get((r["network"], r["weights"]), len(order)))
    found = {"command": "python -m benchmarks.rounding", **facts, "rows": ordered}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


@click.command()
@click.argument("networks", nargs=-1)
@click.option("--weights", type=click.Choice(list(SIZES)), help="Both where none is named.")
def main(networks: tuple[str, ...], weights: str | None) -> None:
    """Measure NETWORKS, all of the table where none is named, and write their rows."""
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    now = provenance()
    rows = list(kept_rows(results, now))
    for network, source in SUBJECTS:
        if (networks and network not in networks) or (weights and weights != source):
            continue
        with tempfile.TemporaryDirectory() as folder:
            recipe = recipe_of(network, source, Path(folder), SIZES[source])
            reference = reference_of(recipe)
            images = plan_images(recipe, reference, _SILENT)
            predict = torch_predictor(reference.module)
            logits = np.concatenate([predict(b.inputs) for b in images.parity.batches(4)])
            golden = record_golden(reference.module, images.golden().inputs)
            exported = export(
                reference.module,
                golden,
                network=reference.name,
                preprocessing=reference.preprocessing,
                class_names=reference.class_names or (),
                progress=_SILENT,
            )
            for target in PLACED:
                row = {"network": network, "weights": source, "target": target}
                row |= measured(recipe, exported, images, logits, target)
                click.echo(json.dumps(row))
                same = ("network", "weights", "target")
                rows = [r for r in rows if any(r[k] != row[k] for k in same)]
                rows.append(row)
                _write(rows, now)


if __name__ == "__main__":
    main()
