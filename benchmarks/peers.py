"""Our INT8 graphs beside those of the peers: speed in one interleaved run, and SQNR of the logits.

    python -m benchmarks.peers                             all → results/peers.json
    python -m benchmarks.peers inception_v3                one network, its row written anew
    python -m benchmarks.peers googlenet --weights embedded    trained weights: SQNR and top-1
    python -m benchmarks.peers --prepare …                 only make the graphs

Ours is the bundle that `inception-deploy export NETWORK --int8` writes, one per target whose engine
works here. The peers quantise the bundle's `reference.onnx`, the plain export, with the same
calibration images: onnxruntime.quantization.quantize_static, per channel, QDQ, uint8 activations
and int8 weights, after quant_pre_process; and nncf.quantize with the preset MIXED, run by OpenVINO.
For scale there are the plain export on ONNX Runtime and OpenVINO, and PyTorch itself, eager with
channels-last activations and compiled ahead of time by AOTInductor; on a CPU with the instructions
for it, OpenVINO and AOTInductor also in bfloat16.

For TensorRT there is no GPU to be fast on, so only SQNR is compared: the graph of our placement and
those of nvidia-modelopt (`modelopt.onnx.quantization.quantize`, int8, max and entropy), both run by
ONNX Runtime.

Weights are random at native size, their images octave noise (`inception_deploy/random_weights.py`),
or the embedded trained ones at theirs. SQNR compares with PyTorch on images that did not serve
calibration.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
import numpy as np
import torch

from benchmarks.activation_sqnr import sqnr_db
from benchmarks.native import (
    CACHE,
    cycled,
    geometric_mean,
    kept_rows,
    noise_images,
    provenance,
)
from inception_deploy.artifact import FloatArray
from inception_deploy.build_options import BuildOptions
from inception_deploy.engines import ENGINES, Session
from inception_deploy.engines.openvino import Openvino, Options
from inception_deploy.errors import InceptionDeployError
from inception_deploy.images import plan_images
from inception_deploy.machine import describe
from inception_deploy.pipeline import deploy, reference_of
from inception_deploy.progress import SilentProgress
from inception_deploy.recipe import PrecisionName, Recipe, serves
from inception_deploy.targets import TARGETS
from inception_deploy.throughput import Candidate, measure
from inception_deploy.trials import torch_predictor

__all__ = ["EACH", "GOAL", "NETWORKS", "RESULTS", "STOCK", "main", "summary"]

RESULTS = Path(__file__).parent / "results" / "peers.json"

NETWORKS = (
    *("googlenet", "inception_v3", "inception_v4"),
    *("inception_resnet_v2", "xception", "inception_next_tiny"),
)

BATCHES = (1, 8)

STOCK = "onnxruntime:quantize_static"
FLOAT = "onnxruntime:fp32"
NNCF = "openvino:nncf"
PEERS = (STOCK, NNCF)

MODELOPT: Mapping[str, str] = {
    "max": "tensorrt:modelopt-max",
    "entropy": "tensorrt:modelopt-entropy",
}
"""Calibration method → key."""

EAGER = "torch:eager"
INDUCTOR: Mapping[PrecisionName, str] = {"fp32": "torch:inductor", "bf16": "torch:inductor-bf16"}

OPENVINO_FLOATS: Mapping[str, Literal["f32", "bf16"]] = {
    "openvino:fp32": "f32",
    "openvino:bf16": "bf16",
}
"""Key → what OpenVINO computes the plain export in; left alone it takes the faster one."""

GOAL = {"onnxruntime": 1.3, "openvino": 1.05}
"""Geometric mean of the ratio to the peer on the same engine that we want at least."""

EACH = {"onnxruntime": 1.03, "openvino": 0.97}
"""What no network may fall below."""

_SAME_ENGINE = {"onnxruntime": (STOCK,), "openvino": (NNCF,), "tensorrt": tuple(MODELOPT.values())}
"""Engine → its peers. The best of them counts for SQNR, the first for speed."""

_NEVER_TIMED = "tensorrt:"

K = TypeVar("K", bound=str)

Files = dict[str, tuple[str, Path]]
"""Key of a candidate → the engine and the file."""


def recipe_of(network: str, weights: str, folder: Path, images: tuple[int, int]) -> Recipe:
    """What is asked of `deploy`; the images of random networks are drawn here."""
    recipe = Recipe(
        network=network,
        weights=weights,
        precision="int8",
        calibration_size=images[0],
        data_size=images[1],
        seconds=0.0,
    )
    if weights == "embedded":
        return recipe
    drawn, both = folder / "calibration.npz", folder / "validation.npz"
    if not both.exists():
        preprocessing = reference_of(recipe).preprocessing
        noise = noise_images(preprocessing, sum(images))
        np.savez(drawn, input=noise[: images[0]])
        np.savez(both, input=noise[images[0] :])
    return recipe.but(calibration=str(drawn), data=str(both))


def prepare(recipe: Recipe, folder: Path) -> None:
    """Make what is not there yet: PyTorch's logits, our bundles, the peers' graphs."""
    images = folder / "images.npz"
    if not images.exists():
        reference = reference_of(recipe)
        plan = plan_images(recipe, reference, SilentProgress())
        calibration = np.concatenate([b.inputs for b in plan.calibration.batches()])
        shown = list(plan.parity.batches())
        validation = np.concatenate([b.inputs for b in shown])
        predict = torch_predictor(reference.module)
        arrays = {
            "calibration": calibration,
            "validation": validation,
            "logits": np.concatenate([predict(image[None]) for image in validation]),
        }
        labels = [b.labels for b in shown if b.labels is not None]
        if labels:
            arrays["labels"] = np.concatenate(labels)
        np.savez(images, allow_pickle=False, **arrays)
    for target in TARGETS:
        if not serves(target.name, recipe.precision):
            continue
        bundle = folder / f"ours-{target.name}"
        if ENGINES.get(target.engine).availability().ok and not bundle.exists():
            deploy(recipe.but(target=target.name), bundle)
    for precision in _compiled_precisions():
        package = folder / f"inductor-{precision}"
        if not package.exists():
            deploy(recipe.but(target="torch-inductor", precision=precision), package)
    with np.load(images) as stored:
        calibration = stored["calibration"]
    plain = folder / "ours-onnxruntime" / "reference.onnx"
    if not (folder / "quantize_static.onnx").exists():
        _quantize_static(plain, folder / "quantize_static.onnx", calibration)
    if importlib.util.find_spec("nncf") and not (folder / "nncf.xml").exists():
        _nncf(plain, folder / "nncf.xml", calibration)
    if importlib.util.find_spec("modelopt") and importlib.util.find_spec("tensorrt_rtx"):
        built = folder / "ours-tensorrt"
        if not built.exists():
            build = BuildOptions(sm=(89,), builder_level=0)  # the engine is not what is compared
            deploy(recipe.but(target="tensorrt-rtx", build=build), built)
        for method in MODELOPT:
            output = folder / f"modelopt-{method}.onnx"
            if not output.exists():
                _modelopt(plain, output, calibration, method)


def candidates(folder: Path) -> Files:
    """Every prepared graph: ours per target, the peers, and the plain one."""
    found: Files = {
        f"{target.engine}:ours": (target.engine, folder / f"ours-{target.name}" / "model.onnx")
        for target in TARGETS
    }
    for precision, key in INDUCTOR.items():
        found[key] = ("torch-inductor", folder / f"inductor-{precision}" / "model.onnx")
    for name, file in {
        "tensorrt:ours": "ours-tensorrt/model.onnx",
        **{key: f"modelopt-{method}.onnx" for method, key in MODELOPT.items()},
    }.items():
        found[name] = ("onnxruntime", folder / file)
    found[STOCK] = ("onnxruntime", folder / "quantize_static.onnx")
    found[NNCF] = ("openvino", folder / "nncf.xml")
    plain = folder / "ours-onnxruntime" / "reference.onnx"
    found[FLOAT] = ("onnxruntime", plain)
    if ENGINES.get("openvino").availability().ok:
        found |= dict.fromkeys(_fast(OPENVINO_FLOATS), ("openvino", plain))
    return {key: value for key, value in found.items() if value[1].exists()}


def _compiled_precisions() -> list[PrecisionName]:
    """Those of `INDUCTOR` that run here as fast as they can."""
    if not ENGINES.get("torch-inductor").availability().ok:
        return []
    return _fast(INDUCTOR)


def _fast(keys: Iterable[K]) -> list[K]:
    """`keys`, without those in bfloat16 where the CPU has no instructions for it."""
    bf16 = {"avx512_bf16", "amx_bf16", "bf16"} & set(describe().isa)
    return [key for key in keys if bf16 or not key.endswith("bf16")]


def _open(key: str, engine: str, file: Path) -> Session:
    """The candidate's session, not loaded yet."""
    if key in OPENVINO_FLOATS:
        options = Options(precision=OPENVINO_FLOATS[key])
        return Openvino().session(file, options=options)
    return ENGINES.get(engine).session(file)


