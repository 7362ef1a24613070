"""Every mean over the whole map is a `GlobalAveragePool`, every way to two axes a `Flatten`.

For x of shape (N, C, H, W)

    ReduceMean over H and W, AveragePool with an H × W window and no padding
        = (1 / HW) Σ x[n, c, h, w]  = GlobalAveragePool

and a `Reshape` or `Squeeze` from (N, C, …) to (N, C · …) leaves the elements in their order, as
`Flatten(axis=1)` does. A `ReduceMean` that drops its axes becomes the pool and a `Flatten`. The
operators are the same; only the order in which an engine sums may differ.

Engines, quantisers and the placements of Q/DQ look for this one form.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from inception_deploy.fusions._examples import Weights, graph
from inception_deploy.fusions._shapes import extents, flattens
from inception_deploy.fusions.base import Example, Fusion, Phase
from inception_deploy.graphs import constant_values, fresh_name, is_op
from inception_deploy.proof import FP32_BOUND

__all__ = ["FUSIONS", "FlattenForm", "GlobalPool"]


class GlobalPool(Fusion):
    """Turns a mean over height and width, in other words, into a `GlobalAveragePool`."""

    name = "global_pool"
    phase = Phase.CANONICAL
    bound = FP32_BOUND

    @property
    def examples(self) -> tuple[Example, ...]:
        return _POOL_EXAMPLES

    def match(self, graph: gs.Graph) -> Iterator[gs.Node]:
        for node in graph.nodes:
            shape = extents(node.inputs[0]) if node.inputs else None
            if shape is None or len(shape) != 4:
                continue
            if is_op(node, "ReduceMean") and _axes(node) == {2, 3}:
                yield node
            elif is_op(node, "AveragePool"):
                left = (extents(node.outputs[0]) or [])[2:]
                if all(extent == 1 or isinstance(extent, str) for extent in left):
                    yield node

    def check(self, graph: gs.Graph, anchor: gs.Node) -> str | None:
        if anchor.op == "ReduceMean":
            return None
        height, width = (extents(anchor.inputs[0]) or [])[2:]
        window = list(anchor.attrs["kernel_shape"])
        if not (isinstance(height, int) and isinstance(width, int)):
            return f"the map ({height}, {width}) has no known size to compare the window with"
        if any(anchor.attrs.get("pads", [0])) or _pads_itself(anchor):
            return "it pads the map"
        if window != [height, width]:
            return f"its window {tuple(window)} is not the whole map ({height}, {width})"
        return None

    def rewrite(self, graph: gs.Graph, anchor: gs.Node) -> str:
        was, source, result = anchor.op, anchor.inputs[0], anchor.outputs[0]
        drops = was == "ReduceMean" and not anchor.attrs.get("keepdims", 1)
        anchor.op, anchor.attrs, anchor.inputs = "GlobalAveragePool", {}, [source]
        if drops:
            name = fresh_name(graph, f"{anchor.name}:pooled")
            pooled = gs.Variable(name, result.dtype, [*(extents(source) or [])[:2], 1, 1])
            anchor.outputs = [pooled]
            flat = gs.Node("Flatten", f"{anchor.name}.Flatten", {"axis": 1}, [pooled], [result])
            graph.nodes.append(flat)
        return f"from {was}"


class FlattenForm(Fusion):
    """Turns a `Reshape` or `Squeeze` to (N, C · …) into `Flatten(axis=1)`."""

    name = "flatten"
    phase = Phase.CANONICAL
    bound = FP32_BOUND

    @property
    def examples(self) -> tuple[Example, ...]:
        return _FLATTEN_EXAMPLES

    def match(self, graph: gs.Graph) -> Iterator[gs.Node]:
        for node in graph.nodes:
            before = extents(node.inputs[0]) if node.inputs else None
            after = extents(node.outputs[0]) if node.outputs else None
            to_two = before and after and len(before) > len(after) == 2
            if to_two and is_op(node, "Reshape", "Squeeze"):
                yield node

    def check(self, graph: gs.Graph, anchor: gs.Node) -> str | None:
        if not flattens(anchor):
            before, after = extents(anchor.inputs[0]), extents(anchor.outputs[0])
            return f"from {before} to {after} is more than the axes behind the first"
        return None

    def rewrite(self, graph: gs.Graph, anchor: gs.Node) -> str:
        was = anchor.op
        anchor.op, anchor.attrs, anchor.inputs = "Flatten", {"axis": 1}, [anchor.inputs[0]]
        return f"from {was}"


def _axes(node: gs.Node) -> set[int]:
    """The axes a `ReduceMean` of four goes over, as far as they are stated and constant.

    They are an attribute before opset 18, and an input since.
    """
    values = constant_values(node.inputs[1]) if len(node.inputs) > 1 else None
    axes = node.attrs.get("axes", []) if values is None else values.tolist()
    return {axis % 4 for axis in axes}


def _pads_itself(pool: gs.Node) -> bool:
    return str(pool.attrs.get("auto_pad", "NOTSET")).startswith("SAME")


_INTS: Weights = {
    "spatial": np.array([2, 3], np.int64),
    "backwards": np.array([-1, -2], np.int64),
    "height": np.array([2], np.int64),
    "channels": np.array([1], np.int64),
    "two": np.array([0, -1], np.int64),
    "pairs": np.array([-1, 8], np.int64),
    "wide": np.array([-1, 144], np.int64),
}


_POOL_EXAMPLES = (
    Example(
        "mean over both axes",
        graph("output = ReduceMean<keepdims: int = 1>(input, spatial)", _INTS),
        applied=1,
    ),
    Example(
        "mean over both axes from the back, dropping them",
        graph(
            "mean = ReduceMean<keepdims: int = 0>(input, backwards)\n output = Softmax(mean)", _INTS
        ),
        applied=1,
    ),
    Example(
        "a window as large as the map",
        graph(
            """pool = AveragePool<kernel_shape: ints = [6, 6], count_include_pad: int = 1>(input)
               output = Relu(pool)""",
            {},
        ),
        applied=1,
    ),
    Example(
        "two heads",
        graph(
            """left = ReduceMean(input, spatial)
               right = AveragePool<kernel_shape: ints = [6, 6], strides: ints = [6, 6]>(input)
               output = Add(left, right)""",
            _INTS,
        ),
        applied=2,
    ),
    Example("one already", graph("output = GlobalAveragePool(input)", {}), applied=0),
    Example("mean over the height", graph("output = ReduceMean(input, height)", _INTS), applied=0),
    Example("mean over channels", graph("output = ReduceMean(input, channels)", _INTS), applied=0),
    Example("mean over everything", graph("output = ReduceMean(input)", _INTS), applied=0),
    Example(
        "a pool in the middle of the network",
        graph("output = AveragePool<kernel_shape: ints = [3, 3]>(input)", {}),
        applied=0,
    ),
    Example(
        "a window smaller than the map",
        graph(
            "output = AveragePool<kernel_shape: ints = [5, 5], strides: ints = [5, 5]>(input)", {}
        ),
        applied=0,
        refused="its window (5, 5) is not the whole map (6, 6)",
    ),
    Example(
        "a padded window",
        graph(
            """output = AveragePool<kernel_shape: ints = [6, 6], pads: ints = [1, 1, 0, 0],
                                    strides: ints = [3, 3]>(input)""",
            {},
        ),
        applied=0,
        refused="it pads the map",
    ),
    Example(
        "a map of unknown size",
        graph(
            "output = AveragePool<kernel_shape: ints = [6, 6]>(input)",
            {},
            shape="batch, 4, height, width",
        ),
        applied=0,
        refused="has no known size",
    ),
)

_FLATTEN_EXAMPLES = (
    Example(
        "squeeze of a pooled map",
        graph("pool = GlobalAveragePool(input)\n output = Squeeze(pool, spatial)", _INTS),
        applied=1,
    ),
    Example("reshape", graph("output = Reshape(input, two)", _INTS), applied=1),
    Example("reshape with the size", graph("output = Reshape(input, wide)", _INTS), applied=1),
    Example("one already", graph("output = Flatten(input)", {}), applied=0),
    Example(
        "reshape of two axes",
        graph("flat = Flatten(input)\n output = Reshape(flat, pairs)", _INTS),
        applied=0,
    ),
    Example(
        "reshape across the batch",
        graph("output = Reshape(input, pairs)", _INTS),
        applied=0,
        refused="is more than the axes behind the first",
    ),
    Example(
        "squeeze of the first axes",
        graph("output = Squeeze(input, first)", {"first": np.array([0, 1])}, shape="1, 1, 6, 6"),
        applied=0,
        refused="is more than the axes behind the first",
    ),
)

FUSIONS = (GlobalPool(), FlattenForm())
