"""The shape of a precision: rewrite the types of a graph, given the ranges of its tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import onnx

from inception_deploy.artifact import Applied, Refused
from inception_deploy.calibrators import Grid
from inception_deploy.channels import ChannelStatistics
from inception_deploy.ranges import Ranges
from inception_deploy.weight_rounding import InputMoments

__all__ = ["FP32_BOUND", "Lowering", "Precision"]

FP32_BOUND = 1e-4
"""Largest allowed max |output − golden| / golden.scale for float32 sums taken in another order;
part of every precision's bound, for all compute some of their sums in float32."""


@dataclass(frozen=True)
class Lowering:
    """A graph in another precision.

    Args:
        model: strongly typed, shapes inferred.
        bound: largest allowed max |output − golden| / golden.scale, from the format's rounding.
        applied: each node that changed its type, and each cast.
        refused: each node kept in FP32, and why.
        facts: figures for the stage's record, JSON values.
    """

    model: onnx.ModelProto
    bound: float
    applied: tuple[Applied, ...] = ()
    refused: tuple[Refused, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


class Precision(ABC):
    """A number format for weights and activations, expressed in the graph's own types."""

    name: str
    """As asked for on the command line: "fp32", "fp16"."""

    needs_ranges: bool
    """Whether `lower` needs calibration images to have been seen."""

    clips: bool = False
    """Whether values outside the calibrated ranges are cut off."""

    def at(self, placement: str, *, reduce_range: bool | None = None) -> Self:
        """This precision for the target of that name, where targets differ.

        Args:
            reduce_range: weights of one bit less; None where this machine and target need it.
        """
        del placement, reduce_range
        return self

    @property
    def grid(self) -> Grid:
        """What activations are quantised to, for a calibrator; of integer precisions."""
        return Grid()

    def grids(self, model: onnx.ModelProto) -> Grid | Mapping[str, Grid]:
        """`grid`, or one for each of the `watched` tensors of `model` where they differ."""
        del model
        return self.grid

    def watched(self, model: onnx.ModelProto) -> Mapping[str, int] | None:
        """The activations of `model` whose ranges are to be chosen from histograms → their groups.

        Tensors of one group get one range. None where the exact range of every tensor is asked for,
        or none of any.
        """
        del model
        return None

    def informed(self, statistics: Mapping[str, ChannelStatistics]) -> Self:
        """This precision, knowing what was seen of the channels of the `watched` tensors."""
        del statistics
        return self

    def rounds(self, model: onnx.ModelProto) -> tuple[str, ...]:
        """Nodes of `model` whose weights this precision can round by what they read (`rounded`)."""
        del model
        return ()

    def rounded(
        self, model: onnx.ModelProto, ranges: Ranges, moments: Iterable[tuple[str, InputMoments]]
    ) -> Self:
        """This precision, knowing weights of `model` rounded by the moments of what nodes read."""
        del model, ranges, moments
        return self

    executable: bool = True
    """Whether an engine here runs its graphs; else `lowering.rounding` alone shows what they do."""

    @property
    def needs_exact(self) -> bool:
        """Whether it asks for exact ranges of every tensor (`knowing`) besides those `watched`."""
        return False

    def knowing(self, ranges: Ranges) -> Self:
        """This precision, knowing the exact range of every tensor."""
        del ranges
        return self

    @abstractmethod
    def lower(self, model: onnx.ModelProto, ranges: Ranges | None) -> Lowering:
        """A strongly typed copy of `model` (FP32, shapes inferred); `model` stays as it is.

        Raises:
            StageError: the graph is not valid FP32, a weight is not finite, or there are no ranges
                where `needs_ranges`; the message names what.
        """
