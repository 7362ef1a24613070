"""Branches and shortcuts: swapped, doubled, scaled, forgotten."""

from __future__ import annotations

import numpy as np
import onnx

from benchmarks.faults.base import Fault, Planted, Site, edited, pick

__all__ = ["FAULTS"]


class SwappedConcat(Fault):
    """Two branches of a concatenation in the wrong order."""

    name = "concat_swapped"
    level = "graph"

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.reference)
        node = pick(rng, [n for n in edit.of_kind("Concat") if len(set(n.input)) > 1])
        if node is None:
            return None
        first, second = rng.choice(len(node.input), 2, replace=False)
        node.input[first], node.input[second] = node.input[second], node.input[first]
        return Planted(
            (node.name,), f"inputs {first} and {second} of {node.name}", reference=edit.done()
        )


class DoubledBranch(Fault):
    """One branch is read twice and its equal-sized neighbour never."""

    name = "concat_doubled"
    level = "graph"

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.reference)
        channels = _channels(site.reference)
        places = [
            (node, i, j)
            for node in edit.of_kind("Concat")
            for i in range(len(node.input))
            for j in range(len(node.input))
            if i < j and channels.get(node.input[i]) == channels.get(node.input[j]) is not None
        ]
        place = pick(rng, places)
        if place is None:
            return None
        node, i, j = place
        node.input[j] = node.input[i]
        return Planted((node.name,), f"input {i} for {j} at {node.name}", reference=edit.done())


class ResidualScale(Fault):
    """The branch's factor off by two: residual scale, or InceptionNeXt's layer scale."""

    name = "residual_scale"
    level = "graph"

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.reference)
        places = [
            (node, position)
            for node in edit.of_kind("Mul")
            if any(reader.op_type == "Add" for reader in edit.readers(node.output[0]))
            for position, name in enumerate(node.input)
            if edit.constant(name) is not None
        ]
        place = pick(rng, places)
        if place is None:
            return None
        node, position = place
        values = edit.constant(node.input[position])
        assert values is not None
        factor = float(rng.choice([0.5, 2.0]))
        edit.own_constant(node, position, values * factor)
        readers = [r.name for r in edit.readers(node.output[0])]
        return Planted((node.name, *readers), f"×{factor:g} at {node.name}", reference=edit.done())


class LostShortcut(Fault):
    """The sum of a residual block without its input."""

    name = "shortcut_lost"
    level = "graph"

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.reference)
        places = [
            node for node in edit.of_kind("Add") if all(n in edit.writers for n in node.input)
        ]
        node = pick(rng, places)
        if node is None:
            return None
        order = {n.name: i for i, n in enumerate(edit.model.graph.node)}
        branch = max(node.input, key=lambda name: order[edit.writers[name].name])
        name = str(node.name)
        edit.bypass(node, branch)
        return Planted((name,), f"only '{branch}' is left of {name}", reference=edit.done())


def _channels(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: value.type.tensor_type.shape.dim[1].dim_value
        for value in inferred.value_info
        if len(value.type.tensor_type.shape.dim) > 1
    }


FAULTS = (SwappedConcat(), DoubledBranch(), ResidualScale(), LostShortcut())
