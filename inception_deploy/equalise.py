"""Channels of one tensor made alike, exactly in float, for a grid that they share.

Eight bits of a tensor are spent on its widest channel; one of a tenth its range gets a tenth of the
steps. A factor of a channel, put into the weights that write it and taken out of those that read
it, changes nothing in float (Nagel et al., 2019, arXiv:1906.04721, section 4.1: cross-layer
equalisation) and gives the narrow channel more steps. It costs in the weights that read it: their
channels become less alike. Half of the way, on a logarithmic scale, was measured to be best
(docs/decisions/003).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from inception_deploy.artifact import Applied, Artifact, StageRecord, model_digest
from inception_deploy.channel_groups import FIXED, absorbing, channel_groups
from inception_deploy.channel_scales import STEPS, ChannelScales
from inception_deploy.errors import StageError
from inception_deploy.graphs import attribute, fits_float32
from inception_deploy.progress import Progress, SilentProgress
from inception_deploy.proof import FP32_BOUND, prove

__all__ = ["STAGE", "choose_scales", "equalise", "with_scales"]

STAGE = "equalise"

EXPONENT = 0.5
"""Of the ratio between the widest channel and this one. 0.35 and 0.7 were tried, too, and 1."""

LARGEST = 4 * STEPS
"""A factor of 16: what a channel of hardly any values may get."""


def choose_scales(
    model: onnx.ModelProto, widest: Mapping[str, NDArray[np.float64]]
) -> ChannelScales:
    """Factors that narrow what a tensor's channels differ by.

    Args:
        model: the graph.
        widest: activation that shares one grid → largest magnitude of each channel, (C,).
    """
    groups = channel_groups(model)
    count = 1 + max((int(g.max(initial=FIXED)) for g in groups.values()), default=FIXED)
    seen, top = np.zeros(count), np.zeros(count)
    # a free dimension in place of channels has no groups, and gets no factors
    known = {tensor: groups[tensor] for tensor in widest if len(groups[tensor])}
    for tensor, members in known.items():
        np.maximum.at(seen, members, widest[tensor])
    for members in known.values():
        np.maximum.at(top, members, seen[members].max(initial=0.0))
    free = (seen > 0) & (np.arange(count) != FIXED)
    steps = np.zeros(count)
    steps[free] = np.round(STEPS * EXPONENT * np.log2(top[free] / seen[free]))
    chosen = np.clip(steps, 0, LARGEST).astype(np.uint8)
    scaled = {tensor: chosen[members] for tensor, members in groups.items()}
    return ChannelScales({tensor: k for tensor, k in scaled.items() if k.any()})


def equalise(
    artifact: Artifact,
    widest: Mapping[str, NDArray[np.float64]],
    *,
    progress: Progress | None = None,
) -> Artifact:
    """The artifact with its channels scaled, and one record "equalise", proven.

    Args:
        widest: as for `choose_scales`.

    Raises:
        StageError: the outputs, or a block's values with the factors undone, are off by more than
            `proof.FP32_BOUND`.
    """
    listener = progress or SilentProgress()
    started = time.perf_counter()
    with listener.stage(STAGE):
        scales = choose_scales(artifact.model, widest)
        model = with_scales(artifact.model, scales)
    proof = prove(model, artifact.golden, bound=FP32_BOUND, stage=STAGE, progress=progress)
    largest = max((int(k.max()) for k in scales.exponents.values()), default=0)
    record = StageRecord(
        name=STAGE,
        seconds=time.perf_counter() - started,
        before=artifact.digest,
        after=model_digest(model),
        applied=tuple(
            Applied(STAGE, name, node.op_type)
            for name, node in absorbing(model).items()
            if not scales.exponents.keys().isdisjoint((node.input[0], node.output[0]))
        ),
        error=proof.error,
        bound=FP32_BOUND,
        facts={
            "tensors": len(scales.exponents),
            "largest_factor": 2 ** (largest / STEPS),
            **proof.facts(),
        },
    )
    return artifact.advance(model, record)


def with_scales(model: onnx.ModelProto, scales: ChannelScales) -> onnx.ModelProto:
    """A copy of `model` whose tensors hold the network's values times `scales`; `model` itself
    where nothing is scaled.

    Raises:
        StageError: a tensor is not in the graph, has another number of channels, or is scaled
            where nothing can take the factor out again.
    """
    if not scales:
        return model
    _check(model, scales)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    stored = {tensor.name: tensor for tensor in copy.graph.initializer}
    uses = Counter(name for node in copy.graph.node for name in node.input)
    for node in absorbing(copy).values():
        read, put = scales.factors(node.input[0]), scales.factors(node.output[0])
        if read is None and put is None:
            continue
        weights = numpy_helper.to_array(stored[node.input[1]])
        each = _factors(node, weights.shape, read, put)
        new = {1: weights * each}
        if put is not None and len(node.input) > 2 and node.input[2]:
            new[2] = numpy_helper.to_array(stored[node.input[2]]) * put
        for position, values in new.items():
            name = node.input[position]
            if not fits_float32(values):
                raise StageError(f"{STAGE}: '{name}' of '{node.name}' leaves float32's range")
            if uses[name] > 1:  # another node reads the weights as they are
                uses[name] -= 1
                name = f"{node.name}:{STAGE}:{position}"
                node.input[position] = name
                copy.graph.initializer.add(name=name)
                stored[name] = copy.graph.initializer[-1]
            stored[name].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))
    scales.write(copy)
    return copy


def _check(model: onnx.ModelProto, scales: ChannelScales) -> None:
    """Raises `StageError` unless `scales` scale whole groups, and the same everywhere."""
    groups = channel_groups(model)
    known: dict[int, int] = {FIXED: 0}
    for tensor, members in groups.items():
        exponents = scales.exponents.get(tensor, np.zeros(len(members), np.uint8))
        if len(exponents) != len(members):
            raise StageError(
                f"{STAGE}: '{tensor}' has {len(members)} channels, but {len(exponents)} factors"
            )
        for group, k in set(zip(members.tolist(), exponents.tolist(), strict=True)):
            if known.setdefault(group, k) != k:
                raise StageError(
                    f"{STAGE}: a channel of '{tensor}' has another factor than what it is "
                    "computed from or summed with"
                )
    unknown = scales.exponents.keys() - groups.keys()
    if unknown:
        raise StageError(f"{STAGE}: there is no tensor '{min(unknown)}' to scale")


def _factors(
    node: onnx.NodeProto,
    shape: tuple[int, ...],
    read: NDArray[np.float64] | None,
    put: NDArray[np.float64] | None,
) -> NDArray[Any]:
    """What each weight is multiplied by, float64, in a shape that broadcasts to that of weights."""
    if node.op_type == "Gemm":  # what it puts out is never scaled
        assert read is not None
        return 1 / read.reshape((1, -1) if attribute(node, "transB") else (-1, 1))
    rows, columns = shape[:2]
    factors = np.ones((rows, columns))
    if read is not None:
        share = len(read) // columns  # groups, each with rows / share filters
        factors /= np.repeat(read.reshape(share, columns), rows // share, axis=0)
    if put is not None:
        factors *= put[:, None]
    return factors.reshape(rows, columns, *[1] * (len(shape) - 2))
