"""Concatenations of concatenations and of one tensor's own pieces become one.

Joining is associative along an axis, and taking apart what is joined again is nothing:

    Concat(a, Concat(b, c), d)           = Concat(a, b, c, d)
    Concat(a, Split(x)₀ … Split(x)ₙ, d)  = Concat(a, x, d)            all pieces, in order
    Concat(a, Split(x)ᵢ, Split(x)ᵢ₊₁, d) = Concat(a, y, d)            y is both, one piece of x

for one axis all through, where the inner results are used nowhere else. No number is computed: the
result is equal to the bit.

InceptionNeXt's token mixer, Split → [itself, three depthwise convolutions] → Concat, is no such
case: only its first piece goes through unchanged, and a Concat with that piece is the cheapest way
to say so in ONNX.

This is a matter of form, and may bring a convolution and a batch norm together; so it comes before
the folding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from inception_deploy.fusions._edit import bypass
from inception_deploy.fusions._examples import Weights, graph
from inception_deploy.fusions.base import Example, Fusion, Phase
from inception_deploy.graphs import fresh_name, is_op, is_output, producer, used_elsewhere
from inception_deploy.proof import FP32_BOUND

__all__ = ["FUSIONS", "ConcatFlat"]


class ConcatFlat(Fusion):
    """Takes inner concatenations into the outer one, and pieces of a `Split` back together."""

    name = "concat_flat"
    phase = Phase.CANONICAL
    bound = FP32_BOUND

    @property
    def examples(self) -> tuple[Example, ...]:
        return _EXAMPLES

    def match(self, graph: gs.Graph) -> Iterator[gs.Node]:
        for node in graph.nodes:
            if is_op(node, "Concat") and (_outer(node) is not None or _runs(node)):
                yield node

    def check(self, graph: gs.Graph, anchor: gs.Node) -> str | None:
        reasons = []
        if (outer := _outer(anchor)) is not None:
            reasons.append(_why_apart(graph, anchor, outer))
        reasons += [_why_in_pieces(graph, anchor, run) for run in _runs(anchor)]
        if not reasons:
            return "it holds nothing to join"
        return None if None in reasons else reasons[0]

    def rewrite(self, graph: gs.Graph, anchor: gs.Node) -> str:
        outer = _outer(anchor)
        if outer is not None and _why_apart(graph, anchor, outer) is None:
            return _take_in(anchor, outer)
        runs = _runs(anchor)
        return _join(graph, anchor, next(r for r in runs if not _why_in_pieces(graph, anchor, r)))


@dataclass(frozen=True)
class _Run:
    """Neighbouring inputs `first`, `first` + 1, … of a Concat that neighbour in a Split too."""

    split: gs.Node
    pieces: tuple[gs.Tensor, ...]
    first: int

    @property
    def everything(self) -> bool:
        return len(self.pieces) == len(self.split.outputs)


def _axis(node: gs.Node) -> int | None:
    """The axis of a Concat or Split, counted from the front; None where no rank is known."""
    axis, shape = node.attrs.get("axis", 0), node.inputs[0].shape
    if axis >= 0:
        return int(axis)
    return None if shape is None else int(axis) + len(shape)


def _outer(node: gs.Node) -> gs.Node | None:
    """The first Concat along the same axis that the output of `node` goes into."""
    axis = _axis(node)
    users: list[gs.Node] = list(node.outputs[0].outputs)
    for user in users:
        if is_op(user, "Concat") and axis is not None and _axis(user) == axis:
            return user
    return None


def _runs(node: gs.Node) -> list[_Run]:
    """All runs of two or more pieces, each as long as it can be."""
    runs, start = [], 0
    while start < len(node.inputs):
        end = start + 1
        while end < len(node.inputs) and _follows(node, node.inputs[end - 1], node.inputs[end]):
            end += 1
        if end - start > 1:
            pieces = tuple(node.inputs[start:end])
            runs.append(_Run(pieces[0].inputs[0], pieces, start))
        start = end
    return runs


def _follows(node: gs.Node, one: gs.Tensor, other: gs.Tensor) -> bool:
    split, axis = producer(one), _axis(node)
    if split is None or not is_op(split, "Split") or axis is None or _axis(split) != axis:
        return False
    places = {id(piece): place for place, piece in enumerate(split.outputs)}
    return places.get(id(other)) == places[id(one)] + 1


def _why_apart(graph: gs.Graph, inner: gs.Node, outer: gs.Node) -> str | None:
    reason = used_elsewhere(graph, inner.outputs[0], outer)
    return f"its output {reason}" if reason else None


def _why_in_pieces(graph: gs.Graph, concat: gs.Node, run: _Run) -> str | None:
    for piece in run.pieces:
        if reason := used_elsewhere(graph, piece, concat):
            return f"'{piece.name}' of '{run.split.name}' {reason}"
    source, result = run.split.inputs[0], concat.outputs[0]
    if run.everything:
        fixed = producer(source) is None or is_output(graph, source)
        if len(run.pieces) == len(concat.inputs) and is_output(graph, result) and fixed:
            return f"it gives '{source.name}' again, and both keep their names"
        return None
    if graph.opset < 13:
        return f"opset {graph.opset} has the sizes of '{run.split.name}' as an attribute"
    if not all(isinstance(extent, int) for extent in _sizes(run.split)):
        return f"the sizes of the pieces of '{run.split.name}' are only known at run time"
    return None


def _sizes(split: gs.Node) -> list[int | str | None]:
    axis = split.attrs.get("axis", 0)
    return [None if piece.shape is None else piece.shape[axis] for piece in split.outputs]


def _take_in(inner: gs.Node, outer: gs.Node) -> str:
    inputs = list(outer.inputs)
    place = next(i for i, tensor in enumerate(inputs) if tensor is inner.outputs[0])
    inputs[place : place + 1] = list(inner.inputs)
    inner.inputs.clear()
    inner.outputs.clear()
    outer.inputs = inputs
    return f"into '{outer.name}'"


def _join(graph: gs.Graph, concat: gs.Node, run: _Run) -> str:
    split, count = run.split, len(run.pieces)
    inputs = list(concat.inputs)
    if not run.everything:
        inputs[run.first : run.first + count] = [piece := _joined(graph, run)]
        concat.inputs = inputs
        if len(inputs) == 1:  # the concatenation's name is the one to keep
            split.outputs[list(split.outputs).index(piece)] = concat.outputs[0]
            concat.inputs.clear()
            concat.outputs = []
        return f"{count} of the pieces of '{split.name}' stay one"
    inputs[run.first : run.first + count] = [split.inputs[0]]
    split.inputs.clear()
    split.outputs.clear()
    concat.inputs = inputs
    if len(inputs) == 1:
        bypass(graph, concat)
    return f"'{split.name}' left out"


def _joined(graph: gs.Graph, run: _Run) -> gs.Variable:
    """A new piece of the split in place of those of `run`."""
    split, first = run.split, run.pieces[0]
    axis, sizes = split.attrs.get("axis", 0), _sizes(split)
    start = next(i for i, tensor in enumerate(split.outputs) if tensor is first)
    end = start + len(run.pieces)
    sizes[start:end] = [sum(size for size in sizes[start:end] if isinstance(size, int))]
    shape = list(first.shape)
    shape[axis] = sizes[start]
    piece = gs.Variable(fresh_name(graph, f"{first.name}.joined"), first.dtype, shape)
    outputs = list(split.outputs)
    outputs[start:end] = [piece]
    split.outputs = outputs
    split.attrs.pop("num_outputs", None)
    name = fresh_name(graph, f"{split.name}.sizes")
    split.inputs = [split.inputs[0], gs.Constant(name, np.array(sizes, np.int64))]
    return piece


_SIZES: Weights = {"three": np.array([1, 2, 1]), "W": (4, 4, 1, 1), "V": (2, 2, 1, 1)}
_PIECES = "a, b, c = Split<axis: int = 1>(input, three)"
_CONCAT = "Concat<axis: int = 1>"

_EXAMPLES = (
    Example(
        "nested twice",
        graph(
            f"""relu = Relu(input)
                inmost = {_CONCAT}(relu, input)
                middle = Concat<axis: int = -3>(input, inmost)
                output = {_CONCAT}(middle, relu)""",
            {},
        ),
        applied=2,
    ),
    Example(
        "two inner ones",
        graph(
            f"""relu = Relu(input)
                left = {_CONCAT}(relu, input)
                right = {_CONCAT}(input, relu)
                output = {_CONCAT}(left, right)""",
            {},
        ),
        applied=2,
    ),
    Example(
        "a round trip in front of a convolution",
        graph(f"{_PIECES}\n again = {_CONCAT}(a, b, c)\n output = Conv(again, W)", _SIZES),
        applied=1,
    ),
    Example(
        "a round trip that gives an output",
        graph(
            f"""relu = Relu(input)
                a, b, c = Split<axis: int = 1>(relu, three)
                output = {_CONCAT}(a, b, c)""",
            _SIZES,
        ),
        applied=1,
    ),
    Example(
        "a round trip within a larger one",
        graph(f"{_PIECES}\n output = {_CONCAT}(input, a, b, c, input)", _SIZES),
        applied=1,
    ),
    Example(
        "neighbours stay one piece",
        graph(
            f"""{_PIECES}
                relu = Relu(a)
                output = {_CONCAT}(relu, b, c)""",
            _SIZES,
        ),
        applied=1,
    ),
    Example(
        "neighbours and nothing else",
        graph(
            f"""{_PIECES}
                both = {_CONCAT}(b, c)
                left = Relu(a)
                output = {_CONCAT}(both, left)""",
            _SIZES,
            outputs=("output", "both"),
        ),
        applied=1,
    ),
    Example(
        "two of four equal pieces",
        graph(
            f"""a, b, c, d = Split<axis: int = 1, num_outputs: int = 4>(input)
                left = Relu(a)
                right = Relu(d)
                output = {_CONCAT}(left, b, c, right)""",
            {},
        ),
        applied=1,
    ),
    Example(
        "a nested round trip",
        graph(f"{_PIECES}\n inner = {_CONCAT}(a, b)\n output = {_CONCAT}(inner, c, input)", _SIZES),
        applied=2,
    ),
    Example(
        "InceptionNeXt's token mixer",
        graph(
            f"""{_PIECES}
                band = Conv<group: int = 2>(b, D)
                square = Relu(c)
                output = {_CONCAT}(a, band, square)""",
            {**_SIZES, "D": (2, 1, 1, 1)},
        ),
        applied=0,
    ),
    Example(
        "another order",
        graph(f"{_PIECES}\n output = {_CONCAT}(c, b, a)", _SIZES),
        applied=0,
    ),
    Example(
        "another axis",
        graph(
            f"""inner = Concat<axis: int = 2>(input, input)
                left, right = Split<axis: int = 2, num_outputs: int = 2>(inner)
                output = {_CONCAT}(left, right)""",
            {},
        ),
        applied=0,
    ),
    Example(
        "the inner one is used elsewhere",
        graph(
            f"""inner = {_CONCAT}(input, input)
                relu = Relu(inner)
                output = {_CONCAT}(inner, relu)""",
            {},
        ),
        applied=0,
        refused="its output is used by 'relu' too",
    ),
    Example(
        "the inner one goes in twice",
        graph(
            f"inner = {_CONCAT}(input, input)\n output = {_CONCAT}(inner, inner)",
            {},
        ),
        applied=0,
        refused="its output is used twice by 'output'",
    ),
    Example(
        "the inner one leaves the graph",
        graph(
            f"inner = {_CONCAT}(input, input)\n output = {_CONCAT}(inner, input)",
            {},
            outputs=("output", "inner"),
        ),
        applied=0,
        refused="its output is an output of the graph or of a block",
    ),
    Example(
        "a piece is used elsewhere",
        graph(f"{_PIECES}\n again = {_CONCAT}(a, b, c)\n output = Mul(again, a)", _SIZES),
        applied=0,
        refused="'a' of 'a' is used by 'output' too",
    ),
    Example(
        "a piece leaves the graph",
        graph(f"{_PIECES}\n output = {_CONCAT}(a, b, c)", _SIZES, outputs=("output", "b")),
        applied=0,
        refused="'b' of 'a' is an output of the graph or of a block",
    ),
    Example(
        "from the graph's input to its output",
        graph(f"{_PIECES}\n output = {_CONCAT}(a, b, c)", _SIZES),
        applied=0,
        refused="it gives 'input' again, and both keep their names",
    ),
    Example(
        "pieces of the batch",
        graph(
            """a, b, c = Split<axis: int = 0, num_outputs: int = 3>(input)
               relu = Relu(c)
               output = Concat<axis: int = 0>(a, b, relu)""",
            {},
        ),
        applied=0,
        refused="only known at run time",
    ),
)

FUSIONS = (ConcatFlat(),)
