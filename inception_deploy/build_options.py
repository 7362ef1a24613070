"""What an engine that is built ahead of time has to be told: batch sizes, targets, limits."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, TypeAlias, get_args

from inception_deploy.errors import RecipeError

__all__ = ["SMS", "BatchProfile", "BuildOptions", "Compatibility", "unsupported"]

Compatibility: TypeAlias = Literal["none", "ampere+", "same"]

SMS = (75, 80, 86, 89, 120, 121)
"""Compute capabilities that TensorRT-RTX 1.7 builds for ahead of time, times ten."""

LEAST_SM = {"bf16": 80, "fp8": 89}
"""Precision → the first compute capability whose tensor cores have it."""


@dataclass(frozen=True)
class BatchProfile:
    """Smallest, most frequent and largest batch that will be served."""

    minimum: int = 1
    optimum: int = 1
    maximum: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise RecipeError(f"batch must be MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX, not {self}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """From "1:8:32", or "8" for one fixed size. Raises `RecipeError`."""
        parts = text.split(":")
        if len(parts) not in (1, 3) or not all(p.isdecimal() for p in parts):
            raise RecipeError(f"batch must be MIN:OPT:MAX, e.g. 1:8:32, not '{text}'")
        sizes = [int(p) for p in parts]
        return cls(*sizes) if len(sizes) == 3 else cls(sizes[0], sizes[0], sizes[0])

    def __str__(self) -> str:
        return f"{self.minimum}:{self.optimum}:{self.maximum}"


@dataclass(frozen=True)
class BuildOptions:
    """How TensorRT and TensorRT-RTX build an engine.

    Args:
        sm: compute capabilities to build for, times ten (89 is 8.9); empty means the GPU that is
            here. TensorRT-RTX only: TensorRT builds for the GPU it runs on.
        profiles: further ranges of batch sizes beside the recipe's own, each with kernels of its
            own.
        builder_level: 0 to 5; how long the builder searches. 3 is TensorRT's default.
        workspace: most scratch memory a kernel may take, MiB; None leaves it to TensorRT.
        aux_streams: most streams one inference may use beside its own; None leaves it to TensorRT.
        tf32: let float32 matrix products round their inputs to 10 bits.
        timing_cache: file of kernel timings, read and added to.
        timing_cache_sha256: the file must be this one, is only read, and a kernel that it lacks is
            an error; two builds then choose the same kernels.
        version_compatible: an engine that later versions can load, with the lean runtime of the one
            that built it; TensorRT only.
        hardware_compatible: "ampere+" for GPUs from Ampere on, "same" for all of the same compute
            capability, "none" for the very model that built it.
        stripped: leave the weights out of the engine; they are put back from model.onnx when it is
            loaded.
    """

    sm: tuple[int, ...] = ()
    profiles: tuple[BatchProfile, ...] = ()
    builder_level: int = 3
    workspace: int | None = None
    aux_streams: int | None = None
    tf32: bool = False
    timing_cache: str | None = None
    timing_cache_sha256: str | None = None
    version_compatible: bool = False
    hardware_compatible: Compatibility = "none"
    stripped: bool = False

    def __post_init__(self) -> None:
        for sm in self.sm:
            if sm not in SMS:
                known = ", ".join(map(str, SMS))
                raise RecipeError(f"sm must be some of {known}, not {sm}")
        if len(set(self.sm)) != len(self.sm):
            raise RecipeError(f"sm names {max(self.sm, key=self.sm.count)} twice")
        if not 0 <= self.builder_level <= 5:
            raise RecipeError(f"builder_level must be 0 to 5, not {self.builder_level}")
        if self.workspace is not None and self.workspace < 1:
            raise RecipeError(f"workspace must be at least 1 MiB, not {self.workspace}")
        if self.aux_streams is not None and self.aux_streams < 0:
            raise RecipeError(f"aux_streams must not be negative, not {self.aux_streams}")
        if self.hardware_compatible not in get_args(Compatibility):
            known = ", ".join(get_args(Compatibility))
            raise RecipeError(
                f"hardware_compatible must be one of {known}, not '{self.hardware_compatible}'"
            )
        digest = self.timing_cache_sha256
        if digest is not None and not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise RecipeError(f"timing_cache_sha256 must be 64 hexadecimal digits, not '{digest}'")
        if digest is not None and self.timing_cache is None:
            raise RecipeError("timing_cache_sha256 pins a file; name it with timing_cache")

    def to_dict(self) -> dict[str, Any]:
        """Plain values of what differs from the defaults; `from_dict` is the inverse."""
        default = asdict(BuildOptions())
        values = {k: v for k, v in asdict(self).items() if v != default[k]}
        if self.profiles:
            values["profiles"] = [str(profile) for profile in self.profiles]
        if self.sm:
            values["sm"] = list(self.sm)
        return values

    @classmethod
    def from_dict(cls, values: object) -> Self:
        """The inverse of `to_dict`. Raises `RecipeError` naming a bad field or value."""
        if not isinstance(values, dict):
            raise RecipeError(f"build must be a table of options, not {values!r}")
        kinds = {f.name: str(f.type) for f in fields(cls)}
        unknown = sorted(set(values) - set(kinds))
        if unknown:
            raise RecipeError(f"unknown build option '{unknown[0]}'; known: {sorted(kinds)}")
        values = dict(values)
        for name, value in values.items():
            if not _fits(value, kinds[name]):
                raise RecipeError(f"build option {name} has a value of the wrong type: {value!r}")
        if "sm" in values:
            values["sm"] = tuple(values["sm"])
        if "profiles" in values:
            values["profiles"] = tuple(BatchProfile.parse(str(p)) for p in values["profiles"])
        return cls(**values)


def unsupported(precision: str, sm: int) -> str | None:
    """Why GPUs of a compute capability cannot run a precision; None where they can."""
    least = LEAST_SM.get(precision, 0)
    if sm >= least:
        return None
    return f"{precision.upper()} needs compute capability {least / 10:g}; SM{sm} has none"


def _fits(value: object, kind: str) -> bool:
    """Whether a value read from a file has the type that a field is annotated with."""
    if kind.startswith("tuple"):
        inner = int if "int" in kind else str
        return isinstance(value, list | tuple) and all(type(v) is inner for v in value)
    if kind == "bool":
        return isinstance(value, bool)
    if kind.startswith("int"):
        return type(value) is int
    return isinstance(value, str)
