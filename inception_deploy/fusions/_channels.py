"""What a few nodes behind the graph's input do to its channels: pick, scale and shift them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from inception_deploy.fusions._shapes import extents
from inception_deploy.graphs import constant_values, is_op, producer

__all__ = ["ChannelMap", "follow"]

Float64Array: TypeAlias = NDArray[np.float64]

CONVERSIONS = ("Cast", "Transpose")
"""What may stand between the graph's input and the first node that computes."""


@dataclass(frozen=True)
class ChannelMap:
    """Channel k of a tensor is scale[k] · source[index[k]] + shift[k].

    Args:
        source: (N, C, H, W), from the graph's input.
        index: int64 (K,), channels of the source.
        scale, shift: float64 (K,).
        nodes: those that do it, in no order.
        dropped: the one channel has no axis: (N, H, W).
    """

    source: gs.Tensor
    index: NDArray[np.int64]
    scale: Float64Array
    shift: Float64Array
    nodes: tuple[gs.Node, ...] = ()
    dropped: bool = False

    @property
    def in_order(self) -> bool:
        """Whether every channel of the source is taken once, in its place."""
        return bool(self.index.tolist() == list(range(int(self.source.shape[1]))))

    def scaled(self, scale: Float64Array | float, shift: Float64Array | float = 0.0) -> ChannelMap:
        """What scale · x + shift makes of it."""
        return replace(self, scale=self.scale * scale, shift=self.shift * scale + shift)

    def taken(self, chosen: NDArray[np.int64], *, dropped: bool = False) -> ChannelMap:
        """Some of the channels."""
        index, scale, shift = (np.atleast_1d(a[chosen]) for a in self._arrays())
        return replace(self, index=index, scale=scale, shift=shift, dropped=dropped)

    def _arrays(self) -> tuple[NDArray[Any], ...]:
        return self.index, self.scale, self.shift


def follow(tensor: gs.Tensor) -> ChannelMap | None:
    """How `tensor` comes from the graph's input; None where more than its channels is touched."""
    node = producer(tensor)
    if node is None or is_op(node, *CONVERSIONS):
        return _source(tensor)
    step = _STEPS.get(node.op) if is_op(node, node.op) else None
    found = None if step is None else step(node, tensor)
    return None if found is None else replace(found, nodes=(*found.nodes, node))


def _source(tensor: gs.Tensor) -> ChannelMap | None:
    origin = tensor
    while (node := producer(origin)) is not None and is_op(node, *CONVERSIONS):
        origin = node.inputs[0]
    shape = extents(tensor)
    if producer(origin) is not None or isinstance(origin, gs.Constant):
        return None
    if shape is None or len(shape) != 4 or not isinstance(shape[1], int):
        return None
    count = shape[1]
    return ChannelMap(tensor, np.arange(count), np.ones(count), np.zeros(count))


def _affine(node: gs.Node, _: gs.Tensor) -> ChannelMap | None:
    """x and a constant: a number, or one per channel."""
    on_left = constant_values(node.inputs[0]) is not None
    data, other = (node.inputs[1], node.inputs[0]) if on_left else node.inputs
    if constant_values(other) is None or (on_left and node.op == "Div"):
        return None
    found = follow(data)
    values = None if found is None else _per_channel(other.values, found)
    if found is None or values is None:
        return None
    if node.op in ("Add", "Sub"):
        turned = -1.0 if on_left and node.op == "Sub" else 1.0
        return found.scaled(turned, -values if node.op == "Sub" and not on_left else values)
    if node.op == "Div" and not values.all():
        return None
    return found.scaled(1.0 / values if node.op == "Div" else values)


def _per_channel(values: NDArray[Any], found: ChannelMap) -> Float64Array | None:
    """A constant as one number, or as one per channel; None where it varies over other axes."""
    rank, count = (3, 1) if found.dropped else (4, len(found.index))
    if values.ndim > rank:
        return None
    shape = (1,) * (rank - values.ndim) + values.shape
    others = shape if found.dropped else (shape[0], *shape[2:])
    if set(others) - {1} or values.size not in (1, count):
        return None
    return np.asarray(values.astype(np.float64).reshape(-1))


