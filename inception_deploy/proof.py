"""The proof every stage owes: the graph still computes what the golden says.

The graph runs in ONNX Runtime exactly as it is written, node by node, so that what is measured is
the stage and not the engine's own optimiser. Channels that the graph stores with a factor
(`channel_scales`) are compared without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from inception_deploy.artifact import FloatArray, Golden
from inception_deploy.channel_scales import ChannelScales
from inception_deploy.engines import ENGINES
from inception_deploy.engines.base import Array
from inception_deploy.errors import StageError
from inception_deploy.graphs import tensor_names
from inception_deploy.progress import Progress, SilentProgress

__all__ = ["FP32_BOUND", "Proof", "prove"]

FP32_BOUND = 1e-4
"""Largest allowed error of a graph that is exact but for float32: sums in another order, over some
250 layers, with an order of magnitude to spare (docs/decisions/001)."""

BATCH = 4


@dataclass(frozen=True)
class Proof:
    """How far a graph is from the golden.

    Args:
        error: max |output − golden| / golden.scale over all golden inputs.
        blocks: block name → the same for the block's output, relative to the largest magnitude of
            the golden block output.
    """

    error: float
    blocks: Mapping[str, float]

    @property
    def worst_block(self) -> str | None:
        """The block with the largest error; None where the golden has no blocks."""
        return max(self.blocks, key=self.blocks.__getitem__, default=None)

    def facts(self) -> dict[str, Any]:
        """For a stage's record: the worst block and its error."""
        worst = self.worst_block
        return {} if worst is None else {"worst_block": worst, "block_error": self.blocks[worst]}


def prove(
    model: onnx.ModelProto,
    golden: Golden,
    *,
    bound: float,
    stage: str,
    progress: Progress | None = None,
) -> Proof:
    """Run `model` on the golden inputs and compare its output and every block's output.

    Args:
        bound: largest allowed error, of the output and of each block.
        stage: named in the progress display and in messages.

    Raises:
        StageError: the output or a block is missing, has another shape, or is off by more than
            `bound`.
    """
    expected: dict[str, FloatArray] = {**_blocks(model, golden, stage)}
    expected[golden.output_name] = golden.outputs
    largest = dict.fromkeys(expected, 0.0)
    scales = ChannelScales.of(model)

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    shown = {value.name for value in probe.graph.output}
    probe.graph.output.extend(
        value
        for value in probe.graph.value_info
        if value.name in expected and value.name not in shown
    )
    # Batches of another size than the exporter's example of two: a baked-in batch shows here.
    total = len(golden.feed)
    batch = BATCH if total > BATCH else 1
    starts = range(0, total, batch)
    engine = ENGINES.get("onnxruntime")
    with engine.session(probe.SerializeToString(), optimise=False) as session:
        feed = session.inputs[0].name
        listener = progress or SilentProgress()
        for start in listener.track(starts, f"proving {stage}", len(starts)):
            images = slice(start, start + batch)
            values = session.infer({feed: golden.feed[images]})
            for name, golden_values in expected.items():
                want = golden_values[images]
                if not len(want):
                    continue  # blocks are recorded for the first images only
                if name not in values:
                    raise StageError(f"{stage}: the graph does not put out '{name}'")
                have = scales.restored(name, values[name][: len(want)])
                if have.shape != want.shape:
                    raise StageError(
                        f"{stage}: '{name}' has shape {have.shape}, the golden has {want.shape}"
                    )
                largest[name] = max(largest[name], _distance(have, want))

    errors = {name: _relative(largest[name], values) for name, values in expected.items()}
    for name, error in errors.items():
        if error > bound:
            raise StageError(
                f"{stage}: '{name}' is off by {error:.2e} of its largest golden value, "
                f"allowed are {bound:.0e}; leave this stage out, its result cannot be trusted"
            )
    return Proof(errors.pop(golden.output_name), errors)


def _blocks(model: onnx.ModelProto, golden: Golden, stage: str) -> dict[str, FloatArray]:
    """The golden blocks by tensor name, without one that is the graph's output itself."""
    tensors = tensor_names(model)
    found = {name: values for name, values in golden.blocks.items() if name in tensors}
    for name, values in golden.blocks.items():
        if name not in found and not np.array_equal(values, golden.outputs[: len(values)]):
            raise StageError(f"{stage}: the output of block '{name}' is gone; rewrites keep names")
    return found


def _distance(have: Array, want: FloatArray) -> float:
    """max |have − want|; infinite where `have` is not finite."""
    distance = float(np.abs(have.astype(np.float64) - want).max())
    return distance if np.isfinite(distance) else float("inf")


def _relative(distance: float, golden: FloatArray) -> float:
    """`distance` in units of the largest golden magnitude; an all-zero golden allows none."""
    scale = float(np.abs(golden).max())
    if scale == 0.0:
        return 0.0 if distance == 0.0 else float("inf")
    return distance / scale