def _eager(recipe: Recipe) -> Callable[[FloatArray], FloatArray]:
    """The PyTorch network as it is, but for the layout of its activations."""
    module: Any = reference_of(recipe).module
    module.to(memory_format=torch.channels_last)

    def run(images: FloatArray) -> FloatArray:
        with torch.inference_mode():
            given = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
            outputs: FloatArray = module(given).numpy()
        return outputs

    return run


def _quantize_static(plain: Path, output: Path, images: FloatArray) -> None:
    """As its documentation advises: pre-processed, per channel, QDQ, uint8 and int8."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as quantise
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc] # untyped
        def __init__(self) -> None:
            self._images = ({"input": image[None]} for image in images)

        def get_next(self) -> dict[str, FloatArray] | None:
            return next(self._images, None)

    processed = output.with_suffix(".preprocessed.onnx")
    quant_pre_process(plain, processed)
    quantise(
        processed,
        output,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def _nncf(plain: Path, output: Path, images: FloatArray) -> None:
    nncf: Any = importlib.import_module("nncf")
    openvino: Any = importlib.import_module("openvino")
    quantised = nncf.quantize(
        openvino.Core().read_model(plain),
        nncf.Dataset([image[None] for image in images]),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(images),
    )
    openvino.save_model(quantised, output, compress_to_fp16=False)


def _modelopt(plain: Path, output: Path, images: FloatArray, method: str) -> None:
    quantization: Any = importlib.import_module("modelopt.onnx.quantization")
    quantization.quantize(
        str(plain),
        quantize_mode="int8",
        calibration_data={"input": images},
        calibration_method=method,
        calibration_eps=["cpu"],
        output_path=str(output),
        log_level="ERROR",
    )


def measured(recipe: Recipe, folder: Path, seconds: float) -> dict[str, Any]:
    """SQNR of every candidate; medians and ratios where `seconds` are given.

    Args:
        recipe: of the network that is prepared in `folder`.
        seconds: of measurement per candidate and batch size; 0 times nothing.
    """
    with np.load(folder / "images.npz") as stored:
        data = dict(stored)
    files = candidates(folder)
    ours = [k for k in files if k.endswith(":ours") and not k.startswith(_NEVER_TIMED)]
    row: dict[str, Any] = {
        "images": {"calibration": len(data["calibration"]), "validation": len(data["logits"])},
        "sqnr_db": {},
    }
    if set(MODELOPT.values()) & set(files):
        row["modelopt"] = importlib.metadata.version("nvidia-modelopt")
    if "labels" in data:
        row["top1"] = {"pytorch": _top1(data["logits"], data["labels"])}
    with ExitStack() as stack:
        running: dict[str, Callable[[FloatArray], FloatArray]] = {
            key: stack.enter_context(_open(key, engine, file)).run
            for key, (engine, file) in files.items()
        }
        running[EAGER] = _eager(recipe)
        for key, run in running.items():
            logits = _logits(run, data["validation"])
            row["sqnr_db"][key] = round(sqnr_db(data["logits"], logits), 2)
            if "labels" in data:
                row["top1"][key] = _top1(logits, data["labels"])
        timed = {key: run for key, run in running.items() if not key.startswith(_NEVER_TIMED)}
        if seconds:
            report = measure(
                [_candidate(key, run) for key, run in timed.items()],
                cycled(data["validation"]),
                batches=BATCHES,
                seconds=seconds,
                pairs=[(o, key) for o in ours for key in timed if key != o],
            )
            row["median_ms"] = {
                str(batch): {
                    f"{r.engine}:{r.graph}": round(r.latency_ms.median, 3)
                    for r in report.rows
                    if r.batch == batch
                }
                for batch in BATCHES
            }
            row["ratios"] = [
                {
                    **{"batch": r.batch, "ours": r.candidate, "to": r.baseline},
                    **{"ratio": round(r.ratio, 4), "ci95": [round(end, 4) for end in r.ci95]},
                }
                for r in report.ratios
            ]
            row["warnings"] = list(report.warnings)
    return row


def _candidate(key: str, run: Callable[[FloatArray], FloatArray]) -> Candidate:
    engine, _, graph = key.partition(":")
    floats: dict[str, str] = {
        FLOAT: "fp32",
        EAGER: "fp32",
        **{key: name for name, key in INDUCTOR.items()},
    }
    floats |= {key: key.partition(":")[2] for key in OPENVINO_FLOATS}
    return Candidate(engine, graph, floats.get(key, "int8"), run)


def _logits(run: Callable[[FloatArray], FloatArray], images: FloatArray) -> FloatArray:
    """One image at a time, as engines choose other kernels for other batches."""
    return np.concatenate([run(image[None]) for image in images])


def _top1(logits: FloatArray, labels: np.ndarray[Any, Any]) -> float:
    """Share of right first choices, percent."""
    return round(100 * float((logits.argmax(1) == labels).mean()), 3)


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Per engine, the ratios to the peer on it; and the best of ours to the best of the peers."""
    rows = [row for row in rows if row["network"] in NETWORKS]  # others are not in the means
    found: dict[str, Any] = {}
    for engine, peers in _SAME_ENGINE.items():
        ratios = {
            f"{row['network']}, batch {ratio['batch']}": ratio["ratio"]
            for row in rows
            for ratio in row.get("ratios", ())
            if (ratio["ours"], ratio["to"]) == (f"{engine}:ours", peers[0])
        }
        decibels = {
            f"{row['network']}, {row['weights']}": round(
                row["sqnr_db"][f"{engine}:ours"] - max(row["sqnr_db"][peer] for peer in peers), 2
            )
            for row in rows
            if {f"{engine}:ours", *peers} <= set(row["sqnr_db"])
        }
        if ratios:
            worst = min(ratios, key=lambda name: ratios[name])
            found[engine] = {
                "peer": peers[0],
                "geometric_mean": round(geometric_mean(ratios.values()), 4),
                "worst": {worst: ratios[worst]},
                "goal": {"geometric_mean": GOAL[engine], "each": EACH[engine]},
                "ratios": ratios,
            }
        if decibels:
            found.setdefault(engine, {"peers": peers})["sqnr_gain_db"] = decibels
    best = {
        f"{row['network']}, batch {batch}": _best(medians)
        for row in rows
        for batch, medians in row.get("median_ms", {}).items()
        if set(PEERS) & set(medians)
    }
    if best:
        mean = round(geometric_mean(best.values()), 4)
        found["best of ours to best of the peers"] = {"geometric_mean": mean, "ratios": best}
    return found


