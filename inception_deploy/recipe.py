"""What is asked for, in one frozen object that can be written down and replayed."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, get_args

import tomli_w

from inception_deploy.build_options import BatchProfile, BuildOptions, unsupported
from inception_deploy.errors import RecipeError

if TYPE_CHECKING:
    from inception_deploy.preprocess import Interpolation

__all__ = [
    "BatchProfile",
    "BuildOptions",
    "Head",
    "InputKind",
    "Layout",
    "PrecisionName",
    "Recipe",
    "TargetName",
    "WeightRounding",
    "serves",
]

Head: TypeAlias = Literal["logits", "probabilities", "features"]
InputKind: TypeAlias = Literal["float32", "uint8"]
Layout: TypeAlias = Literal["NCHW", "NHWC"]
PrecisionName: TypeAlias = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
TargetName: TypeAlias = Literal[
    "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "torch-inductor"
]
WeightRounding: TypeAlias = Literal["gptq", "nearest"]


_BUILT = ("tensorrt", "tensorrt-rtx")
"""Targets whose engines are built ahead of time, with `BuildOptions`."""

_SERVED: Mapping[TargetName, tuple[PrecisionName, ...]] = {
    "onnxruntime": ("fp32", "fp16", "int8"),
    "openvino": ("fp32", "fp16", "int8"),
    "tensorrt": ("fp32", "fp16", "bf16", "int8", "fp8"),
    "tensorrt-rtx": ("fp32", "fp16", "bf16", "int8", "fp8"),
    "torch-inductor": ("fp32", "fp16", "bf16"),
}
"""What can be asked of each target."""


def serves(target: str, precision: str) -> bool:
    """Whether a recipe may ask a target for a precision."""
    return any(target == name and precision in able for name, able in _SERVED.items())


@dataclass(frozen=True)
class Recipe:
    """Everything `deploy` needs to know; two runs of one recipe give the same graph.

    Args:
        network: a registered name; None takes the embedded reference.
        onnx: an FP32 ONNX file to start from in place of a network's weights; `network` then only
            says whose preprocessing it shares.
        weights: "embedded", "pretrained[:TAG]", "random[:SEED]" or a path; None means "embedded"
            without a network and "pretrained" with one.
        width: width multiplier of random weights; trained ones know theirs.
        num_classes: expected size of the classifier; None takes the checkpoint's.
        image_size, mean, std, crop_pct, interpolation: override the checkpoint's preprocessing;
            mean and std are RGB for pixels in 0–1.
        head: what the graph returns.
        input: what the graph takes: normalised images, or the pixels of cropped ones, which it
            then normalises itself.
        layout: of a uint8 input; None means "NCHW", the only one that float32 has.
        precision: of weights and activations.
        target: the engine the graph is made for.
        batch: sizes that will be served; throughput is measured at the optimum and the maximum.
        calibration: images to take ranges from, or a range table (.json) for INT8; None takes
            `data`'s.
        calibration_size: how many of them.
        calibrator: chooses the ranges of INT8 activations; a parameter follows a colon.
        weight_rounding: of INT8 weights: by what their layers read of the calibration images, or
            each to its nearest.
        equalise: make the channels of a tensor more alike before INT8 quantises it, by factors
            that weights put in and take out again. It wants calibration images that show every
            channel at its widest.
        reduce_range: 7-bit weights for INT8, which x86 without VNNI needs; None looks at the
            machine.
        data: labelled images for parity; None takes the weights' own data set where they have one,
            else seeded noise.
        data_size: how many images of it are compared.
        max_drop: largest allowed loss of top-1, in points; None asks for no verdict. INT8 keeps
            blocks in float until it holds.
        min_sqnr: least SQNR of an INT8 graph's outputs, dB; blocks are kept in float until it
            holds.
        opset: of the exported graph.
        seed: of every sampling.
        skip_bad_images: leave out unreadable images (they are counted and named).
        seconds: of measurement per engine and batch size; 0 measures no throughput.
        build: how the target's engine is built, for targets that build one.
    """

    network: str | None = None
    onnx: str | None = None
    weights: str | None = None
    width: float | None = None
    num_classes: int | None = None
    image_size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    crop_pct: float | None = None
    interpolation: Interpolation | None = None
    head: Head = "logits"
    input: InputKind = "float32"
    layout: Layout | None = None
    precision: PrecisionName = "fp32"
    target: TargetName = "onnxruntime"
    batch: BatchProfile = field(default_factory=BatchProfile)
    calibration: str | None = None
    calibration_size: int = 256
    calibrator: str = "auto"
    weight_rounding: WeightRounding = "gptq"
    equalise: bool = False
    reduce_range: bool | None = None
    data: str | None = None
    data_size: int = 1000
    max_drop: float | None = None
    min_sqnr: float | None = None
    opset: int = 20
    seed: int = 0
    skip_bad_images: bool = False
    seconds: float = 2.0
    build: BuildOptions = field(default_factory=BuildOptions)

    def __post_init__(self) -> None:
        for name, choices in (
            ("head", get_args(Head)),
            ("input", get_args(InputKind)),
            ("layout", (None, *get_args(Layout))),
            ("precision", get_args(PrecisionName)),
            ("target", get_args(TargetName)),
            ("weight_rounding", get_args(WeightRounding)),
        ):
            if getattr(self, name) not in choices:
                known = ", ".join(choice for choice in choices if choice)
                raise RecipeError(f"{name} must be one of {known}, not '{getattr(self, name)}'")
        if self.layout is not None and self.input == "float32":
            raise RecipeError(
                f"layout {self.layout} is for pixels; ask for input uint8 too, or leave it out"
            )
        for name in ("num_classes", "image_size", "calibration_size", "data_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RecipeError(f"{name} must be at least 1, not {value}")
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise RecipeError(f"max_drop must be 0 to 100 points, not {self.max_drop}")
        if self.min_sqnr is not None and not math.isfinite(self.min_sqnr):
            raise RecipeError(f"min_sqnr must be a number of decibels, not {self.min_sqnr}")
        if self.min_sqnr is not None and self.precision != "int8":
            raise RecipeError(
                f"min_sqnr chooses which blocks of an INT8 graph stay in float; ask for precision "
                f"int8, not {self.precision}, or leave it out"
            )
        if self.equalise and self.precision != "int8":
            raise RecipeError(
                f"equalise is for an INT8 graph; ask for precision int8, not {self.precision}, or "
                "leave it out"
            )
        if self.max_drop is not None and self.head == "features":
            raise RecipeError("max_drop compares classes; it cannot be asked of --head features")
        if self.onnx is not None and (self.weights is not None or self.width is not None):
            raise RecipeError("an ONNX file brings its own weights; leave out weights and width")
        self._check_build()
        if self.seconds < 0:
            raise RecipeError(f"seconds must not be negative, not {self.seconds}")

    def _check_build(self) -> None:
        """Raises `RecipeError` where the build's options and the rest contradict each other."""
        if self.build != BuildOptions() and self.target not in _BUILT:
            option = next(iter(self.build.to_dict()))
            raise RecipeError(
                f"{option} is for {' and '.join(_BUILT)}; leave it out for {self.target}"
            )
        if not serves(self.target, self.precision):
            able = [target for target in _SERVED if serves(target, self.precision)]
            raise RecipeError(
                f"{self.precision} is for {', '.join(able[:-1])} and {able[-1]}; ask for one of "
                f"these targets, not {self.target}"
            )
        if self.onnx is not None and self.target == "torch-inductor":
            raise RecipeError(
                "torch-inductor compiles PyTorch networks, and an ONNX file holds none; ask for "
                "target onnxruntime, openvino or tensorrt"
            )
        if self.build.sm and self.target != "tensorrt-rtx":
            raise RecipeError(
                "TensorRT builds for the GPU it runs on; --sm is for --target tensorrt-rtx"
            )
        for sm in self.build.sm:
            why = unsupported(self.precision, sm)
            if why is not None:
                raise RecipeError(f"{why}; leave out {sm}, or ask for another precision")

    @property
    def pixel_layout(self) -> Layout | None:
        """Layout of the pixels that the graph takes; None where it takes normalised floats."""
        return (self.layout or "NCHW") if self.input == "uint8" else None

    @property
    def calibration_table(self) -> Path | None:
        """The range table that `calibration` names; None where it names images, or nothing."""
        named = self.calibration is not None and self.calibration.endswith(".json")
        return Path(self.calibration or "").expanduser() if named else None

    @property
    def weights_source(self) -> str:
        """`weights` with its default filled in."""
        if self.onnx is not None:
            return self.onnx
        if self.weights is not None:
            return self.weights
        return "embedded" if self.network is None else "pretrained"

    def to_dict(self) -> dict[str, Any]:
        """Plain values without the unset ones; `from_dict` is the inverse."""
        values = {k: v for k, v in asdict(self).items() if v is not None}
        values["batch"] = str(self.batch)
        values["build"] = self.build.to_dict()
        if not values["build"]:
            del values["build"]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises `RecipeError` naming an unknown field or a bad value."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise RecipeError(f"unknown recipe field '{unknown[0]}'; known: {sorted(known)}")
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        if "batch" in values:
            values["batch"] = BatchProfile.parse(str(values["batch"]))
        if "build" in values:
            values["build"] = BuildOptions.from_dict(values["build"])
        try:
            return cls(**values)
        except TypeError as error:
            raise RecipeError(f"a recipe field has a value of the wrong type: {error}") from error

    @classmethod
    def load(cls, path: Path) -> Self:
        """From a TOML file. Raises `RecipeError` with the file's name and line."""
        try:
            with path.open("rb") as file:
                values = tomllib.load(file)
        except OSError as error:
            raise RecipeError(f"cannot read recipe {path}: {error.strerror}") from error
        except tomllib.TOMLDecodeError as error:
            raise RecipeError(f"recipe {path} is not valid TOML: {error}") from error
        return cls.from_dict(values)

    def save(self, path: Path) -> None:
        """Write as TOML."""
        path.write_text(tomli_w.dumps(self.to_dict()), encoding="utf-8")

    def but(self, **changes: Any) -> Self:
        """A recipe with some fields changed."""
        return replace(self, **changes)
