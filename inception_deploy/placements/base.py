"""The shape of a placement: rules as data, and the plan they make of a graph.

A placement says per operator whether a target runs it in integers, and what it asks for then:
quantised inputs, a quantised output, one grid on both sides. The plan names the nodes that will run
in integers, the tensors that get a quantiser, and the groups of tensors that must share one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import networkx as nx
import onnx
from onnx import numpy_helper

from inception_deploy.artifact import Refused
from inception_deploy.placements._shifts import Shifts, find_shifts
from inception_deploy.quantisation import IntegerType, exact_grid

__all__ = [
    "ACTIVATIONS",
    "FACTORS",
    "WEIGHTED",
    "BiasForm",
    "HighPrecision",
    "LinearForm",
    "Placement",
    "Plan",
    "Rule",
]

BiasForm: TypeAlias = Literal["int32", "float"]
LinearForm: TypeAlias = Literal["Gemm", "MatMul"]
HighPrecision: TypeAlias = Literal["fp32", "fp16"]

WEIGHTED = frozenset({"Conv", "Gemm"})
"""Operators with a constant second input that is quantised per output channel."""

_LINEAR = {"transA": 0, "transB": 1, "alpha": 1.0, "beta": 1.0}
_LINEAR_DEFAULTS = {"transA": 0, "transB": 0, "alpha": 1.0, "beta": 1.0}

_FLOAT = onnx.TensorProto.FLOAT

FACTORS = frozenset({"Mul"})
"""Operators whose constant input, a factor per place, must lie on an eight-bit grid exactly."""

ROOTS = frozenset({"Sqrt", "Pow", "Log", "Reciprocal"})
"""Operators to which small values matter as large ones do, and one grid does not hold both: what
they alone read, the sum of squares of a norm, stays float."""

ACTIVATIONS = frozenset({"Relu"})
"""What a quantiser behind it takes in: it cuts at zero by itself."""


@dataclass(frozen=True)
class Rule:
    """What a target does with one operator.

    Args:
        op: the ONNX operator.
        why: the reason, one line.
        output: whether the output must be quantised for the node to run in integers.
        shares: inputs and output have one grid, so that values are moved and not computed. Without
            `output` there is no quantiser behind it: what reads it finds it on the inputs' grid.
        source: whether it may stand where its inputs come from float nodes; they are quantised for
            it. Operators that only move or add do not pay for that.
    """

    op: str
    why: str
    output: bool = True
    shares: bool = False
    source: bool = False


@dataclass(frozen=True)
class Plan:
    """What becomes of one graph.

    Args:
        nodes: names of the nodes that are to run in integers, in order.
        groups: quantised activation → the group whose grid it has.
        refused: nodes of the rules' operators that stay float, and why.
        products: those of `nodes` that are written as products of integers with a float result.
        shifts: zero points that biases carry.
    """

    nodes: tuple[str, ...]
    groups: Mapping[str, int]
    refused: tuple[Refused, ...] = ()
    products: tuple[str, ...] = ()
    shifts: Shifts = field(default_factory=Shifts)

    def members(self) -> dict[int, list[str]]:
        """Group → its tensors, in graph order."""
        found: dict[int, list[str]] = {}
        for tensor, group in self.groups.items():
            found.setdefault(group, []).append(tensor)
        return found


@dataclass(frozen=True)
class Placement:
    """Where quantisers go for one target.

    Args:
        name: of the target.
        activations: integer type of activations.
        symmetric: zero point 0 for every activation.
        bias: int32 on the accumulator's grid, or left in float.
        linear: how a linear layer is written.
        rules: one per operator that may run in integers; operators without one stay float.
        epilogues: operators that are computed behind an integer one before it rounds, so that the
            quantiser belongs behind them.
        saturates: on x86 without VNNI, kernels add pairs of u8 · s8 products in 16 bits, which
            eight-bit weights can overflow.
        high: what the nodes that stay float run in; what float16 would harm stays in float32.
        least_channels: weighted nodes with fewer input or output channels stay float, but for the
            first one of the graph.
        unruled: operators without a rule → why they have none.
        float_readers: operators that are computed in float; a 1×1 convolution that they alone read
            is a product of matrices of integers, whose sums become float without being rounded.
        shifts: where an int8 grid with zero point 0 would idle by half, behind ReLUs, biases carry
            another zero point (`placements/_shifts.py`).
    """

    name: str
    activations: IntegerType
    symmetric: bool
    bias: BiasForm
    linear: LinearForm
    rules: tuple[Rule, ...]
    epilogues: frozenset[str] = ACTIVATIONS
    saturates: bool = False
    high: HighPrecision = "fp32"
    least_channels: int = 1
    unruled: Mapping[str, str] = field(default_factory=dict)
    float_readers: frozenset[str] = frozenset()
    shifts: bool = False

    def plan(self, model: onnx.ModelProto, *, exclude: Collection[str] = ()) -> Plan:
        """The plan for an FP32 graph with named nodes and constants as initialisers.

        Args:
            exclude: names of nodes that are to stay float, whatever the rules say.
        """
        plan = _Planner(self, model, frozenset(exclude)).plan()
        if not self.shifts:
            return plan
        shifts = find_shifts(model.graph, plan.nodes, plan.groups)
        groups = {t: plan.groups[shifts.tensors.get(t, t)] for t in plan.groups}
        return replace(plan, groups=groups, shifts=shifts)

    def adds_in_integers(self, op: str) -> bool:
        """Whether the bias of a weighted operator is int32."""
        return self.bias == "int32" and not (op == "Gemm" and self.linear == "MatMul")


class _Planner:
    """One run of `Placement.plan`."""

    def __init__(
        self, placement: Placement, model: onnx.ModelProto, exclude: Collection[str]
    ) -> None:
        self.placement = placement
        self.rules = {rule.op: rule for rule in placement.rules}
        self.graph = model.graph
        self.exclude = exclude
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.floats = {name for name, t in self.constants.items() if t.data_type == _FLOAT}
        self.outputs = {value.name for value in self.graph.output}
        self.moved: dict[str, str] = {}  # output of a moving node → a tensor whose grid it is on
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        self.writers = {name: node for node in self.graph.node for name in node.output}
        for node in self.graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        self.wanted = self._read_in_integers()

    def plan(self) -> Plan:
        integral = {value.name for value in self.graph.input}
        placed: list[str] = []
        refused: list[Refused] = []
        products: list[str] = []
        grids: nx.Graph[str] = nx.Graph()
        for node in self.graph.node:
            rule = self.rules.get(node.op_type)
            if rule is None or node.output[0] in integral:
                continue  # an activation that the quantiser of the node before it takes in
            reason = self._objection(node, rule, integral)
            if reason is not None:
                refused.append(Refused("int8", node.name, reason))
                continue
            placed.append(node.name)
            tensors = list(self._data(node))
            grids.add_nodes_from(tensors)
            if self._multiplies(node):
                products.append(node.name)
            elif rule.output:
                for output in self._results(node, rule):
                    grids.add_node(output)
                    integral.add(output)
                    tensors.append(output)
            elif rule.shares:
                self.moved |= dict.fromkeys(node.output, tensors[0])
                integral.update(node.output)
            if rule.shares:
                nx.add_path(grids, tensors)
        order = [value.name for value in self.graph.input]
        order += [name for node in self.graph.node for name in node.output]
        group = {t: i for i, part in enumerate(nx.connected_components(grids)) for t in part}
        groups = {tensor: group[tensor] for tensor in order if tensor in group}
        return Plan(tuple(placed), groups, tuple(refused), tuple(products))

    def _data(self, node: onnx.NodeProto) -> Iterator[str]:
        """The activations a node reads, or those on whose grids they are."""
        inputs = node.input[:1] if node.op_type in WEIGHTED else node.input
        found = (name for name in inputs if name and name not in self.constants)
        yield from (self.moved.get(name, name) for name in found)

    def _results(self, node: onnx.NodeProto, rule: Rule) -> list[str]:
        """Where the outputs of a node are quantised. One that shares a grid has them at once: bytes
        are moved, and an activation behind it is a node of its own."""
        return list(node.output) if rule.shares else [self._settled(o) for o in node.output]

    def _multiplies(self, node: onnx.NodeProto) -> bool:
        """Whether a node is a product of matrices, pixels by channels, that is read in float."""
        readers = {user.op_type for user in self.consumers.get(node.output[0], [])}
        if node.op_type != "Conv" or not readers or not readers <= self.placement.float_readers:
            return False
        given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        numbers = (*given.get("strides", ()), given.get("group", 1))
        padded = any(given.get("pads", ())) or given.get("auto_pad", b"NOTSET") != b"NOTSET"
        weights = self.constants[node.input[1]].dims
        return (
            tuple(weights[2:]) == (1, 1)
            and set(numbers) == {1}
            and not padded
            and node.output[0] not in self.outputs
        )

    def _read_in_integers(self) -> set[str]:
        """Tensors that an operator with an integer kernel reads, at once or moved and added up."""
        read: set[str] = set()
        for node in reversed(self.graph.node):
            rule = self.rules.get(node.op_type)
            if rule is None or node.name in self.exclude:
                ends, passes = False, node.op_type in self.placement.epilogues
            else:
                computes = not rule.shares
                ends, passes = computes and (rule.source or not rule.output), True
            if ends or (passes and not read.isdisjoint(node.output)):
                read.update(node.input)
        return read

    def _bias_per_channel(self, node: onnx.NodeProto) -> bool:
        if len(node.input) < 3 or not node.input[2]:
            return True
        channels = self.constants[node.input[1]].dims[0]
        return bool(math.prod(self.constants[node.input[2]].dims) == channels)

    def _settled(self, output: str) -> str:
        """Where an output is quantised: behind the activation that follows it alone."""
        users = self.consumers.get(output, [])
        if (
            len(users) == 1
            and users[0].op_type in self.placement.epilogues
            and output not in self.outputs
        ):
            return str(users[0].output[0])
        return output

    def _weighs(self, tensor: str) -> bool:
        """Whether a tensor comes from a weighted node, maybe through an activation."""
        writer = self.writers.get(tensor)
        if writer is not None and writer.op_type in ACTIVATIONS:
            writer = self.writers.get(writer.input[0])
        return writer is not None and writer.op_type in WEIGHTED

    def _objection(self, node: onnx.NodeProto, rule: Rule, integral: Collection[str]) -> str | None:
        """Why a node stays float; None where it runs in integers."""
        if node.name in self.exclude:
            return "kept in float on request"
        if rule.output and not self.outputs.isdisjoint(self._results(node, rule)):
            return "its output leaves the graph, which stays float"
        if node.op_type in WEIGHTED:
            if any(name and name not in self.constants for name in node.input[1:]):
                return "its weights are not constant"
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Gemm" and _LINEAR_DEFAULTS | attributes != _LINEAR:
                return "it is no plain linear layer: transB 1, alpha and beta 1, transA 0"
            if not self._bias_per_channel(node):
                return "its bias is not one number per channel"
            readers = {user.op_type for user in self.consumers.get(node.output[0], [])}
            if readers and readers <= ROOTS:
                return f"a {min(readers)} reads it, to which small values matter as large ones do"
            return self._too_narrow(node)
        fixed = [name for name in node.input if name in self.floats]
        if fixed and node.op_type not in FACTORS:
            return f"its input '{fixed[0]}' is constant, which stays float"
        if not fixed and node.op_type in FACTORS:
            return "neither of its factors is constant"
        if fixed and exact_grid(numpy_helper.to_array(self.constants[fixed[0]])) is None:
            return f"its factors '{fixed[0]}' lie on no eight-bit grid"
        asks = rule.source if rule.shares else rule.output
        if asks and self.wanted.isdisjoint(node.output):
            return "what reads it is computed in float"
        if not rule.source:
            floats = [name for name in self._data(node) if name not in integral]
            # a float branch among others in integers is quantised where they meet: else a single
            # pool would keep all that follows in float. Not one that ends in a convolution kept in
            # float: between quantisers, an engine may quantise its weights by itself
            joins = rule.shares and len(floats) < sum(1 for _ in self._data(node))
            if floats and not (joins and not any(map(self._weighs, floats))):
                return f"its input '{floats[0]}' is computed in float"
        return None

    def _too_narrow(self, node: onnx.NodeProto) -> str | None:
        """Why a weighted node has too few channels for the target; None where it has enough."""
        if self.graph.input[0].name in self._ancestors(node):
            return None  # the stem: images have few channels, and many pixels
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        out, per_group = self.constants[node.input[1]].dims[:2]
        fewest = min(out, per_group * groups)
        if fewest < self.placement.least_channels:
            return (
                f"it has {fewest} channels; below {self.placement.least_channels} integers are "
                "padded, and gain nothing"
            )
        return None

    def _ancestors(self, node: onnx.NodeProto) -> set[str]:
        """The tensors a node's input comes from without a weighted node between."""
        found, open_ = set(), [str(node.input[0])]
        while open_:
            name = open_.pop()
            writer = self.writers.get(name)
            if name not in found and (writer is None or writer.op_type not in WEIGHTED):
                open_ += [] if writer is None else map(str, writer.input)
            found.add(name)
        return found
