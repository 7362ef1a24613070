"""Calibration measured, and its range tables.

    python -m benchmarks.calibration                   time, memory, SQNR → results/calibration.json
    python -m benchmarks.calibration tables            calibration/NETWORK.json, embedded networks

Every figure of time and memory comes from a process of its own, which imports no PyTorch; drawing
and preprocessing the images is not part of the time. The calibrators of onnxruntime.quantization
get the same graph and the same images, one at a time, and observe what they observe by default:
every float tensor. So does ours in the row that says so; in the others it observes what
convolutions and linear layers read.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx

from benchmarks.activation_sqnr import logits_of, quantise_activations, read_by_weights, sqnr_db
from inception_deploy.artifact import Artifact, FloatArray, model_digest
from inception_deploy.calibrate import calibrate, observe_histograms
from inception_deploy.calibrators import CALIBRATORS, Grid, calibrator
from inception_deploy.dataset import Dataset, batches, open_dataset
from inception_deploy.engines import ENGINES
from inception_deploy.machine import describe, library_versions
from inception_deploy.observation import observed
from inception_deploy.precisions import PRECISIONS
from inception_deploy.preprocess import Preprocessing
from inception_deploy.ranges import Ranges
from inception_deploy.recipe import Recipe
from inception_deploy.stability import stability

__all__ = ["ImageStream", "embedded_graph", "main", "table"]

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "calibration.json"
EMBEDDED = ("googlenet", "inception_resnet_v2")
BATCH = 16
VARIANTS = ("percentile:99.999", "auto:2", "auto:4", "auto:64", "auto:1024")
GRIDS = {"u8": Grid(), "s8": Grid(symmetric=True)}

_METADATA = "inception_deploy.preprocessing"


class ImageStream:
    """Batches of a data set, preprocessed for a graph; knows how long making them took.

    Args:
        model: brings its preprocessing in its metadata.
        images: how many.
        batch: images of one batch.
    """

    def __init__(self, model: onnx.ModelProto, images: int, batch: int = BATCH) -> None:
        text = next(p.value for p in model.metadata_props if p.key == _METADATA)
        self._preprocessing = Preprocessing.from_dict(json.loads(text))
        self.dataset: Dataset = open_dataset(
            "shapes", split="train", size=images, image_size=self._preprocessing.size
        )
        self._batch = batch
        self.seconds = 0.0

    def count(self) -> int:
        """How many batches there are."""
        return -(-len(self.dataset) // self._batch)

    def __iter__(self) -> Iterator[FloatArray]:
        started = time.perf_counter()
        for batch in batches(self.dataset, self._preprocessing, self._batch):
            self.seconds += time.perf_counter() - started
            yield batch.inputs
            started = time.perf_counter()
        self.seconds += time.perf_counter() - started


def embedded_graph(network: str, weights: str = "embedded") -> Artifact:
    """The FP32 graph of a network as ONNX Runtime's target rewrites it."""
    from inception_deploy.export import export
    from inception_deploy.fuse import fuse
    from inception_deploy.golden import record_golden
    from inception_deploy.images import plan_images
    from inception_deploy.pipeline import reference_of
    from inception_deploy.progress import SilentProgress
    from inception_deploy.targets import TARGETS

    recipe = Recipe(network=network, weights=weights, precision="int8")
    reference = reference_of(recipe)
    images = plan_images(recipe, reference, SilentProgress())
    exported = export(
        reference.module,
        record_golden(reference.module, images.golden().inputs),
        network=network,
        preprocessing=reference.preprocessing,
        class_names=reference.class_names or (),
    )
    return fuse(exported, TARGETS.get(recipe.target).rewrites(recipe.precision))


