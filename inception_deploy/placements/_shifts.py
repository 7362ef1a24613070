"""Zero points carried in biases: which tensors may be stored moved, and whose biases then say so.

A target that demands the zero point 0 spends half of an int8 grid on what a ReLU never gives. But
x = ReLU(conv(…) + b) in [0, R] can be stored as x − c with c = 128·Δ and Δ = R / 255:

    writer       b − c; the quantiser cuts at −128·Δ = −c, which is the ReLU
    max pools    pass the shift on, as they pad with nothing; concatenations and identities, too,
                 and average pools that count no padding
    readers      W·x + b = W·(x − c) + (b + c·ΣW): convolutions that pad nothing, linear layers
    sums         x + conv(…): the bias of the convolution takes what the other operand lacks

Where a convolution pads with zeros they would stand for c, so what it reads is not moved. And what
is passed on has one c, so tensors that had grids of their own share one then: both sides of an
average pool, and a block with the one before it whose pool it takes in.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

import onnx

__all__ = ["Carried", "Shifts", "find_shifts"]

MOVERS = frozenset({"Concat", "Flatten", "Identity", "MaxPool"})
"""Operators whose outputs are values of their inputs, whatever is taken off all of them."""


@dataclass(frozen=True)
class Carried:
    """What one bias carries, each time as the quantised tensor whose shift c is meant; "" is none.

    Args:
        reads: what the node reads is moved: + c·ΣW.
        writes: what it writes is moved: − c.
        beside: the other operand of the sum that it ends in is moved: + c.
    """

    reads: str = ""
    writes: str = ""
    beside: str = ""


@dataclass(frozen=True)
class Shifts:
    """What of a graph is stored moved.

    Args:
        tensors: moved tensor → the quantised tensor whose grid and shift it has, maybe itself.
        activations: names of ReLUs that their quantisers take in.
        biases: name of a convolution or linear layer → what its bias carries.
    """

    tensors: Mapping[str, str] = field(default_factory=dict)
    activations: frozenset[str] = frozenset()
    biases: Mapping[str, Carried] = field(default_factory=dict)


def find_shifts(
    graph: onnx.GraphProto, placed: Collection[str], groups: Mapping[str, int]
) -> Shifts:
    """The shifts that the plan of an FP32 graph allows; tensors of one group move together, and
    what moves with a tensor of another group is to have that one's grid.

    Args:
        placed: names of the nodes that run in integers.
        groups: quantised tensor → its group.
    """
    members: dict[int, list[str]] = {}
    for tensor, group in groups.items():
        members.setdefault(group, []).append(tensor)
    view = _View(graph, frozenset(placed), groups)
    found = [move for tensors in members.values() if (move := _Move(view, tensors)).possible()]
    biases: dict[str, Carried] = {}
    for move in found:
        for node, place in move.biases:
            biases[node] = replace(biases.get(node, Carried()), **{place: move.grid})
    return Shifts(
        {tensor: move.grid for move in found for tensor in move.tensors},
        frozenset(name for move in found for name in move.activations),
        biases,
    )


class _View:
    """A graph with what the conditions ask for at hand."""

    def __init__(
        self, graph: onnx.GraphProto, placed: frozenset[str], groups: Mapping[str, int]
    ) -> None:
        self.placed, self.groups = placed, groups
        self.constants = {tensor.name for tensor in graph.initializer}
        self.outputs = {value.name for value in graph.output}
        self.writers = {name: node for node in graph.node for name in node.output if name}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def bias_before(self, tensor: str) -> str | None:
        """The convolution whose bias decides where `tensor` lies, and nothing but its one reader
        sees it; through a sum, too. None where there is none."""
        if not self._seen_once(tensor):
            return None
        writer = self.writers.get(tensor)
        if writer is not None and writer.op_type == "Add":
            return self.summand(writer)
        return self._convolution(tensor)

    def summand(self, add: onnx.NodeProto) -> str | None:
        """An operand that is a convolution which only this sum reads; the first of two."""
        found = (self._convolution(name) for name in add.input if self._seen_once(name))
        return next((name for name in found if name is not None), None)

    def sums_all(self, node: onnx.NodeProto) -> bool:
        """Whether each output of the node sums over all weights of its channel, which are known: a
        convolution that pads nothing, in integers or not, or a linear layer in integers."""
        if node.op_type != "Conv":
            return node.op_type == "Gemm" and node.name in self.placed
        given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        padded = any(given.get("pads", ()))
        padded |= given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
        return not padded and self._constant(node)

    def _constant(self, node: onnx.NodeProto) -> bool:
        return all(name in self.constants for name in node.input[1:] if name)

    def _seen_once(self, tensor: str) -> bool:
        seen = len(self.readers.get(tensor, ())) == 1
        return seen and tensor not in self.outputs and tensor not in self.groups

    def _convolution(self, tensor: str) -> str | None:
        writer = self.writers.get(tensor)
        if writer is None or writer.op_type != "Conv":
            return None
        return str(writer.name) if self._constant(writer) else None


class _Move:
    """One try to move the tensors of a group, with all that is copied to or from them."""

    def __init__(self, view: _View, tensors: Iterable[str]) -> None:
        self.view = view
        self.quantised = list(tensors)
        self.grid = self.quantised[0]
        self.ahead: list[str] = []  # float tensors that the quantisers will read
        self.behind: list[str] = []  # copies of quantised ones
        self.activations: list[str] = []
        self.biases: list[tuple[str, str]] = []

    @property
    def tensors(self) -> list[str]:
        """All that would be moved."""
        return [*self.quantised, *self.ahead, *self.behind]

    def possible(self) -> bool:
        """Whether every condition holds; the fields then say what changes."""
        return self._backward() and self._forward() and self._sealed()

    def _backward(self) -> bool:
        """From the quantisers to ReLUs behind biases, and to nothing else."""
        waiting, seen = list(self.quantised), set(self.quantised)
        while waiting:
            tensor = waiting.pop(0)
            writer = self.view.writers.get(tensor)
            if writer is None:
                return False  # the graph's input
            if writer.op_type == "Relu":
                bias = self.view.bias_before(writer.input[0])
                if bias is None:
                    return False
                self.activations.append(str(writer.name))
                self.biases.append((bias, "writes"))
            elif writer.op_type in MOVERS:
                new = [name for name in dict.fromkeys(writer.input) if name not in seen]
                seen.update(new)
                waiting += new
                for name in new:
                    if name in self.view.constants:
                        return False
                    if name not in self.view.groups:
                        self.ahead.append(name)
                    elif not self._joins(name):
                        return False
            else:
                return False
        return True

    def _forward(self) -> bool:
        """From the quantised tensors to biases behind them, through what copies bytes."""
        waiting = list(self.quantised)
        while waiting:
            tensor = waiting.pop(0)
            for node in self.view.readers.get(tensor, ()):
                if node.op_type == "Add":
                    bias = self.view.summand(node)
                    if bias is None:
                        return False
                    self.biases.append((bias, "beside"))
                elif self.view.sums_all(node):
                    self.biases.append((str(node.name), "reads"))
                elif node.op_type == "MaxPool" and node.name in self.view.placed:
                    new = [name for name in node.output if name and name not in self.tensors]
                    self.behind += new
                    waiting += new
                elif _averages_values_alone(node) and node.name in self.view.placed:
                    if not self._joins(node.output[0]):
                        return False
                    waiting.append(node.output[0])
                elif not (node.op_type in MOVERS and set(node.output).issubset(self.tensors)):
                    return False
        return True

    def _joins(self, tensor: str) -> bool:
        """Take in a tensor of another group, which it must have for itself."""
        group = self.view.groups.get(tensor)
        alone = list(self.view.groups.values()).count(group) == 1 if group is not None else False
        if alone:
            self.quantised.append(tensor)
        return alone

    def _sealed(self) -> bool:
        """Nothing else sees a moved tensor: no output of the graph, no other node ahead."""
        moved = set(self.tensors)
        if not moved.isdisjoint(self.view.outputs):
            return False
        ahead = (node for name in self.ahead for node in self.view.readers.get(name, ()))
        return all(node.op_type in MOVERS and moved.issuperset(node.output) for node in ahead)


def _averages_values_alone(node: onnx.NodeProto) -> bool:
    """Whether the node is an average pool whose windows hold nothing but values, or count only
    those."""
    if node.op_type != "AveragePool":
        return False
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    padded = any(given.get("pads", ())) or given.get("auto_pad", b"NOTSET") != b"NOTSET"
    return not given.get("ceil_mode", 0) and not (padded and given.get("count_include_pad", 0))
