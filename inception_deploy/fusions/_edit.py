"""Edits that several fusions share."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from inception_deploy.graphs import is_output, producer

__all__ = ["bypass", "cannot_bypass"]


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
