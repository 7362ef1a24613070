"""What travels between stages: a graph, the golden it must agree with, and its history."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

__all__ = [
    "Applied",
    "Artifact",
    "FloatArray",
    "Golden",
    "Refused",
    "StageRecord",
    "model_digest",
    "opset_of",
]

FloatArray: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class Golden:
    """Inputs and the FP32 PyTorch outputs for them, recorded once; parity always looks here.

    Args:
        inputs: preprocessed images, float32 (N, 3, H, W).
        outputs: float32 (N, K), what the head returned.
        output_name: "logits", "probabilities" or "features": the graph's output name too.
        blocks: block name → float32 output for the first `block_images` inputs, in order.
        block_images: how many of the inputs the block outputs cover.
        pixels: what `inputs` were normalised from, uint8 (N, 3, H, W) or (N, H, W, 3), for a graph
            that takes pixels in that layout; None for one that takes `inputs`.
    """

    inputs: FloatArray
    outputs: FloatArray
    output_name: str
    blocks: Mapping[str, FloatArray]
    block_images: int
    pixels: NDArray[np.uint8] | None = None

    @property
    def feed(self) -> NDArray[Any]:
        """What the graph is given: pixels where it takes them, else `inputs`."""
        return self.inputs if self.pixels is None else self.pixels

    @property
    def scale(self) -> float:
        """Largest magnitude of the golden outputs: errors are stated relative to it."""
        return float(np.abs(self.outputs).max())


@dataclass(frozen=True)
class Applied:
    """A rewrite that was applied, at a node named by its architecture block."""

    rewrite: str
    node: str
    detail: str = ""


@dataclass(frozen=True)
class Refused:
    """A place where a rewrite or a lowering was not applied, and why."""

    rewrite: str
    node: str
    reason: str


@dataclass(frozen=True)
class StageRecord:
    """One line of an artifact's history.

    Args:
        name: "export", "fuse/conv_bn", "lower/fp16", …
        seconds: wall time of the stage including its proof.
        before, after: sha256 of the graph going in and coming out.
        error: max |output − golden| / golden.scale measured after the stage.
        bound: what `error` was allowed to be; None where the stage states no bound.
        facts: further figures of the stage, JSON values.
    """

    name: str
    seconds: float
    before: str | None
    after: str
    applied: tuple[Applied, ...] = ()
    refused: tuple[Refused, ...] = ()
    error: float | None = None
    bound: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Artifact:
    """An ONNX graph on its way to deployment.

    `model` is never modified in place once it is in an artifact: a stage works on a copy and
    returns `artifact.advance(...)`.
    """

    model: onnx.ModelProto
    golden: Golden
    records: tuple[StageRecord, ...] = ()

    @property
    def digest(self) -> str:
        """sha256 of the graph as of the last stage."""
        return self.records[-1].after if self.records else model_digest(self.model)

    def advance(self, model: onnx.ModelProto, record: StageRecord) -> Artifact:
        """The artifact after one more stage."""
        return replace(self, model=model, records=(*self.records, record))


def model_digest(model: onnx.ModelProto) -> str:
    """sha256 of the deterministic serialisation of `model`, hexadecimal."""
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def opset_of(model: onnx.ModelProto) -> int:
    """Version of ONNX's own operators that `model` imports; 1 where it names none."""
    versions = (o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    return next(versions, 1)
