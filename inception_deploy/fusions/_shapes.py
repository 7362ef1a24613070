"""What is known of shapes: extents of tensors, and the integers that are computed from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from inception_deploy.graphs import constant_values, is_op, producer

__all__ = [
    "INTEGERS",
    "SHAPE_OPS",
    "extents",
    "flattens",
    "integers",
    "same_extents",
    "same_shape",
    "whole",
]

Values: TypeAlias = NDArray[Any]
"""Integers; the name of an extent, "batch"; None for anything else that is not known yet."""

ARITHMETIC = {"Add", "Sub", "Mul", "Div"}
SHAPE_OPS = (
    *("Shape", "Size", "Gather", "Slice", "Concat", "Squeeze", "Unsqueeze", "Reshape"),
    *("Cast", "Identity", *sorted(ARITHMETIC)),
)
"""Operators that shape arithmetic is made of."""

INTEGERS = (np.dtype(np.int32), np.dtype(np.int64))


def extents(tensor: gs.Tensor) -> list[int | str] | None:
    """The shape, numbers and names; None where not even the rank is known.

    Where shape inference gives up on the target of a `Reshape`, the target is worked out.
    """
    if tensor.shape is None:
        return None
    shape = list(tensor.shape)
    node = producer(tensor)
    if whole(shape) or node is None or not is_op(node, "Reshape"):
        return shape
    before, asked = extents(node.inputs[0]), _values(node.inputs[1])
    if before is None or asked is None or len(asked) != len(shape):
        return shape
    words: list[int | str | None] = asked.tolist()
    if not node.attrs.get("allowzero", 0):
        for index, extent in enumerate(before[: len(words)]):
            words[index] = extent if words[index] == 0 else words[index]
    return [
        extent if isinstance(extent, int) or word is None or word == -1 else word
        for extent, word in zip(shape, _completed(before, words), strict=True)
    ]


def whole(shape: Sequence[int | str]) -> bool:
    """Whether all extents are numbers."""
    return all(isinstance(extent, int) for extent in shape)


def same_shape(one: gs.Tensor, other: gs.Tensor, *, same_size: bool = False) -> bool:
    """Whether both tensors surely have the same shape.

    Args:
        same_size: they hold the same number of elements; one extent then follows from the others.
    """
    left, right = extents(one), extents(other)
    return left is not None and right is not None and same_extents(left, right, same_size)


def same_extents(
    left: Sequence[int | str], right: Sequence[int | str], same_size: bool = False
) -> bool:
    """As `same_shape`, for two shapes."""
    if len(left) != len(right):
        return False
    different = [(a, b) for a, b in zip(left, right, strict=True) if a != b]
    if any(isinstance(a, int) and isinstance(b, int) for a, b in different):
        return False
    return len(different) <= (1 if same_size else 0)


def flattens(node: gs.Node) -> bool:
    """Whether `node` turns (N, C, …) into (N, C · …), in whatever words."""
    if not is_op(node, "Flatten", "Reshape", "Squeeze"):
        return False
    before, after = extents(node.inputs[0]), extents(node.outputs[0])
    if before is None or after is None or len(before) < 2 or len(after) != 2:
        return False
    size = 1
    for extent in before[1:]:
        if not isinstance(extent, int):
            return False
        size *= extent
    # the size stays, so that a last extent of C · … leaves N for the first
    return after[1] == size > 0


def _completed(before: list[int | str], words: list[int | str | None]) -> list[int | str | None]:
    """`words` with a single −1 worked out, where the other extents and their names leave one."""
    rest = [word for word in words if word != -1]
    names = sorted(extent for extent in before if isinstance(extent, str))
    if len(rest) != len(words) - 1 or names != sorted(w for w in rest if isinstance(w, str)):
        return words
    size = math.prod(extent for extent in before if isinstance(extent, int))
    others = math.prod(word for word in rest if isinstance(word, int))
    if None in rest or not others or size % others:
        return words
    return [size // others if word == -1 else word for word in words]


def integers(tensor: gs.Tensor) -> NDArray[np.int64] | None:
    """All values of an integer tensor of at most one axis, if they are known."""
    values = _values(tensor)
    if values is None or not _whole(values):
        return None
    return np.asarray(values, np.int64)


def _whole(values: Values) -> bool:
    return all(isinstance(value, int) for value in values.flat)


def _values(tensor: gs.Tensor, depth: int = 64) -> Values | None:
    """What is known of an integer tensor of at most one axis; None where nothing is."""
    constant = constant_values(tensor)
    if constant is not None:
        small = constant.dtype in INTEGERS and constant.ndim <= 1
        return constant.astype(np.object_) if small else None
    node = producer(tensor)
    if node is None or not depth or not is_op(node, *SHAPE_OPS):
        return None
    if node.op in ("Shape", "Size"):
        return _measured(node)
    if tensor.dtype not in INTEGERS:
        return None  # a Cast to float: what happens there is no longer exact
    given = [None if t.is_empty() else _values(t, depth - 1) for t in node.inputs]
    if any(v is None and not t.is_empty() for v, t in zip(given, node.inputs, strict=True)):
        return None
    return _computed(node, [v for v in given if v is not None])


def _measured(node: gs.Node) -> Values | None:
    shape = extents(node.inputs[0])
    if shape is None:
        return None
    if node.op == "Size":
        return np.array(math.prod(map(int, shape)) if whole(shape) else None, np.object_)
    start, end = node.attrs.get("start", 0), node.attrs.get("end", len(shape))
    return np.array(shape[start:end], np.object_)


def _computed(node: gs.Node, given: Sequence[Values]) -> Values | None:
    """One step of shape arithmetic, element by element."""
    first = given[0]
    if node.op in ("Cast", "Identity"):
        return first
    if node.op in ("Squeeze", "Unsqueeze", "Reshape"):
        rank = len(extents(node.outputs[0]) or ()) if node.outputs[0].shape is not None else 2
        return first.reshape([-1] * rank) if rank < 2 and (rank or first.size == 1) else None
    if node.op == "Concat":
        return np.concatenate(given) if all(v.ndim == 1 for v in given) else None
    if node.op in ARITHMETIC:
        return _arithmetic(node.op, first, given[1])
    if not all(map(_whole, given[1:])):
        return None
    if node.op == "Gather":
        index = given[1].astype(np.int64)
        return np.asarray(first[index], np.object_) if first.ndim == 1 else None
    return _sliced(node, given)


def _arithmetic(op: str, left: Values, right: Values) -> Values | None:
    left, right = np.broadcast_arrays(left, right)
    result = np.empty(left.shape, np.object_)
    for place in np.ndindex(left.shape):
        a: Any = left[place]
        b: Any = right[place]
        if not (isinstance(a, int) and isinstance(b, int)):
            continue
        if op == "Div":
            if b == 0:
                return None
            result[place] = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
        else:
            result[place] = {"Add": a + b, "Sub": a - b, "Mul": a * b}[op]
    return result


def _sliced(node: gs.Node, given: Sequence[Values]) -> Values | None:
    if len(given) != len(node.inputs) or given[0].ndim != 1 or len(given[1]) != 1:
        return None
    start, end = int(given[1][0]), int(given[2][0])
    step = int(given[4][0]) if len(given) > 4 else 1
    return given[0][start:end:step] if step > 0 else None