def table(model: onnx.ModelProto, *, name: str, grid: str, images: int) -> dict[str, Any]:
    """Ranges of what INT8 for ONNX Runtime quantises, how they came about, whether they settled.

    Args:
        name: of the calibrator.
        grid: "u8" or "s8".
    """
    stream = ImageStream(model, images)
    watched = PRECISIONS.get("int8").at("onnxruntime").watched(model) or {}
    seen = observe_histograms(
        model,
        stream,
        tensors=tuple(watched),
        engine=ENGINES.get("onnxruntime"),
        data_digest=stream.dataset.digest,
        total=stream.count(),
    )
    return {
        "recipe": {
            "command": "python -m benchmarks.calibration tables",
            **{"calibrator": name, "grid": grid, "images": images, "data": "shapes (train)"},
            "versions": library_versions(("onnx", "onnxruntime", "numpy", "torch")),
        },
        "stability": stability(seen),
        "ranges": calibrate(seen, calibrator(name), GRIDS[grid], watched).to_dict(),
    }


def _forward(model: onnx.ModelProto, stream: ImageStream) -> None:
    with ENGINES.get("onnxruntime").session(model.SerializeToString()) as session:
        for batch in stream:
            session.run(batch)


def _ours(
    tensors: tuple[str, ...], name: str | None, model: onnx.ModelProto, stream: ImageStream
) -> None:
    seen = observe_histograms(
        model,
        stream,
        tensors=tensors,
        engine=ENGINES.get("onnxruntime"),
        data_digest="",
        total=stream.count(),
    )
    if name:
        calibrate(seen, calibrator(name), Grid())


def _onnxruntime(method: str, path: Path, stream: ImageStream) -> None:
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    class Reader:
        def __init__(self) -> None:
            self._batches = iter(stream)

        def get_next(self) -> dict[str, FloatArray] | None:
            batch = next(self._batches, None)
            return None if batch is None else {"input": batch}

    with tempfile.TemporaryDirectory() as folder:
        calibrates = create_calibrator(
            path,
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=getattr(CalibrationMethod, method),
        )
        calibrates.collect_data(Reader())
        calibrates.compute_data()


def _jobs(path: Path, model: onnx.ModelProto) -> dict[str, tuple[int, Callable[..., None]]]:
    """Name → batch size, and what to do with a stream."""
    return {
        "forward, batch 1": (1, lambda stream: _forward(model, stream)),
        "forward, batch 16": (BATCH, lambda stream: _forward(model, stream)),
        "ours, observation alone": (
            BATCH,
            lambda stream: _ours(read_by_weights(model), None, model, stream),
        ),
        "ours, auto": (BATCH, lambda stream: _ours(read_by_weights(model), "auto", model, stream)),
        "ours, auto, every tensor": (
            BATCH,
            lambda stream: _ours(observed(model), "auto", model, stream),
        ),
        "onnxruntime MinMax": (1, lambda stream: _onnxruntime("MinMax", path, stream)),
        "onnxruntime Entropy": (1, lambda stream: _onnxruntime("Entropy", path, stream)),
    }


def _measured(path: Path, job: str, images: int) -> dict[str, Any]:
    """One row, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.calibration", "one", str(path), job, str(images)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def _sqnr(model: onnx.ModelProto, calibration: int, validation: int) -> list[dict[str, Any]]:
    """The logits' SQNR for every calibrator, on images that did not serve calibration."""
    stream = ImageStream(model, calibration + validation)
    everything = np.concatenate(list(stream))
    images, unseen = everything[:calibration], everything[calibration:]
    expected = logits_of(model, unseen)
    seen = observe_histograms(
        model,
        [images],
        tensors=read_by_weights(model),
        engine=ENGINES.get("onnxruntime"),
        data_digest="",
        total=1,
    )
    rows = []
    for grid_name, grid in GRIDS.items():
        for name in (*CALIBRATORS.names(), *VARIANTS):
            ranges: Ranges = calibrate(seen, calibrator(name), grid)
            got = logits_of(quantise_activations(model, ranges, grid), unseen)
            rows.append(
                {
                    **{"calibrator": name, "grid": grid_name, "images": calibration},
                    "sqnr_db": round(sqnr_db(expected, got), 2),
                }
            )
    return rows


