"""The last linear layer: transposed, one row too many, the wrong row dropped."""

from __future__ import annotations

import numpy as np
import onnx

from benchmarks.faults.base import Edit, Fault, Planted, Site, edited

__all__ = ["FAULTS"]


def _classifier(edit: Edit) -> tuple[onnx.NodeProto, int]:
    """The node that puts the logits out, and the axis of its weight that counts classes."""
    node = edit.writers[edit.model.graph.output[0].name]
    return node, 0 if edit.attribute(node, "transB", 0) else 1


class TransposedFc(Fault):
    """The matrix read in the other order."""

    name = "fc_transposed"
    level = "graph"

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.reference)
        node, _ = _classifier(edit)
        if node.op_type != "Gemm":
            return None
        weight = edit.constant(node.input[1])
        assert weight is not None
        edit.own_constant(node, 1, weight.T.reshape(weight.shape))
        return Planted((str(node.name),), f"order of {node.name}", reference=edit.done())


class Background(Fault):
    """A checkpoint of 1001 classes whose background row was not dropped."""

    name = "background_row_kept"
    level = "graph"

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.reference)
        node, axis = _classifier(edit)
        if node.op_type != "Gemm":
            return None
        weight = edit.constant(node.input[1])
        assert weight is not None
        row = rng.normal(0, float(weight.std()), weight.shape[1 - axis])
        edit.own_constant(node, 1, np.insert(weight, 0, row, axis=axis))
        if len(node.input) > 2:
            bias = edit.constant(node.input[2])
            assert bias is not None
            edit.own_constant(node, 2, np.insert(bias, 0, float(bias.min())))
        output = edit.model.graph.output[0].type.tensor_type.shape.dim[1]
        output.dim_value += 1
        return Planted((str(node.name),), f"row 0 of {node.name}", reference=edit.done())


class WrongRow(Fault):
    """The last row dropped for the first: every class off by one."""

    name = "background_row_wrong"
    level = "graph"

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.reference)
        node, axis = _classifier(edit)
        if node.op_type != "Gemm":
            return None
        weight = edit.constant(node.input[1])
        assert weight is not None
        edit.own_constant(node, 1, np.roll(weight, 1, axis=axis))
        if len(node.input) > 2:
            bias = edit.constant(node.input[2])
            assert bias is not None
            edit.own_constant(node, 2, np.roll(bias, 1))
        return Planted((str(node.name),), f"rows of {node.name}", reference=edit.done())


FAULTS = (TransposedFc(), Background(), WrongRow())
