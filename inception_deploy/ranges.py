"""What calibration observed: the range of every tensor, with its provenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Ranges", "TensorRange"]


@dataclass(frozen=True)
class TensorRange:
    """Smallest and largest value seen in one tensor, and its smallest non-zero magnitude."""

    minimum: float
    maximum: float

    @property
    def max_abs(self) -> float:
        """Largest magnitude."""
        return max(abs(self.minimum), abs(self.maximum))


@dataclass(frozen=True)
class Ranges:
    """Ranges of every float activation of one graph.

    Args:
        tensors: tensor name → range, over all calibration images.
        model: sha256 of the graph the ranges were taken on.
        data: digest of the calibration images' source.
        images: how many images were seen.
        calibrator: which one took the ranges.
    """

    tensors: Mapping[str, TensorRange]
    model: str
    data: str
    images: int
    calibrator: str

    def to_dict(self) -> dict[str, Any]:
        """JSON values, as stored in the bundle's calibration.json."""
        return {
            "model": self.model,
            "data": self.data,
            "images": self.images,
            "calibrator": self.calibrator,
            "tensors": {
                name: {"minimum": r.minimum, "maximum": r.maximum}
                for name, r in self.tensors.items()
            },
        }