@click.group(invoke_without_command=True)
@click.option("--counts", default="64,256,1024", help="Numbers of images, embedded networks.")
@click.option("--large", default=16, help="Images for inception_v3 at 299 pixels.")
@click.option("--only", type=click.Choice(["cost", "sqnr"]), help="Leave the other as it is.")
@click.pass_context
def main(context: click.Context, counts: str, large: int, only: str | None) -> None:
    """Measure calibration; results go to benchmarks/results/calibration.json."""
    if context.invoked_subcommand is not None:
        return
    results: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8")) if only else {}
    sizes = [int(count) for count in counts.split(",")]
    if only != "sqnr":
        results["cost"] = list(_costs(sizes, large))
    if only != "cost":
        results["sqnr"] = list(_sqnrs(sizes[:2]))
    results |= {"machine": describe().to_dict(), "versions": library_versions()}
    RESULT.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def _costs(sizes: list[int], large: int) -> Iterator[dict[str, Any]]:
    """Time and memory of every job, told as they come."""
    with tempfile.TemporaryDirectory() as folder:
        for network, weights in (("googlenet", "embedded"), ("inception_v3", "random:0")):
            path = Path(folder) / f"{network}.onnx"
            model = embedded_graph(network, weights).model
            onnx.save(model, path)
            for job in _jobs(path, model):
                for images in sizes if weights == "embedded" else [large]:
                    if job.startswith("onnxruntime") and images > sizes[0]:
                        continue
                    row = {"network": network, **_measured(path, job, images)}
                    click.echo(json.dumps(row))
                    yield row


def _sqnrs(sizes: list[int]) -> Iterator[dict[str, Any]]:
    """The SQNR of every calibrator on the embedded networks, told as they come."""
    for network in EMBEDDED:
        model = embedded_graph(network).model
        for images in sizes:
            for row in _sqnr(model, images, 384):
                click.echo(json.dumps({"network": network, **row}))
                yield {"network": network, **row}


def _peak_mib() -> float:
    """Most resident memory of this process; getrusage would tell the parent's, where that was more.

    Linux only, as the figures are.
    """
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = re.search(r"^VmHWM:\s*(\d+) kB", text, re.MULTILINE)
    assert peak, "no VmHWM in /proc/self/status"
    return int(peak.group(1)) / 1024


@main.command()
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@click.argument("job")
@click.argument("images", type=int)
def one(path: Path, job: str, images: int) -> None:
    """Run JOB over IMAGES images through the graph at PATH; prints its figures as JSON."""
    model = onnx.load(path)
    batch, work = _jobs(path, model)[job]
    stream = ImageStream(model, images, batch)
    started = time.perf_counter()
    work(stream)
    seconds = time.perf_counter() - started - stream.seconds
    peak = _peak_mib()
    click.echo(
        json.dumps(
            {
                **{"job": job, "images": images, "seconds": round(seconds, 3)},
                **{"ms_per_image": round(seconds / images * 1e3, 3), "peak_mib": round(peak, 1)},
            }
        )
    )


@main.command()
@click.option("--calibrator", "name", default="auto")
@click.option("--grid", type=click.Choice(sorted(GRIDS)), default="u8")
@click.option("--images", default=512)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=ROOT / "calibration")
def tables(name: str, grid: str, images: int, output: Path) -> None:
    """Write the range table of every embedded network."""
    output.mkdir(parents=True, exist_ok=True)
    for network in EMBEDDED:
        model = embedded_graph(network).model
        made = {"network": network, **table(model, name=name, grid=grid, images=images)}
        path = output / f"{network}.json"
        path.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
        click.echo(f"{path.name}: {len(made['ranges']['tensors'])} tensors")
        click.echo(f"  graph {model_digest(model)[:12]}…")


if __name__ == "__main__":
    main()
