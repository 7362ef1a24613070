"""What a deployed network has to keep, and what is asked of it when nobody says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from inception_deploy.errors import BadInput

__all__ = ["DEFAULTS", "BoundValues", "Bounds", "default_bounds"]


@dataclass(frozen=True)
class BoundValues:
    """Numbers to hold; None holds nothing.

    Args:
        max_drop: largest loss of top-1 accuracy, points.
        min_agreement: least share of images with the same first choice, percent.
        min_sqnr: least SQNR of the outputs over the images, dB.
        max_p99_ms: largest 99th percentile of the latency of one batch, milliseconds.
        min_speedup: least ratio of the baseline's latency to the deployed graph's.
        max_size: largest size of the deployed files, bytes.
    """

    max_drop: float | None = None
    min_agreement: float | None = None
    min_sqnr: float | None = None
    max_p99_ms: float | None = None
    min_speedup: float | None = None
    max_size: int | None = None


DEFAULTS: Mapping[str, BoundValues] = {
    "fp32": BoundValues(max_drop=0.5, min_agreement=99.0, min_sqnr=60.0),
    "fp16": BoundValues(max_drop=0.5, min_agreement=99.0, min_sqnr=30.0),
    "bf16": BoundValues(max_drop=0.5, min_agreement=98.0, min_sqnr=15.0),
    "int8": BoundValues(max_drop=0.5, min_agreement=97.0, min_sqnr=10.0),
    "fp8": BoundValues(max_drop=0.5, min_agreement=95.0, min_sqnr=5.0),
}
"""By precision; docs/decisions/005-gate-statistics.md says why."""


@dataclass(frozen=True)
class Bounds(BoundValues):
    """What is asked for, and which of it was named by the user.

    A bound nobody named can fail a bundle, but not leave it undecided: an INCONCLUSIVE on it is
    shown and does not count.

    Args:
        named: names of the fields that the user gave.

    Raises:
        BadInput: a number that no network could be held to.
    """

    named: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for name, low, high, unit in _LIMITS:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and low <= value <= high):
                raise BadInput(f"{_option(name)} must be {low:g} to {high:g} {unit}, not {value}")

    @classmethod
    def asked(cls, precision: str, *, defaults: bool = True, **values: Any) -> Self:
        """The user's numbers, and the defaults of a precision for those that were left out.

        Args:
            precision: "fp32", "int8", …
            defaults: False holds nothing but what is given.
            values: fields of `BoundValues`; None counts as not given.
        """
        given = {name: value for name, value in values.items() if value is not None}
        base = default_bounds(precision) if defaults else BoundValues()
        filled = replace(base, **given)
        rest = {field.name: getattr(filled, field.name) for field in fields(BoundValues)}
        return cls(**rest, named=frozenset(given))

    def to_dict(self) -> dict[str, Any]:
        """JSON values: the numbers that are held."""
        found = {field.name: getattr(self, field.name) for field in fields(BoundValues)}
        return {name: value for name, value in found.items() if value is not None}


def default_bounds(precision: str) -> BoundValues:
    """The defaults of a precision; those of INT8 for one that has none of its own."""
    return DEFAULTS.get(precision, DEFAULTS["int8"])


_LIMITS = (
    ("max_drop", 0.0, 100.0, "points"),
    ("min_agreement", 0.0, 100.0, "percent"),
    ("min_sqnr", -20.0, 300.0, "dB"),
    ("max_p99_ms", 1e-6, 1e9, "ms"),
    ("min_speedup", 1e-3, 1e6, "times"),
    ("max_size", 1, 1e15, "bytes"),
)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
