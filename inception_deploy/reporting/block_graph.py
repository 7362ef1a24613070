"""What a drawing shows of a graph: its nodes, and in which precision each reads what.

Quantisers and casts are no steps of the network: they fold into the edges, which then say what
precision the tensor is read in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inception_deploy.reporting.skeleton import read_skeleton

if TYPE_CHECKING:
    import onnx

__all__ = ["PRECISION_NAMES", "BlockGraph", "Blocks", "Edge", "GraphNode", "GraphOutline"]

PRECISION_NAMES: Mapping[str, str] = {
    "float32": "FP32",
    "float16": "FP16",
    "bfloat16": "BF16",
    "int8": "INT8",
    "fp8": "FP8",
}
# TensorProto.DataType → precision; uint8 and int8 differ in their zero point only.
_TYPES = {1: "float32", 2: "int8", 3: "int8", 10: "float16", 16: "bfloat16"}
_TYPES |= dict.fromkeys((17, 18, 19, 20), "fp8")
_FOLDED = ("QuantizeLinear", "DequantizeLinear", "Cast", "Identity")
_SHORT = {
    "AveragePool": "AvgPool",
    "BatchNormalization": "BatchNorm",
    "GlobalAveragePool": "GlobalAvgPool",
    "LayerNormalization": "LayerNorm",
    "Relu": "ReLU",
}


@dataclass(frozen=True)
class GraphNode:
    """A node: `label` is its operator with kernel, stride and channels: "Conv 3×3 /2, 64".

    `reads` has (tensor, precision) per input that is no weight; precision "" where it is not known
    or no float.
    """

    name: str
    op: str
    label: str
    reads: tuple[tuple[str, str], ...]
    writes: tuple[str, ...]


@dataclass(frozen=True)
class Edge:
    """From one node to another by name; "" stands for outside of the block, then `tensor` tells."""

    source: str
    target: str
    tensor: str
    precision: str


@dataclass(frozen=True)
class BlockGraph:
    """The nodes of one block in processing order, and the edges among, into and out of them."""

    name: str
    nodes: tuple[GraphNode, ...]
    edges: tuple[Edge, ...]


@dataclass(frozen=True)
class Blocks:
    """Architecture blocks by name; a node is in the block whose name its own begins with."""

    names: tuple[str, ...]

    def of(self, node: str) -> str | None:
        """The innermost block of a node; None for what stands between blocks."""
        parts = node.split(":")[0].split(".")
        for length in range(len(parts), 0, -1):
            name = ".".join(parts[:length])
            if name in self._known:
                return name
        return None

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.names)


@dataclass(frozen=True)
class GraphOutline:
    """A graph without weights, quantisers and casts."""

    nodes: tuple[GraphNode, ...]
    outputs: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> GraphOutline:
        """Raises `BundleError` for a file that is no ONNX model."""
        return cls.of(read_skeleton(path).graph)

    @classmethod
    def of(cls, graph: onnx.GraphProto) -> GraphOutline:
        """The outline of `graph`; initialisers need no values."""
        shapes = {t.name: tuple(t.dims) for t in graph.initializer}
        kinds = {t.name: _TYPES.get(t.data_type, "") for t in graph.initializer}
        for info in (*graph.input, *graph.value_info, *graph.output):
            kinds[info.name] = _TYPES.get(info.type.tensor_type.elem_type, "")
        origin: dict[str, str] = {}  # tensor behind quantisers and casts → the one before them
        read_as: dict[str, str] = {}
        nodes = []
        for node in graph.node:
            if node.op_type in _FOLDED:
                source = origin.get(node.input[0], node.input[0])
                for name in node.output:
                    origin[name] = source
                    read_as[name] = kinds.get(name, "")
                    if node.op_type == "DequantizeLinear":
                        read_as[name] = kinds.get(node.input[0]) or kinds.get(node.input[-1], "")
                    if source in shapes:
                        shapes[name] = shapes[source]
            elif node.op_type == "Constant":
                shapes |= dict.fromkeys(node.output, ())
            else:
                reads = [
                    (origin.get(name, name), read_as.get(name, kinds.get(name, "")))
                    for name in node.input
                    if name and name not in shapes
                ]
                label = _label(node, [shapes.get(name) for name in node.input])
                outputs = tuple(filter(None, node.output))
                nodes.append(
                    GraphNode(node.name or outputs[0], node.op_type, label, tuple(reads), outputs)
                )
        ends = tuple(origin.get(info.name, info.name) for info in graph.output)
        return cls(tuple(nodes), ends)

    def sizes(self, blocks: Blocks) -> dict[str, int]:
        """How many nodes each block has, in processing order of the blocks."""
        found: dict[str, int] = {}
        for node in self.nodes:
            if block := blocks.of(node.name):
                found[block] = found.get(block, 0) + 1
        return found

    def branching(self, blocks: Blocks) -> set[str]:
        """The blocks in which branches meet."""
        joins = ("Concat", "Add", "Sum")
        meeting = {n.name for n in self.nodes if n.op in joins and len({t for t, _ in n.reads}) > 1}
        return {block for name in meeting if (block := blocks.of(name))}

    def block(self, name: str, blocks: Blocks) -> BlockGraph:
        """One block cut out."""
        inside = [node for node in self.nodes if blocks.of(node.name) == name]
        writer = {tensor: node.name for node in inside for tensor in node.writes}
        edges = [
            Edge(writer.get(tensor, ""), node.name, tensor, precision)
            for node in inside
            for tensor, precision in node.reads
        ]
        chosen = {node.name for node in inside}
        leaving: dict[str, str] = {}
        for node in self.nodes:
            if node.name not in chosen:
                leaving |= {t: p for t, p in node.reads if t in writer and not leaving.get(t)}
        leaving |= {t: leaving.get(t, "") for t in self.outputs if t in writer}
        edges += [Edge(writer[t], "", t, precision) for t, precision in leaving.items()]
        return BlockGraph(name, tuple(inside), tuple(edges))


def _label(node: onnx.NodeProto, shapes: Sequence[tuple[int, ...] | None]) -> str:
    """ "Conv 3×3 /2, 64": the kernel, the stride where there is one, the channels that come out."""
    attributes: dict[str, Any] = {a.name: a for a in node.attribute}
    said = _SHORT.get(node.op_type, node.op_type)
    if "kernel_shape" in attributes:
        said += f" {_by(attributes['kernel_shape'].ints)}"
    if "strides" in attributes and set(attributes["strides"].ints) != {1}:
        steps = list(attributes["strides"].ints)
        said += f" /{steps[0] if len(set(steps)) == 1 else _by(steps)}"
    weight = shapes[1] if len(shapes) > 1 else None
    if node.op_type == "Conv" and weight:
        said += f", {weight[0]}"
        if "group" in attributes and attributes["group"].i == weight[0] > 1:
            said = said.replace("Conv", "Depthwise", 1)
    return said


def _by(values: Iterable[int]) -> str:
    return "×".join(map(str, values))