def _norm(node: gs.Node, _: gs.Tensor) -> ChannelMap | None:
    """A batch norm in inference is affine per channel."""
    found = follow(node.inputs[0])
    parameters = [constant_values(tensor) for tensor in node.inputs[1:]]
    if found is None or node.attrs.get("training_mode", 0) or len(node.outputs) > 1:
        return None
    if any(values is None for values in parameters):
        return None
    gamma, beta, mean, variance = (np.asarray(v, np.float64) for v in parameters)
    spread = variance + node.attrs.get("epsilon", 1e-5)
    if not (spread > 0).all():
        return None
    scale = gamma / np.sqrt(spread)
    return found.scaled(scale, beta - scale * mean)


def _gather(node: gs.Node, _: gs.Tensor) -> ChannelMap | None:
    found, chosen = follow(node.inputs[0]), constant_values(node.inputs[1])
    if found is None or found.dropped or chosen is None or chosen.ndim > 1:
        return None
    return found.taken(chosen, dropped=chosen.ndim == 0) if node.attrs.get("axis", 0) == 1 else None


def _slice(node: gs.Node, _: gs.Tensor) -> ChannelMap | None:
    found = follow(node.inputs[0])
    given = [constant_values(tensor) for tensor in node.inputs[1:]]
    if found is None or found.dropped or any(values is None for values in given):
        return None
    numbers = [np.asarray(values).tolist() for values in given]
    if len(numbers) < 3 or numbers[2] not in ([1], [-3]):
        return None
    [start], [stop], [step] = (*numbers[:2], numbers[3] if len(numbers) > 3 else [1])
    return found.taken(np.arange(len(found.index))[start:stop:step])


def _split(node: gs.Node, tensor: gs.Tensor) -> ChannelMap | None:
    found = follow(node.inputs[0])
    sizes = [(extents(output) or [0, 0])[1] for output in node.outputs]
    if found is None or found.dropped or node.attrs.get("axis", 0) not in (1, -3):
        return None
    if not all(isinstance(size, int) for size in sizes):
        return None
    index = next(i for i, output in enumerate(node.outputs) if output is tensor)
    start = sum(int(size) for size in sizes[:index])
    return found.taken(np.arange(start, start + int(sizes[index])))


def _unsqueeze(node: gs.Node, _: gs.Tensor) -> ChannelMap | None:
    found = follow(node.inputs[0])
    axes = constant_values(node.inputs[1]) if len(node.inputs) > 1 else None
    if found is None or not found.dropped or axes is None or axes.tolist() not in ([1], [-3]):
        return None
    return replace(found, dropped=False)


def _concat(node: gs.Node, _: gs.Tensor) -> ChannelMap | None:
    if node.attrs.get("axis") not in (1, -3):
        return None
    found = _followed(node.inputs)
    if not found or any(f.dropped or f.source is not found[0].source for f in found):
        return None
    index, scale, shift = (
        np.concatenate(arrays) for arrays in zip(*(f._arrays() for f in found), strict=True)
    )
    nodes = {id(n): n for f in found for n in f.nodes}
    return ChannelMap(found[0].source, index, scale, shift, tuple(nodes.values()))


def _followed(tensors: Sequence[gs.Tensor]) -> list[ChannelMap]:
    """All of them, or nothing."""
    found = []
    for tensor in tensors:
        one = follow(tensor)
        if one is None:
            return []
        found.append(one)
    return found


_STEPS: Mapping[str, Callable[[gs.Node, gs.Tensor], ChannelMap | None]] = {
    **dict.fromkeys(("Add", "Div", "Mul", "Sub"), _affine),
    "BatchNormalization": _norm,
    "Concat": _concat,
    "Gather": _gather,
    "Slice": _slice,
    "Split": _split,
    "Unsqueeze": _unsqueeze,
}
