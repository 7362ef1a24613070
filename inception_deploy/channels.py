"""What calibration sees of single channels: mean, smallest and largest value, over all images.

As in `calibrate`, the graph observes itself: three numbers per channel leave the engine, no
activation. Bias correction asks for the means, equalisation for the magnitudes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from inception_deploy.artifact import FloatArray, opset_of
from inception_deploy.engines.base import Engine
from inception_deploy.errors import DataError
from inception_deploy.progress import Progress, SilentProgress

__all__ = ["ChannelStatistics", "observe_channels"]

FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64

_REDUCTIONS = {"sum": "ReduceSum", "minimum": "ReduceMin", "maximum": "ReduceMax"}


@dataclass(frozen=True, eq=False)
class ChannelStatistics:
    """Of one activation; each float64 (C,)."""

    mean: NDArray[np.float64]
    minimum: NDArray[np.float64]
    maximum: NDArray[np.float64]

    @property
    def max_abs(self) -> NDArray[np.float64]:
        """Largest magnitude of each channel."""
        return np.maximum(np.abs(self.minimum), np.abs(self.maximum))


def observe_channels(
    model: onnx.ModelProto,
    batches: Iterable[FloatArray],
    *,
    tensors: Sequence[str],
    engine: Engine,
    total: int,
    progress: Progress | None = None,
) -> Mapping[str, ChannelStatistics]:
    """Activation → statistics of its channels.

    Args:
        model: FP32 graph with one input.
        batches: preprocessed images, float32 (N, 3, H, W); consumed once.
        tensors: activations (N, C) or (N, C, H, W) of `model`.
        total: number of batches, for the progress bar.

    Raises:
        BadInput: a batch does not fit the graph's input.
        DataError: there are no batches.
    """
    listener = progress or SilentProgress()
    inferred = onnx.shape_inference.infer_shapes(model)
    known = (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in known}
    found: dict[str, ChannelStatistics] = {}
    images = 0
    watching = _watching(inferred, tensors, ranks).SerializeToString()
    with engine.session(watching) as session:
        feed = session.inputs[0].name
        for batch in listener.track(batches, "looking at channels", total):
            values = session.infer({feed: batch})
            for name in tensors:
                cells = int(values[f"{name}:shape"][2:].prod())
                new = ChannelStatistics(
                    values[f"{name}:sum"].astype(np.float64).sum(0) / cells,
                    values[f"{name}:minimum"].astype(np.float64).min(0),
                    values[f"{name}:maximum"].astype(np.float64).max(0),
                )
                found[name] = _joined(found.get(name), new)
            images += len(batch)
    if not images:
        raise DataError("no calibration images; give a source that holds some")
    return {
        name: ChannelStatistics(seen.mean / images, seen.minimum, seen.maximum)
        for name, seen in found.items()
    }


def _joined(old: ChannelStatistics | None, new: ChannelStatistics) -> ChannelStatistics:
    if old is None:
        return new
    return ChannelStatistics(
        old.mean + new.mean,
        np.minimum(old.minimum, new.minimum),
        np.maximum(old.maximum, new.maximum),
    )


def _watching(
    model: onnx.ModelProto, tensors: Sequence[str], ranks: Mapping[str, int]
) -> onnx.ModelProto:
    """A copy that puts out, per tensor, its reductions over positions, (N, C), and its shape."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    del graph.output[:]
    names = {rank: f"channels:positions{rank}" for rank in {ranks[name] for name in tensors}}
    for rank, axes in names.items():
        positions = np.arange(2, rank, dtype=np.int64)
        graph.initializer.append(onnx.numpy_helper.from_array(positions, axes))
    older = opset_of(model) < 18
    for name in tensors:
        rank = ranks[name]
        outputs = [(onnx.helper.make_node("Shape", [name], [f"{name}:shape"]), INT64, 1)]
        for kind, op in _REDUCTIONS.items():
            output = f"{name}:{kind}"
            if rank == 2:
                node = onnx.helper.make_node("Identity", [name], [output])
            elif older and op != "ReduceSum":
                axes_list = list(range(2, rank))
                node = onnx.helper.make_node(op, [name], [output], axes=axes_list, keepdims=0)
            else:
                node = onnx.helper.make_node(op, [name, names[rank]], [output], keepdims=0)
            outputs.append((node, FLOAT, 2))
        for node, dtype, dims in outputs:
            node.name = node.output[0]
            graph.node.append(node)
            graph.output.append(
                onnx.helper.make_tensor_value_info(node.output[0], dtype, [None] * dims)
            )
    return copy
