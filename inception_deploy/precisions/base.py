"""The shape of a precision: rewrite the types of a graph, given the ranges of its tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import onnx

from inception_deploy.artifact import Applied, Refused
from inception_deploy.ranges import Ranges

__all__ = ["Lowering", "Precision"]


@dataclass(frozen=True)
class Lowering:
    """A graph in another precision; `refused` names each node kept in FP32 and why."""

    model: onnx.ModelProto
    applied: tuple[Applied, ...]
    refused: tuple[Refused, ...]


class Precision(ABC):
    """A number format for weights and activations, expressed in the graph's own types."""

    name: str
    """As asked for on the command line: "fp32", "fp16"."""

    needs_ranges: bool
    """Whether `lower` needs calibration images to have been seen."""

    @abstractmethod
    def lower(self, model: onnx.ModelProto, ranges: Ranges | None) -> Lowering:
        """A strongly typed copy of `model` (FP32, shapes inferred); `model` stays as it is.

        Raises:
            StageError: a weight cannot be represented; the message names it.
        """
