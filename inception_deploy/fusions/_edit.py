"""Small edits and questions about shapes that several fusions share."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from inception_deploy.graphs import is_op, is_output, producer

__all__ = ["bypass", "cannot_bypass", "extents", "flattens", "same_shape", "whole"]


def extents(tensor: gs.Tensor) -> list[int | str] | None:
    """The shape, numbers and names; None where not even the rank is known."""
    return None if tensor.shape is None else list(tensor.shape)


def whole(shape: Sequence[int | str]) -> bool:
    """Whether all extents are numbers."""
    return all(isinstance(extent, int) for extent in shape)


def same_shape(one: gs.Tensor, other: gs.Tensor, *, same_size: bool = False) -> bool:
    """Whether both tensors surely have the same shape.

    Args:
        same_size: they hold the same number of elements; one extent then follows from the others.
    """
    left, right = extents(one), extents(other)
    if left is None or right is None or len(left) != len(right):
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


def cannot_bypass(graph: gs.Graph, node: gs.Node, data: int = 0) -> str | None:
    """Why input `data` of `node` cannot stand for its first output: both names must stay."""
    before, after = node.inputs[data], node.outputs[0]
    if not is_output(graph, after):
        return None
    kept = "is an output of the graph or of a block, as is its result"
    if producer(before) is None:
        kept = "is an input of the graph or a constant, and its result an output"
    elif not is_output(graph, before):
        return None
    return f"'{before.name}' {kept}: both keep their names"


def bypass(graph: gs.Graph, node: gs.Node, data: int = 0) -> None:
    """Let input `data` of `node` stand for its first output; `node` is cut off.

    An output of the graph or of a block keeps its name, and the input's producer puts it out.
    """
    before, after = node.inputs[data], node.outputs[0]
    node.inputs.clear()
    node.outputs.clear()
    stays, goes = (after, before) if is_output(graph, after) else (before, after)
    for user in list(goes.outputs):
        for index, tensor in enumerate(user.inputs):
            if tensor is goes:
                user.inputs[index] = stays
    if stays is after:
        source = before.inputs[0]
        index = next(i for i, tensor in enumerate(source.outputs) if tensor is before)
        source.outputs[index] = after