def _best(medians: Mapping[str, float]) -> float:
    """Time of the fastest peer over that of our fastest graph."""
    ours = min(ms for key, ms in medians.items() if key.endswith(":ours"))
    return round(min(medians[key] for key in PEERS if key in medians) / ours, 4)


def _write(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
    order = {name: index for index, name in enumerate(NETWORKS)}
    rows = sorted(rows, key=lambda row: (row["weights"], order.get(row["network"], len(order))))
    text = json.dumps(
        {"command": "python -m benchmarks.peers", "summary": summary(rows), **facts, "rows": rows},
        indent=1,
    )
    RESULTS.write_text(text + "\n", encoding="utf-8")


@click.command()
@click.argument("networks", nargs=-1)
@click.option("--weights", default="random:0", show_default=True)
@click.option("--calibration-size", default=32, show_default=True)
@click.option("--data-size", default=16, show_default=True, help="Images for the SQNR.")
@click.option("--seconds", default=3.0, show_default=True, help="Per graph and batch; 0: no times.")
@click.option("--graphs", type=click.Path(path_type=Path), default=CACHE / "peers")
@click.option("--prepare", "only_prepare", is_flag=True, help="Make the graphs, measure nothing.")
def main(
    networks: tuple[str, ...],
    weights: str,
    calibration_size: int,
    data_size: int,
    seconds: float,
    graphs: Path,
    only_prepare: bool,
) -> None:
    """Measure NETWORKS, the six of the table where none is named, and write their rows."""
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    now = provenance()
    for network in networks or NETWORKS:
        folder = graphs / f"{network}-{weights.replace(':', '-')}"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            recipe = recipe_of(network, weights, folder, (calibration_size, data_size))
            prepare(recipe, folder)
            if only_prepare:
                continue
            row = {"network": network, "weights": weights, **measured(recipe, folder, seconds)}
        except InceptionDeployError as error:
            raise click.ClickException(str(error)) from error
        for ratio in row.get("ratios", ()):
            click.echo(
                f"{network} batch {ratio['batch']}: {ratio['ours']} {ratio['ratio']:.3f}× "
                f"{ratio['to']} {ratio['ci95']}"
            )
        click.echo(f"{network} SQNR, dB: {row['sqnr_db']}")
        others = [
            r for r in kept_rows(results, now) if (r["network"], r["weights"]) != (network, weights)
        ]
        results = {**now, "rows": [*others, row]}
        _write(results["rows"], now)


if __name__ == "__main__":
    main()
