"""The shape of a rewrite: find a place, say whether it is exact there, rewrite it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum

import onnx
import onnx_graphsurgeon as gs

__all__ = ["Example", "Fusion", "Phase"]


class Phase(IntEnum):
    """When a rewrite has its turn. A target's profile decides about the last two phases.

    `CANONICAL` gives one form to what can be written in several; `FOLD` does arithmetic on
    constants, and only ever takes nodes away. Both serve every engine and always run.
    `EXCHANGE` swaps or replaces linear nodes, `MERGE` joins or splits them: whether that pays
    depends on the engine and the precision, and is measured.
    """

    CANONICAL = 0
    FOLD = 1
    EXCHANGE = 2
    MERGE = 3


@dataclass(frozen=True)
class Example:
    """A small graph on which a fusion must act, or must refuse.

    Args:
        name: shown as the test's name.
        build: makes the graph; one input `input`, outputs as the case needs.
        applied: how many places must be rewritten.
        refused: text that the reason of the (single kind of) refusal must contain; None where
            nothing may be refused.
    """

    name: str
    build: Callable[[], onnx.ModelProto]
    applied: int
    refused: str | None = None


class Fusion(ABC):
    """An exact rewrite. Its module's docstring holds the algebra.

    A fusion is stateless: a match is the anchor node, and everything else is found from it again.
    """

    name: str
    """As recorded in the bundle: "conv_bn"."""

    phase: Phase
    """Its turn among the others; within one phase the order must not matter."""

    bound: float
    """Largest allowed max |output − golden| / golden.scale after all its applications. The golden
    is PyTorch's, so float32 noise of the engine is part of it: `proof.FP32_BOUND` where the rewrite
    adds no more than the rounding of re-associated products."""

    grows: str | None = None
    """Why the multiply-adds may become more; None where they never do."""

    @property
    @abstractmethod
    def examples(self) -> tuple[Example, ...]:
        """Positive and negative cases, run by the contract test."""

    @abstractmethod
    def match(self, graph: gs.Graph) -> Iterator[gs.Node]:
        """Anchor nodes of every place that looks like the pattern, in graph order.

        The anchor is a node that the rewrite cuts off: without outputs afterwards.
        """

    @abstractmethod
    def check(self, graph: gs.Graph, anchor: gs.Node) -> str | None:
        """Why the rewrite would not be exact at `anchor`; None where it is.

        Tensors that must be kept, the outputs of blocks, are outputs of the graph meanwhile.
        """

    @abstractmethod
    def rewrite(self, graph: gs.Graph, anchor: gs.Node) -> str:
        """Rewrite at `anchor`, where `check` returned None; returns a detail for the record."""
