"""Activations that are missing, or there where none belongs, or another function."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from benchmarks.faults.base import Fault, Planted, Site, edited, pick

__all__ = ["FAULTS"]


class DroppedRelu(Fault):
    """A ReLU that is not there."""

    name = "relu_dropped"
    level = "graph"

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.reference)
        node = pick(rng, list(edit.of_kind("Relu")))
        if node is None:
            return None
        name = str(node.name)
        edit.bypass(node, node.input[0])
        return Planted((name,), f"no {name}", reference=edit.done())


class AddedRelu(Fault):
    """A ReLU behind what has none: Block8's last sum, a linear bottleneck, the logits."""

    name = "relu_added"
    level = "graph"

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.reference)
        sums = [n for n in edit.of_kind("Add") if not _rectified(edit.readers(n.output[0]))]
        others = [
            n
            for n in edit.of_kind("BatchNormalization", "Gemm")
            if not _rectified(edit.readers(n.output[0]))
        ]
        node = pick(rng, sums or others)
        if node is None:
            return None
        name = str(node.name)
        edit.append(node, "Relu")
        return Planted((name,), f"a ReLU behind {name}", reference=edit.done())


def _rectified(readers: Sequence[onnx.NodeProto]) -> bool:
    return any(reader.op_type == "Relu" for reader in readers)


class Relu6(Fault):
    """MobileNet's ReLU6 for ReLU: nothing changes where nothing exceeds 6."""

    name = "relu6"
    level = "graph"

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.reference)
        node = pick(rng, list(edit.of_kind("Relu")))
        if node is None:
            return None
        low = numpy_helper.from_array(np.array(0.0, np.float32), f"{node.name}//low")
        high = numpy_helper.from_array(np.array(6.0, np.float32), f"{node.name}//high")
        edit.model.graph.initializer.extend([low, high])
        clip = helper.make_node(
            "Clip", [node.input[0], low.name, high.name], list(node.output), name=node.name
        )
        node.CopyFrom(clip)
        return Planted((str(node.name),), f"ReLU6 at {node.name}", reference=edit.done())


class TanhGelu(Fault):
    """The tanh approximation of GELU for the exact one."""

    name = "gelu_tanh"
    level = "graph"

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.reference)
        node = pick(rng, list(edit.of_kind("Gelu")))
        if node is None:
            return None
        edit.set_attribute(node, "approximate", "tanh")
        return Planted((str(node.name),), f"tanh at {node.name}", reference=edit.done())


FAULTS = (DroppedRelu(), AddedRelu(), Relu6(), TanhGelu())
