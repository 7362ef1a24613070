"""The last linear layer: transposed, one row too many, the wrong row dropped."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.faults.base import Fault, Planted, Site, edited

__all__ = ["FAULTS"]

Values: TypeAlias = NDArray[Any]


class _Classifier(Fault):
    """Other values in the layer that puts the logits out."""

    level = "graph"
    what: str

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.reference)
        output = edit.model.graph.output[0]
        node = edit.writers[output.name]
        if node.op_type != "Gemm":
            return None
        classes = 0 if edit.attribute(node, "transB", 0) else 1
        weight = edit.constant(node.input[1])
        assert weight is not None
        changed = self.changed(weight, classes, rng)
        edit.own_constant(node, 1, changed)
        bias = edit.constant(node.input[2]) if len(node.input) > 2 else None
        if bias is not None:
            edit.own_constant(node, 2, self.shifted(bias))
        output.type.tensor_type.shape.dim[1].dim_value = changed.shape[classes]
        return Planted((str(node.name),), f"{self.what} {node.name}", reference=edit.done())

    @abstractmethod
    def changed(self, weight: Values, classes: int, rng: np.random.Generator) -> Values:
        """Other weights; `classes` is the axis that counts classes."""

    def shifted(self, bias: Values) -> Values:
        """The bias that goes with them."""
        return bias


class TransposedFc(_Classifier):
    """The matrix read in the other order."""

    name, what = "fc_transposed", "order of"

    def changed(self, weight: Values, classes: int, rng: np.random.Generator) -> Values:
        return weight.T.reshape(weight.shape)


class Background(_Classifier):
    """A checkpoint of 1001 classes whose background row was not dropped."""

    name, what = "background_row_kept", "row 0 of"

    def changed(self, weight: Values, classes: int, rng: np.random.Generator) -> Values:
        row = rng.normal(0, float(weight.std()), weight.shape[1 - classes])
        return np.insert(weight, 0, row, axis=classes)

    def shifted(self, bias: Values) -> Values:
        return np.insert(bias, 0, float(bias.min()))


class WrongRow(_Classifier):
    """The last row dropped for the first: every class off by one."""

    name, what = "background_row_wrong", "rows of"

    def changed(self, weight: Values, classes: int, rng: np.random.Generator) -> Values:
        return np.roll(weight, 1, axis=classes)

    def shifted(self, bias: Values) -> Values:
        return np.roll(bias, 1)


FAULTS = (TransposedFc(), Background(), WrongRow())
