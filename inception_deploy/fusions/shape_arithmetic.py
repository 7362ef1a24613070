"""Shapes computed at run time become constants; only the batch stays free.

Exporters write `x.flatten(1)` or `x.view(n, -1)` as Shape → Gather → Unsqueeze → Concat → Reshape.
With the image size fixed, everything but the batch is known before the first run:

* An integer tensor that depends on known extents alone is a constant (`known_shape`). Integer
  arithmetic is exact; division truncates, as ONNX defines it for integers.
* A `Reshape` with one unknown extent is a `Reshape` to a constant (`constant_reshape`): 0 where the
  extent is the one the tensor has at that place, else −1, which follows from the number of
  elements, because a reshape keeps that.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from inception_deploy.fusions._examples import Weights, graph
from inception_deploy.fusions._shapes import INTEGERS, SHAPE_OPS, extents, integers
from inception_deploy.fusions.base import Example, Fusion, Phase
from inception_deploy.graphs import constant_values, fresh_name, is_op, is_output
from inception_deploy.proof import FP32_BOUND

__all__ = ["FUSIONS", "ConstantReshape", "KnownShape"]


class KnownShape(Fusion):
    """Replaces shape arithmetic whose result is known by a constant."""

    name = "known_shape"
    phase = Phase.CANONICAL
    bound = FP32_BOUND

    @property
    def examples(self) -> tuple[Example, ...]:
        return _KNOWN_EXAMPLES

    def match(self, graph: gs.Graph) -> Iterator[gs.Node]:
        for node in graph.nodes:
            if not is_op(node, *SHAPE_OPS):
                continue
            tensor = node.outputs[0]
            if tensor.dtype not in INTEGERS:
                continue
            # what only feeds further shape arithmetic goes with it
            last = is_output(graph, tensor) or any(
                not is_op(user, *SHAPE_OPS) or integers(user.outputs[0]) is None
                for user in tensor.outputs
            )
            if last and integers(tensor) is not None:
                yield node

    def check(self, graph: gs.Graph, anchor: gs.Node) -> str | None:
        tensor = anchor.outputs[0]
        if is_output(graph, tensor):
            return f"'{tensor.name}' is an output of the graph or of a block"
        return None

    def rewrite(self, graph: gs.Graph, anchor: gs.Node) -> str:
        tensor = anchor.outputs[0]
        values = integers(tensor)
        assert values is not None, "check was not asked"
        constant = gs.Constant(f"{tensor.name}:value", values.astype(tensor.dtype))
        anchor.inputs.clear()
        anchor.outputs.clear()
        for user in list(tensor.outputs):
            for index, given in enumerate(user.inputs):
                if given is tensor:
                    user.inputs[index] = constant
        return f"{values.tolist()}"


class ConstantReshape(Fusion):
    """Gives a `Reshape` a constant target with a 0 or −1 for the batch."""

    name = "constant_reshape"
    phase = Phase.CANONICAL
    bound = FP32_BOUND

    @property
    def examples(self) -> tuple[Example, ...]:
        return _RESHAPE_EXAMPLES

    def match(self, graph: gs.Graph) -> Iterator[gs.Node]:
        for node in graph.nodes:
            if is_op(node, "Reshape") and constant_values(node.inputs[1]) is None:
                yield node

    def check(self, graph: gs.Graph, anchor: gs.Node) -> str | None:
        target = _target(anchor)
        if target is None:
            return f"the rank of '{anchor.outputs[0].name}' is not known"
        if target.count(-1) > 1:
            return f"{target.count(-1)} extents of '{anchor.outputs[0].name}' are not known"
        return None

    def rewrite(self, graph: gs.Graph, anchor: gs.Node) -> str:
        target = _target(anchor)
        assert target is not None, "check was not asked"
        anchor.attrs.pop("allowzero", None)  # it would take 0 literally
        name = fresh_name(graph, f"{anchor.name}.shape")
        anchor.inputs[1] = gs.Constant(name, np.array(target, np.int64))
        return f"to {target}"


def _target(reshape: gs.Node) -> list[int] | None:
    """The constant target: known extents, 0 for one that stays in place, −1 for any other."""
    before, after = extents(reshape.inputs[0]) or [], extents(reshape.outputs[0])
    if after is None:
        return None
    return [
        extent if isinstance(extent, int) else 0 if before[index : index + 1] == [extent] else -1
        for index, extent in enumerate(after)
    ]


_CONSTANTS: Weights = {
    "at0": np.array([0], np.int64),
    "at1": np.array([1], np.int64),
    "first": np.array(0, np.int64),
    "second": np.array(1, np.int64),
    "third": np.array(2, np.int64),
    "end": np.array([2**31 - 1], np.int64),
    "two": np.array([2], np.int64),
    "rest": np.array([-1], np.int64),
    "half": np.array([0.5], np.float32),
    "eight": np.array([8], np.int64),
}
_EXAMPLES_OF_RESHAPE = {
    "flatten, written with the batch gathered": (
        """shape = Shape(input)
           n = Gather<axis: int = 0>(shape, first)
           front = Unsqueeze(n, at0)
           target = Concat<axis: int = 0>(front, rest)
           output = Reshape(input, target)""",
        1,
    ),
    "batch last": (
        """turned = Transpose<perm: ints = [1, 2, 3, 0]>(input)
           n = Shape<start: int = 0, end: int = 1>(input)
           target = Concat<axis: int = 0>(rest, n)
           flat = Reshape(turned, target)
           output = Transpose<perm: ints = [1, 0]>(flat)""",
        1,
    ),
    "view with every extent gathered": (
        """shape = Shape(input)
           n = Slice(shape, at0, at1)
           channels = Slice(shape, at1, two)
           image = Slice(shape, two, end)
           target = Concat<axis: int = 0>(n, channels, image)
           soft = Softsign(input)
           output = Reshape(soft, target)""",
        1,
    ),
    "batch times channels": (
        """shape = Shape(input)
           n = Slice(shape, at0, at1)
           channels = Slice(shape, at1, two)
           rows = Mul(n, channels)
           columns = Slice(shape, two, end)
           target = Concat<axis: int = 0>(rows, columns)
           output = Reshape(input, target)""",
        1,
    ),
    "a target that is constant already": ("output = Reshape(input, fixed)", 0),
}
_RESHAPE_EXAMPLES = (
    *(
        Example(
            name, graph(body, {**_CONSTANTS, "fixed": np.array([0, -1], np.int64)}), applied=count
        )
        for name, (body, count) in _EXAMPLES_OF_RESHAPE.items()
    ),
    Example(
        "free heights and widths that change places",
        graph(
            """shape = Shape(input)
               n = Slice(shape, at0, at1)
               height = Slice(shape, two, end)
               target = Concat<axis: int = 0>(n, height, rest)
               output = Reshape(input, target)""",
            _CONSTANTS,
            shape="batch, 4, height, width",
        ),
        applied=0,
        refused="2 extents of 'output' are not known",
    ),
)

_KNOWN_EXAMPLES = (
    Example(
        "a crop to half the height",
        graph(
            """shape = Shape(input)
               height = Gather<axis: int = 0>(shape, third)
               halved = Div(height, two)
               output = Slice(input, at0, halved, two)""",
            _CONSTANTS,
        ),
        applied=1,
    ),
    Example(
        "cast there and back, offset and doubled",
        graph(
            """shape = Shape(input)
               small = Cast<to: int = 6>(shape)
               channels = Gather<axis: int = 0>(small, at1)
               wide = Cast<to: int = 7>(channels)
               doubled = Mul(wide, two)
               less = Sub(doubled, eight)
               start = Add(less, at1)
               output = Slice(input, start, end, at1)""",
            _CONSTANTS,
        ),
        applied=1,
    ),
    Example(
        "used twice",
        graph(
            """channels = Shape<start: int = 1, end: int = 2>(input)
               stop = Sub(channels, at1)
               left = Slice(input, at0, stop, at1)
               right = Slice(input, at1, channels, at1)
               output = Add(left, right)""",
            _CONSTANTS,
        ),
        applied=2,
    ),
    Example(
        "the batch",
        graph(
            """n = Shape<start: int = 0, end: int = 1>(input)
               output = Slice(input, at0, n, at0)""",
            _CONSTANTS,
        ),
        applied=0,
    ),
    Example(
        "an extent that is taken through a float: only the extent",
        graph(
            """height = Shape<start: int = 2, end: int = 3>(input)
               real = Cast<to: int = 1>(height)
               scaled = Mul(real, half)
               halved = Cast<to: int = 7>(scaled)
               output = Slice(input, at0, halved, two)""",
            _CONSTANTS,
        ),
        applied=1,
    ),
    Example(
        "a shape that leaves the graph",
        graph(
            """size = Shape<start: int = 1>(input)
               output = Mul(size, two)""",
            _CONSTANTS,
            dtype="int64",
        ),
        applied=0,
        refused="'output' is an output of the graph or of a block",
    ),
)

FUSIONS = (KnownShape(), ConstantReshape())
