"""The shape of a fault: find a place for it, change one thing, say where."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

__all__ = ["PLACES", "Edit", "Fault", "Level", "Planted", "Site", "edited", "pick"]

Level: TypeAlias = Literal["graph", "lowered", "manifest", "data"]

PLACES = ("input", "labels")
"""Where a fault is that is in no node."""


@dataclass(frozen=True)
class Site:
    """What a fault is planted in.

    Args:
        reference: the graph as exported; not to be modified.
        lowered: the deployed graph; not to be modified.
        precision: of it.
        preprocessing: the manifest's.
        table: calibration.json, or None.
        classes: of the classifier.
    """

    reference: onnx.ModelProto
    lowered: onnx.ModelProto
    precision: str
    preprocessing: Mapping[str, Any]
    table: Mapping[str, Any] | None
    classes: int


@dataclass(frozen=True)
class Planted:
    """One fault.

    Args:
        nodes: where it is: names of nodes of the reference graph, or one of `PLACES`.
        detail: one line.
        reference: the exported graph with the fault, for a fault of before the rewrites.
        lowered: the deployed graph with the fault, for one of after them.
        preprocessing: in place of the manifest's.
        table: in place of the calibrated ranges, which the graph is then lowered with.
        labels: what becomes of the labels of the data.
    """

    nodes: tuple[str, ...]
    detail: str
    reference: onnx.ModelProto | None = None
    lowered: onnx.ModelProto | None = None
    preprocessing: Mapping[str, Any] | None = None
    table: Mapping[str, Any] | None = None
    labels: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None = None


class Fault(ABC):
    """A way in which deployments go wrong. Stateless; all chance is the generator's."""

    name: str
    """As in the results: "count_include_pad"."""

    level: Level
    """Where it arises: in the exported graph, in the deployed one, in the manifest, in the data."""

    precisions: tuple[str, ...] = ("fp32", "fp16", "int8")
    """Those it can arise in."""

    @abstractmethod
    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        """The fault at a place drawn from `rng`; None where this network has no place for it."""


@dataclass
class Edit:
    """A copy of a graph with what is needed to change it."""

    model: onnx.ModelProto
    nodes: dict[str, onnx.NodeProto] = field(init=False)
    writers: dict[str, onnx.NodeProto] = field(init=False)

    def __post_init__(self) -> None:
        self._index()

    def _index(self) -> None:
        graph = self.model.graph
        self.nodes = {node.name: node for node in graph.node}
        self.writers = {name: node for node in graph.node for name in node.output if name}

    def of_kind(self, *kinds: str) -> Iterator[onnx.NodeProto]:
        """Nodes of these operators, in order."""
        return (node for node in self.model.graph.node if node.op_type in kinds)

    def readers(self, tensor: str) -> list[onnx.NodeProto]:
        """Nodes that read `tensor`."""
        return [node for node in self.model.graph.node if tensor in node.input]

    def constant(self, name: str) -> NDArray[Any] | None:
        """The values of an initialiser, a copy; None for any other tensor."""
        found = next((t for t in self.model.graph.initializer if t.name == name), None)
        return None if found is None else np.array(numpy_helper.to_array(found))

    def set_constant(self, name: str, values: NDArray[Any]) -> None:
        """Replace the values of an initialiser, in its own type."""
        found = next(t for t in self.model.graph.initializer if t.name == name)
        kind = helper.tensor_dtype_to_np_dtype(found.data_type)
        found.CopyFrom(numpy_helper.from_array(np.asarray(values).astype(kind, order="C"), name))

    def own_constant(self, node: onnx.NodeProto, position: int, values: NDArray[Any]) -> None:
        """Give an input of `node` other values, and leave who else reads the old ones alone."""
        name = f"{node.name}//{position}"
        found = next(t for t in self.model.graph.initializer if t.name == node.input[position])
        kind = helper.tensor_dtype_to_np_dtype(found.data_type)
        array = np.asarray(values).astype(kind, order="C")
        self.model.graph.initializer.append(numpy_helper.from_array(array, name))
        node.input[position] = name

    def attribute(self, node: onnx.NodeProto, name: str, default: Any = None) -> Any:
        """The value of an attribute."""
        found = next((a for a in node.attribute if a.name == name), None)
        return default if found is None else helper.get_attribute_value(found)

    def set_attribute(self, node: onnx.NodeProto, name: str, value: Any) -> None:
        """Replace an attribute, or add it."""
        kept = [a for a in node.attribute if a.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    def bypass(self, node: onnx.NodeProto, source: str) -> None:
        """Take `node` out: who reads its output reads `source`, or it keeps the output's name."""
        (target,) = node.output
        outputs = {value.name for value in self.model.graph.output}
        position = next(i for i, n in enumerate(self.model.graph.node) if n.name == node.name)
        del self.model.graph.node[position]
        writer = self.writers.get(source)
        alone = writer is not None and not self.readers(source) and source not in outputs
        if alone:
            assert writer is not None
            index = list(writer.output).index(source)
            writer.output[index] = target
        else:
            same = helper.make_node("Identity", [source], [target], name=node.name)
            self.model.graph.node.insert(position, same)
        self._index()

    def append(self, after: onnx.NodeProto, kind: str, **attributes: Any) -> None:
        """Put a node of one input behind `after`; it takes over the name of the output."""
        target = after.output[0]
        inner = f"{target}//before"
        after.output[0] = inner
        position = next(i for i, n in enumerate(self.model.graph.node) if n is after) + 1
        name = f"{after.name}.{kind.lower()}_added"
        added = helper.make_node(kind, [inner], [target], name=name, **attributes)
        self.model.graph.node.insert(position, added)
        self._index()

    def done(self) -> onnx.ModelProto:
        """The edited graph, without the shapes of before."""
        del self.model.graph.value_info[:]
        return self.model


def edited(model: onnx.ModelProto) -> Edit:
    """A copy of `model` to edit."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return Edit(copy)


def pick(rng: np.random.Generator, choices: Sequence[Any]) -> Any:
    """One of `choices`; None of none."""
    return choices[int(rng.integers(len(choices)))] if len(choices) else None
