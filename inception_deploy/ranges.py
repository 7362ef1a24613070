"""What calibration found: the range of every tensor, with its provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from inception_deploy.errors import BadInput, StageError

__all__ = ["Choice", "Ranges", "StaleTable", "TensorRange", "load_table"]


class StaleTable(StageError):
    """A range table of another graph, of other images, or by another calibrator."""


@dataclass(frozen=True)
class TensorRange:
    """Smallest and largest value of one tensor: seen, or clipped to."""

    minimum: float
    maximum: float

    @property
    def max_abs(self) -> float:
        """Largest magnitude."""
        return max(abs(self.minimum), abs(self.maximum))


@dataclass(frozen=True)
class Choice:
    """How the range of one tensor was chosen.

    Args:
        calibrator: the one responsible; of interest where the table's is "auto".
        grid: the quantiser it was chosen for, e.g. "u8", "s8".
        sqnr_db: expected ratio of the tensor's power to its quantisation error; None where either
            is zero.
    """

    calibrator: str
    grid: str
    sqnr_db: float | None


@dataclass(frozen=True)
class Ranges:
    """Ranges of float activations of one graph.

    Args:
        tensors: tensor name → range, over all calibration images.
        model: sha256 of the graph the ranges were taken on.
        data: digest of the calibration images' source.
        images: how many images were seen.
        calibrator: which one took the ranges.
        choices: tensor name → how its range was chosen; empty for exact ranges.
    """

    tensors: Mapping[str, TensorRange]
    model: str
    data: str
    images: int
    calibrator: str
    choices: Mapping[str, Choice] = field(default_factory=dict)

    def check(
        self,
        *,
        model: str,
        data: str | None = None,
        images: int | None = None,
        calibrator: str | None = None,
    ) -> None:
        """Make sure that this table is the one that would be computed.

        Args:
            model: sha256 of the graph it is to be used on.
            data: digest of the calibration images' source; None takes any.
            images: how many of them; None takes any number.
            calibrator: None takes any.

        Raises:
            StaleTable: it is not; the message says in what they differ.
        """
        if self.model != model:
            raise StaleTable(
                f"the range table was made for another graph ({self.model[:12]}…, this is "
                f"{model[:12]}…); calibrate anew"
            )
        if data is not None and self.data != data:
            raise StaleTable(
                f"the range table was made from other images ({self.data[:12]}…, these are "
                f"{data[:12]}…); calibrate anew"
            )
        if images is not None and self.images != images:
            raise StaleTable(
                f"the range table was made from {self.images:,} images, not {images:,}; "
                "calibrate anew"
            )
        if calibrator is not None and self.calibrator != calibrator:
            raise StaleTable(
                f"the range table was made by '{self.calibrator}', not by '{calibrator}'; "
                "calibrate anew, or ask for that calibrator"
            )

    def joined(self, other: Ranges) -> Ranges:
        """This table with each range widened to hold that of `other`, which has its tensors too."""
        tensors = {
            name: TensorRange(
                min(own.minimum, other.tensors[name].minimum),
                max(own.maximum, other.tensors[name].maximum),
            )
            for name, own in self.tensors.items()
        }
        return replace(self, tensors=tensors)

    def to_dict(self) -> dict[str, Any]:
        """JSON values, as stored in the bundle's calibration.json."""
        tensors: dict[str, dict[str, Any]] = {}
        for name, seen in self.tensors.items():
            tensors[name] = {"minimum": seen.minimum, "maximum": seen.maximum}
            if name in self.choices:
                chosen = self.choices[name]
                tensors[name] |= {
                    "calibrator": chosen.calibrator,
                    "grid": chosen.grid,
                    "sqnr_db": chosen.sqnr_db,
                }
        return {
            "model": self.model,
            "data": self.data,
            "images": self.images,
            "calibrator": self.calibrator,
            "tensors": tensors,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises `BadInput` for anything else."""
        try:
            tensors, choices = {}, {}
            for name, entry in values["tensors"].items():
                tensors[name] = TensorRange(float(entry["minimum"]), float(entry["maximum"]))
                if not tensors[name].minimum <= tensors[name].maximum:
                    raise BadInput(f"the range table has no interval for '{name}'; calibrate anew")
                if "calibrator" in entry:
                    choices[name] = Choice(entry["calibrator"], entry["grid"], entry["sqnr_db"])
            return cls(
                tensors,
                str(values["model"]),
                str(values["data"]),
                int(values["images"]),
                str(values["calibrator"]),
                choices,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInput(
                f"this is no range table ({type(error).__name__}: {error}); calibrate anew"
            ) from error


def load_table(path: Path) -> Ranges:
    """The ranges in a file of `calibration/`; `check` them before use.

    Raises:
        BadInput: it cannot be read, or is no range table.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Ranges.from_dict(values["ranges"])
    except OSError as error:
        raise BadInput(f"cannot read range table {path} ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} is no range table ({error}); make it anew") from error
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
