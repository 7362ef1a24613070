"""Kernels that are turned, flipped, shifted or scaled, and padding on one side."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.faults.base import Edit, Fault, Planted, Site, edited, pick

__all__ = ["FAULTS"]

Values: TypeAlias = NDArray[Any]


class _Reweighted(Fault):
    level = "graph"

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.reference)
        places = []
        for node in edit.of_kind("Conv"):
            weight = edit.constant(node.input[1])
            if weight is not None and self.fits(weight):
                places.append((node, weight))
        place = pick(rng, places)
        if place is None:
            return None
        node, weight = place
        edit.own_constant(node, 1, self.changed(weight, rng))
        return Planted((str(node.name),), f"{self.name} at {node.name}", reference=edit.done())

    @abstractmethod
    def fits(self, weight: Values) -> bool:
        """Whether a weight (filters, channels, …) would be another one."""

    @abstractmethod
    def changed(self, weight: Values, rng: np.random.Generator) -> Values:
        """The weight with the fault; may be changed in place."""


class Flipped(_Reweighted):
    """Convolution for correlation: the kernel turned by 180 degrees."""

    name = "kernel_flipped"

    def fits(self, weight: Values) -> bool:
        return max(weight.shape[2:], default=1) > 1

    def changed(self, weight: Values, rng: np.random.Generator) -> Values:
        return weight[:, :, ::-1, ::-1]


class Transposed(_Reweighted):
    """Height and width of the kernel exchanged, as after a wrong HWIO permutation."""

    name = "kernel_transposed"

    def fits(self, weight: Values) -> bool:
        return bool(weight.shape[2] == weight.shape[3] > 1)

    def changed(self, weight: Values, rng: np.random.Generator) -> Values:
        return np.swapaxes(weight, 2, 3)


class ChannelScale(_Reweighted):
    """One output channel twice as large: a scale that landed on the wrong channel."""

    name = "channel_scale"

    def fits(self, weight: Values) -> bool:
        return len(weight) > 1

    def changed(self, weight: Values, rng: np.random.Generator) -> Values:
        weight[rng.integers(len(weight))] *= 2.0
        return weight


class Rolled(_Reweighted):
    """Output channels off by one."""

    name = "channels_rolled"

    def fits(self, weight: Values) -> bool:
        return len(weight) > 1

    def changed(self, weight: Values, rng: np.random.Generator) -> Values:
        return np.roll(weight, 1, axis=0)


class Exchanged(Fault):
    """1×7 where 7×1 belongs: the kernel and its padding turned."""

    name = "kernel_1x7_7x1"
    level = "graph"

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.reference)
        places = []
        for node in edit.of_kind("Conv"):
            weight = edit.constant(node.input[1])
            if weight is not None and weight.shape[2] != weight.shape[3]:
                places.append((node, weight))
        place = pick(rng, places)
        if place is None:
            return None
        node, weight = place
        edit.own_constant(node, 1, np.swapaxes(weight, 2, 3))
        _turn(edit, node)
        return Planted((str(node.name),), f"turned at {node.name}", reference=edit.done())


def _turn(edit: Edit, node: onnx.NodeProto) -> None:
    for name in ("kernel_shape", "strides", "dilations"):
        value = edit.attribute(node, name)
        if value:
            edit.set_attribute(node, name, list(value)[::-1])
    pads = edit.attribute(node, "pads")
    if pads:
        turned = [pads[1], pads[0], pads[3], pads[2]]
        edit.set_attribute(node, "pads", turned)


class SamePadding(Fault):
    """TensorFlow's SAME padding of a strided convolution: all of it at the end."""

    name = "conv_padding_one_sided"
    level = "graph"

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.reference)
        places = [
            node
            for node in edit.of_kind("Conv")
            if len(set(edit.attribute(node, "pads", [0]))) == 1
            and edit.attribute(node, "pads", [0])[0] > 0
        ]
        strided = [n for n in places if max(edit.attribute(n, "strides", [1])) > 1]
        node = pick(rng, strided or places)
        if node is None:
            return None
        pad = int(edit.attribute(node, "pads")[0])
        edit.set_attribute(node, "pads", [0, 0, 2 * pad, 2 * pad])
        return Planted((str(node.name),), f"pads at {node.name}", reference=edit.done())


class LostBias(Fault):
    """A convolution or linear layer without its bias."""

    name = "bias_lost"
    level = "graph"

    def plant(self, site: Site, rng: np.random.Generator) -> Planted | None:
        edit = edited(site.reference)
        places = [
            (node, bias)
            for node in edit.of_kind("Conv", "Gemm")
            if len(node.input) > 2
            and (bias := edit.constant(node.input[2])) is not None
            and np.any(bias)
        ]
        place = pick(rng, places)
        if place is None:
            return None
        node, bias = place
        edit.own_constant(node, 2, np.zeros_like(bias))
        return Planted((str(node.name),), f"no bias at {node.name}", reference=edit.done())


FAULTS = (
    Flipped(),
    Transposed(),
    ChannelScale(),
    Rolled(),
    Exchanged(),
    SamePadding(),
    LostBias(),
)
