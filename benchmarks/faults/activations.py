"""Activations that are missing, or there where none belongs, or another function."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from benchmarks.faults.base import Edit, Fault, Planted, Site, edited, pick

__all__ = ["FAULTS"]


class _Replaced(Fault):
    """One activation of a kind, changed."""

    level = "graph"
    kind = "Relu"

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.reference)
        node = pick(rng, list(edit.of_kind(self.kind)))
        if node is None:
            return None
        name = str(node.name)
        detail = self.change(edit, node)
        return Planted((name,), f"{detail} {name}", reference=edit.done())

    @abstractmethod
    def change(self, edit: Edit, node: onnx.NodeProto) -> str:
        """Change the node in place; says what was done, up to the node's name."""


class DroppedRelu(_Replaced):
    """A ReLU that is not there."""

    name = "relu_dropped"

    def change(self, edit: Edit, node: onnx.NodeProto) -> str:
        edit.bypass(node, node.input[0])
        return "no"


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


class Relu6(_Replaced):
    """MobileNet's ReLU6 for ReLU: nothing changes where nothing exceeds 6."""

    name = "relu6"

    def change(self, edit: Edit, node: onnx.NodeProto) -> str:
        low = numpy_helper.from_array(np.array(0.0, np.float32), f"{node.name}//low")
        high = numpy_helper.from_array(np.array(6.0, np.float32), f"{node.name}//high")
        edit.model.graph.initializer.extend([low, high])
        clip = helper.make_node(
            "Clip", [node.input[0], low.name, high.name], list(node.output), name=node.name
        )
        node.CopyFrom(clip)
        return "ReLU6 at"


class TanhGelu(_Replaced):
    """The tanh approximation of GELU for the exact one."""

    name, kind = "gelu_tanh", "Gelu"

    def change(self, edit: Edit, node: onnx.NodeProto) -> str:
        edit.set_attribute(node, "approximate", "tanh")
        return "tanh at"


FAULTS = (DroppedRelu(), AddedRelu(), Relu6(), TanhGelu())
