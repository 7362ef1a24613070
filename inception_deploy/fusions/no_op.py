"""Nodes that compute nothing are left out.

    f(x) = x   ⇒   every user of f(x) takes x

for `Identity`; `Dropout` in inference; `Reshape`, `Flatten`, `Squeeze` and `Unsqueeze` to the shape
the tensor has; `Transpose` by the identity; `Expand` to the same shape and `Tile` once; `Pad` by
nothing; `Cast` to the type it is; `Slice` of everything; `Concat`, `Sum`, `Max`, `Min` and `Mean`
of one tensor and `Split` into one; pools over a 1×1 window with stride 1; x · 1, x / 1, x + 0 and
x − 0 where the constant does not broadcast x to more axes. All are exact to the bit, but that
−0 + 0 is 0.

Files of other exporters are full of them; an export of this package has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from inception_deploy.fusions._edit import bypass, cannot_bypass
from inception_deploy.fusions._examples import Weights, graph
from inception_deploy.fusions._shapes import extents, same_shape
from inception_deploy.fusions.base import Example, Fusion, Phase
from inception_deploy.graphs import constant_values, is_op, is_output
from inception_deploy.proof import FP32_BOUND

__all__ = ["FUSIONS", "NoOp"]

TO_THE_END = 2**31 - 1
"""Exporters write the end of a `Slice` to the end as this or more."""


class NoOp(Fusion):
    """Leaves out nodes whose output is their input."""

    name = "no_op"
    phase = Phase.CANONICAL
    bound = FP32_BOUND

    @property
    def examples(self) -> tuple[Example, ...]:
        return _EXAMPLES

    def match(self, graph: gs.Graph) -> Iterator[gs.Node]:
        for node in graph.nodes:
            known = _KINDS.get(node.op)
            if known is None or not is_op(node, node.op) or not node.inputs or not node.outputs:
                continue
            needed = (tensor.outputs or is_output(graph, tensor) for tensor in node.outputs[1:])
            if known(node) and not any(needed):
                yield node

    def check(self, graph: gs.Graph, anchor: gs.Node) -> str | None:
        return cannot_bypass(graph, anchor, _passing(anchor))

    def rewrite(self, graph: gs.Graph, anchor: gs.Node) -> str:
        bypass(graph, anchor, _passing(anchor))
        return f"{anchor.op} left out"


def _always(node: gs.Node) -> bool:
    return True


def _alone(node: gs.Node) -> bool:
    return len(node.inputs) == 1


def _in_inference(node: gs.Node) -> bool:
    """Without `training_mode` (its third input), a dropout is in inference."""
    if len(node.inputs) < 3 or node.inputs[2].is_empty():
        return True
    training = constant_values(node.inputs[2])
    return training is not None and not training.any()


def _same_elements(node: gs.Node) -> bool:
    return same_shape(node.inputs[0], node.outputs[0], same_size=True)


def _same_shape(node: gs.Node) -> bool:
    return same_shape(node.inputs[0], node.outputs[0])


def _in_order(node: gs.Node) -> bool:
    order = node.attrs.get("perm")
    return order is not None and list(order) == list(range(len(order)))


def _all(node: gs.Node, index: int, value: int) -> bool:
    values = constant_values(node.inputs[index]) if len(node.inputs) > index else None
    return values is not None and bool((values == value).all())


def _to_own_type(node: gs.Node) -> bool:
    target = node.attrs["to"]
    if isinstance(target, int):
        target = onnx.helper.tensor_dtype_to_np_dtype(target)
    return node.inputs[0].dtype is not None and np.dtype(target) == np.dtype(node.inputs[0].dtype)


def _of_everything(node: gs.Node) -> bool:
    shape = extents(node.inputs[0])
    starts, ends, axes, steps = (
        constant_values(node.inputs[i]) if len(node.inputs) > i else None for i in range(1, 5)
    )
    if shape is None or starts is None or ends is None:
        return False
    for index, given in ((3, axes), (4, steps)):
        if given is None and len(node.inputs) > index and not node.inputs[index].is_empty():
            return False
    places = range(len(starts)) if axes is None else axes.tolist()
    if starts.any() or (steps is not None and (steps != 1).any()):
        return False
    reached = zip(places, ends.tolist(), strict=True)
    return all(end >= TO_THE_END or _reaches(end, shape[axis]) for axis, end in reached)


def _reaches(end: int, extent: int | str) -> bool:
    return isinstance(extent, int) and end >= extent


def _one_pixel(node: gs.Node) -> bool:
    if node.op == "AveragePool" and (extents(node.inputs[0]) or [])[2:] == [1, 1]:
        return False  # the mean of a map of one pixel: a head, at the smallest input size
    ones = (*node.attrs.get("kernel_shape", [0]), *node.attrs.get("strides", [1]))
    return set(ones) == {1} and not any(node.attrs.get("pads", [0]))


def _neutral(node: gs.Node) -> bool:
    value = 1 if node.op in ("Mul", "Div") else 0
    data = _passing(node)
    return _all(node, 1 - data, value) and same_shape(node.inputs[data], node.outputs[0])


def _passing(node: gs.Node) -> int:
    """Which input the output equals; the second one of 1 · x and 0 + x."""
    turned = node.op in ("Mul", "Add") and constant_values(node.inputs[0]) is not None
    return int(turned)


_KINDS: Mapping[str, Callable[[gs.Node], bool]] = {
    "Identity": _always,
    "Dropout": _in_inference,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _same_elements),
    "Expand": _same_shape,
    "Tile": lambda node: _all(node, 1, 1),
    "Transpose": _in_order,
    "Pad": lambda node: _all(node, 1, 0),
    "Cast": _to_own_type,
    "Slice": _of_everything,
    "Split": lambda node: len(node.outputs) == 1,
    **dict.fromkeys(("Concat", "Sum", "Max", "Min", "Mean"), _alone),
    **dict.fromkeys(("AveragePool", "MaxPool"), _one_pixel),
    **dict.fromkeys(("Mul", "Div", "Add", "Sub"), _neutral),
}

_INTS: Weights = {
    "zeros": np.zeros(8, np.int64),
    "starts": np.zeros(2, np.int64),
    "ends": np.array([4, 2**63 - 1], np.int64),
    "fewer": np.array([4, 5], np.int64),
    "axes": np.array([1, 3], np.int64),
    "once": np.ones(4, np.int64),
    "backwards": np.array([-1, -1], np.int64),
    "last": np.array([-1, -1], np.int64),
    "before": np.array([-(2**62), -(2**62)], np.int64),
    "shape": np.array([0, 4, -1, 6], np.int64),
    "other": np.array([0, 6, 4, 6], np.int64),
    "same": np.array([1, 4, 1, 1], np.int64),
    "half": np.array(0.5, np.float32),
    "on": np.array(True),
    "off": np.array(False),
}
_FLOATS: Weights = {
    "one": np.ones((1, 4, 1, 1), np.float32),
    "nothing": np.zeros((), np.float32),
    "wide": np.ones((1, 1, 4, 1, 1), np.float32),
    "two": np.full((), 2, np.float32),
}


def _between(node: str) -> Callable[[], onnx.ModelProto]:
    """`node`, written with x and y, between two activations."""
    body = f"x = Relu(input)\n {node}\n output = Softplus(y)"
    return graph(body, {**_INTS, **_FLOATS})


_LEFT_OUT = {
    "identity": "y = Identity(x)",
    "dropout": "y = Dropout(x)",
    "dropout with an idle mask": "y, mask = Dropout(x, half, off)",
    "reshape to the shape it has": "y = Reshape(x, shape)",
    "transpose by the identity": "y = Transpose<perm: ints = [0, 1, 2, 3]>(x)",
    "expand to the shape it has": "y = Expand(x, same)",
    "tile once": "y = Tile(x, once)",
    "pad by nothing": "y = Pad(x, zeros)",
    "cast to its own type": "y = Cast<to: int = 1>(x)",
    "slice of everything": "y = Slice(x, starts, ends, axes)",
    "concat of one": "y = Concat<axis: int = 1>(x)",
    "sum of one": "y = Sum(x)",
    "split into one": "y = Split<axis: int = 1, num_outputs: int = 1>(x)",
    "pool over one pixel": "y = MaxPool<kernel_shape: ints = [1, 1]>(x)",
    "times one": "y = Mul(x, one)",
    "one times": "y = Mul(one, x)",
    "divided by one": "y = Div(x, one)",
    "plus nothing": "y = Add(nothing, x)",
    "minus nothing": "y = Sub(x, nothing)",
}
_KEPT = {
    "reshape to another shape": "y = Reshape(x, other)",
    "transpose": "y = Transpose<perm: ints = [0, 1, 3, 2]>(x)",
    "slice of less": "y = Slice(x, starts, fewer, axes)",
    "slice backwards": "y = Slice(x, last, before, axes, backwards)",
    "cast to another type": "z = Cast<to: int = 11>(x)\n y = Cast<to: int = 1>(z)",
    "dropout in training": "z = Dropout(x, nothing, on)\n y = Mul(z, two)",
    "the mean of one pixel": """z = GlobalMaxPool(x)
        m = AveragePool<kernel_shape: ints = [1, 1]>(z)
        y = Add(x, m)""",
    "pool with stride": "y = MaxPool<kernel_shape: ints = [1, 1], strides: ints = [2, 2]>(x)",
    "times two": "y = Mul(x, two)",
    "times ones that add an axis": "y = Mul(x, wide)",
    "one divided by": "y = Div(one, x)",
    "nothing minus": "y = Sub(nothing, x)",
}

_EXAMPLES = (
    *(Example(name, _between(node), applied=1) for name, node in _LEFT_OUT.items()),
    *(Example(name, _between(node), applied=0) for name, node in _KEPT.items()),
    Example(
        "three in a row, the last an output",
        graph(
            """x = Relu(input)
               a = Identity(x)
               b = Dropout(a)
               output = Identity(b)""",
            {},
        ),
        applied=3,
    ),
    Example(
        "an output whose source others use too",
        graph(
            """x = Relu(input)
               output = Identity(x)
               other = Sigmoid(x)""",
            {},
            outputs=("output", "other"),
        ),
        applied=1,
    ),
    Example(
        "a mask that is used",
        graph(
            """y, mask = Dropout(input, half, off)
               kept = Cast<to: int = 1>(mask)
               output = Add(y, kept)""",
            _INTS,
        ),
        applied=0,
    ),
    Example(
        "the graph's input is its output",
        graph("output = Identity(input)", {}),
        applied=0,
        refused="'input' is an input of the graph or a constant, and its result an output",
    ),
    Example(
        "two outputs with one value",
        graph(
            "first = Relu(input)\n output = Identity(first)",
            {},
            outputs=("output", "first"),
        ),
        applied=0,
        refused="'first' is an output of the graph or of a block, as is its result",
    ),
)

FUSIONS = (NoOp(),)
