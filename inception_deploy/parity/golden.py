"""A graph against the golden: its output, and where on the way to it the error arises.

The golden's block outputs were recorded from PyTorch once, and the graph's tensors carry the
blocks' names through every stage, so each block is compared with PyTorch itself and never with the
stage before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from inception_deploy.artifact import FloatArray, Golden
from inception_deploy.channel_scales import ChannelScales
from inception_deploy.engines.base import Array, Engine, Session
from inception_deploy.errors import StageError
from inception_deploy.graphs import tensor_names
from inception_deploy.parity.distance import DistanceMeter
from inception_deploy.progress import Progress, SilentProgress

__all__ = ["BlockError", "GoldenError", "compare_blocks", "compare_golden", "record_blocks"]

IMAGES_AT_ONCE = 8
BLOCKS_AT_ONCE = 8
BLOCK_IMAGES = 4  # as `golden.record_golden` keeps of PyTorch's


@dataclass(frozen=True)
class GoldenError:
    """The graph's output against the golden's; the figures are those of `distance.Distance`."""

    images: int
    max_abs_error: float
    max_rel_error: float
    sqnr_db: float | None
    exact: bool


@dataclass(frozen=True)
class BlockError:
    """One block's output against the golden's; the figures are those of `distance.Distance`.

    Args:
        name: the block's, e.g. "Mixed_6c".
        reason: why there are no figures; None where there are.
    """

    name: str
    max_abs_error: float | None = None
    max_rel_error: float | None = None
    sqnr_db: float | None = None
    cosine: float | None = None
    exact: bool = False
    reason: str | None = None


def compare_golden(session: Session, golden: Golden) -> GoldenError:
    """Run all golden inputs through an open session and compare the head's output.

    Raises:
        StageError: the output is missing, has another shape, or is not finite.
        BadInput: the session takes no such images.
    """
    meter = DistanceMeter()
    for start in range(0, len(golden.feed), IMAGES_AT_ONCE):
        images = slice(start, start + IMAGES_AT_ONCE)
        outputs = session.infer({session.inputs[0].name: golden.feed[images]})
        have = _output(outputs, golden.output_name, golden.outputs[images])
        if not np.isfinite(have).all():
            raise StageError(
                f"'{golden.output_name}' holds NaN or infinity on the golden inputs; "
                "compare the blocks to find where it starts"
            )
        meter.add(golden.outputs[images], have)
    found = meter.result()
    return GoldenError(
        found.images, found.max_abs_error, found.max_rel_error, found.sqnr_db, found.exact
    )


def compare_blocks(
    model: onnx.ModelProto,
    golden: Golden,
    engine: Engine,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[BlockError]:
    """Compare every block's output with the golden's, in processing order.

    The graph runs as written, without the engine's own rewrites, which would fuse the tensors away;
    a few blocks at a time, so that memory holds the weights once and not every block's output.
    Float16 tensors are compared as they are, in float64. A block without figures (its tensor is
    gone from the graph, or is not finite, or its golden is zero throughout) is listed with the
    reason.

    Args:
        model: the graph, weights inside; it is not modified.
        threads: intra-op threads; None leaves the choice to the engine.

    Raises:
        StageError: a block's tensor has another shape than the golden's, or the graph does not run.
    """
    tensors = _tensors(model, golden)
    found: dict[str, BlockError] = {
        name: BlockError(name, reason="no tensor of this name is left in the graph")
        for name in golden.blocks
        if name not in tensors
    }
    names = list(tensors)
    chunks = [names[i : i + BLOCKS_AT_ONCE] for i in range(0, len(names), BLOCKS_AT_ONCE)]
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    types = _types(model)
    listener = progress or SilentProgress()
    for chunk in listener.track(chunks, "comparing blocks", len(chunks)):
        outputs = _run(probe, [tensors[name] for name in chunk], types, golden, engine, threads)
        for name in chunk:
            have = _output(outputs, tensors[name], golden.blocks[name])
            found[name] = _block_error(name, golden.blocks[name], have)
    return [found[name] for name in golden.blocks]


def record_blocks(
    model: onnx.ModelProto, golden: Golden, names: Sequence[str], engine: Engine
) -> Golden:
    """The golden with the blocks of `model` in place of PyTorch's, and its output likewise.

    Blocks whose tensor is gone from the graph or not finite are left out. The graph runs as
    written; half-precision values are kept as float32.

    Raises:
        StageError: the output is missing or has another shape, or the graph does not run.
    """
    present, types = tensor_names(model), _types(model)
    wanted = [name for name in names if name in present and name != golden.output_name]
    asked = replace(golden, block_images=min(BLOCK_IMAGES, len(golden.feed)), blocks={})
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    outputs: dict[str, Array] = {}
    for start in range(0, len(wanted), BLOCKS_AT_ONCE):
        chunk = wanted[start : start + BLOCKS_AT_ONCE]
        outputs |= _run(probe, chunk, types, asked, engine, None)
    with engine.session(model.SerializeToString(), optimise=False) as session:
        own = session.infer({session.inputs[0].name: golden.feed})
    last = _output(own, golden.output_name, golden.outputs)
    blocks = {n: v.astype(np.float32) for n, v in outputs.items() if np.isfinite(v).all()}
    return replace(asked, outputs=last.astype(np.float32), blocks=blocks)


def _tensors(model: onnx.ModelProto, golden: Golden) -> dict[str, str]:
    """Block name → tensor name, for the blocks that the graph still has.

    The last block may be the head itself; its tensor is then named as the graph's output.
    """
    present = tensor_names(model)
    found = {name: name for name in golden.blocks if name in present}
    for name, values in golden.blocks.items():
        if name not in found and np.array_equal(values, golden.outputs[: len(values)]):
            found[name] = golden.output_name
    return {name: found[name] for name in golden.blocks if name in found}


def _types(model: onnx.ModelProto) -> Mapping[str, onnx.ValueInfoProto]:
    """What the graph says of its intermediate tensors; inferred where it says nothing."""
    described = model if model.graph.value_info else onnx.shape_inference.infer_shapes(model)
    return {value.name: value for value in (*described.graph.value_info, *model.graph.output)}


def _run(
    probe: onnx.ModelProto,
    tensors: Sequence[str],
    types: Mapping[str, onnx.ValueInfoProto],
    golden: Golden,
    engine: Engine,
    threads: int | None,
) -> dict[str, Array]:
    """The values of `tensors` for the images that the golden has blocks of.

    They are the network's, without the factors that the graph stores channels with.
    """
    del probe.graph.output[:]
    # an operator of another domain has no inferred type: the engine knows it by itself
    probe.graph.output.extend(
        types.get(name, onnx.ValueInfoProto(name=name)) for name in dict.fromkeys(tensors)
    )
    images = golden.feed[: golden.block_images]
    with engine.session(probe.SerializeToString(), threads=threads, optimise=False) as session:
        values = session.infer({session.inputs[0].name: images})
    scales = ChannelScales.of(probe)
    return {name: scales.restored(name, value) for name, value in values.items()}


def _output(outputs: Mapping[str, Array], name: str, golden: FloatArray) -> Array:
    if name not in outputs:
        raise StageError(f"the graph does not put out '{name}' but {', '.join(sorted(outputs))}")
    if outputs[name].shape != golden.shape:
        raise StageError(
            f"'{name}' has shape {outputs[name].shape}, the golden has {golden.shape}; "
            "the graph and the golden belong to different networks"
        )
    return outputs[name]


def _block_error(name: str, golden: FloatArray, have: Array) -> BlockError:
    bad = int(have.size - np.count_nonzero(np.isfinite(have)))
    if bad:
        return BlockError(name, reason=f"{bad} of {have.size} values are NaN or infinite")
    if not golden.any():
        return BlockError(name, reason="the golden is zero throughout, so no error can be scaled")
    meter = DistanceMeter()
    meter.add(golden, have)
    figures = meter.result()
    return BlockError(
        name,
        figures.max_abs_error,
        figures.max_rel_error,
        figures.sqnr_db,
        figures.cosine,
        figures.exact,
    )
