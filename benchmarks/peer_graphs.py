"""The graphs that `benchmarks/peers.py` compares: ours, and what peers make of the plain export.

Ours is the bundle that `inception-deploy export NETWORK --int8 --equalise` writes, one per target
whose engine works here. The peers quantise the bundle's `reference.onnx`, the plain export, with
the same calibration images: onnxruntime.quantization.quantize_static, per channel, QDQ, uint8
activations and int8 weights, after quant_pre_process; nncf.quantize with the preset MIXED, run by
OpenVINO; and for TensorRT nvidia-modelopt, int8 with max and entropy calibration. For scale there
are the plain export on ONNX Runtime and OpenVINO, and PyTorch itself, eager with channels-last
activations and compiled ahead of time by AOTInductor; on a CPU with the instructions for it,
OpenVINO and AOTInductor also in bfloat16. The peers on ONNX Runtime run as its users run them: a
batch at a time, every operator on all threads. Our sessions cut batches into lanes
(docs/decisions/010), so there is the peer's graph in such a session, too, to tell the graph's part
from the session's.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch

from benchmarks.native import noise_images
from inception_deploy.artifact import FloatArray
from inception_deploy.build_options import BuildOptions
from inception_deploy.engines import ENGINES, Session
from inception_deploy.engines._as_written import AsWritten
from inception_deploy.engines.onnxruntime import OnnxRuntime
from inception_deploy.engines.openvino import Openvino, Options
from inception_deploy.images import plan_images
from inception_deploy.machine import describe
from inception_deploy.pipeline import deploy, reference_of
from inception_deploy.progress import SilentProgress
from inception_deploy.recipe import PrecisionName, Recipe, serves
from inception_deploy.targets import TARGETS
from inception_deploy.trials import torch_predictor

__all__ = [
    "EAGER",
    "FLOAT",
    "INDUCTOR",
    "MODELOPT",
    "NNCF",
    "OPENVINO_FLOATS",
    "STOCK",
    "STOCK_LANES",
    "candidates",
    "eager",
    "opened",
    "prepare",
    "recipe_of",
]

STOCK = "onnxruntime:quantize_static"
STOCK_LANES = "onnxruntime:quantize_static-lanes"
FLOAT = "onnxruntime:fp32"
NNCF = "openvino:nncf"

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
        equalise=True,
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
    found |= dict.fromkeys((STOCK, STOCK_LANES), ("onnxruntime", folder / "quantize_static.onnx"))
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


def opened(key: str, engine: str, file: Path) -> Session:
    """The candidate's session, not loaded yet."""
    if key in OPENVINO_FLOATS:
        options = Options(precision=OPENVINO_FLOATS[key])
        return Openvino().session(file, options=options)
    if key.startswith("tensorrt:"):
        # ONNX Runtime's optimiser (WeightBiasQuantization, 1.31) counts a float16 bias in steps of
        # the accumulator and keeps the count in float16: above 65,504 steps it is infinite
        return AsWritten().session(file)
    if key in (STOCK, FLOAT):
        return OnnxRuntime().session(file, lanes=False)
    return ENGINES.get(engine).session(file)


def eager(recipe: Recipe) -> Callable[[FloatArray], FloatArray]:
    """The PyTorch network as it is, but for the layout of its weights, too."""
    module: Any = reference_of(recipe).module
    return torch_predictor(module.to(memory_format=torch.channels_last))


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
