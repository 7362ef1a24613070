"""Why a piece is wrong: hypotheses that are tried on its values and on its nodes.

Each one is a way in which deployments do go wrong, and is only named where it explains what is
seen: where undoing it makes the error vanish, or where the two nodes differ in just that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

from inception_deploy.engines.base import Array
from inception_deploy.locate.allowance import CLIPPED, cut_off
from inception_deploy.locate.anatomy import Anatomy, Weights
from inception_deploy.locate.walk import Step

__all__ = ["Before", "attributes_apart", "causes", "weights_apart"]

_EXPLAINS = 0.1
"""Part of the error that may be left for a hypothesis to count as the explanation."""

_POOLS = ("AveragePool", "MaxPool", "GlobalAveragePool", "GlobalMaxPool", "LpPool")


@dataclass(frozen=True)
class Before:
    """What is known of the nodes before the stage, by name.

    Args:
        anatomy: of the graph; None where it is no graph.
        modules: PyTorch's, by the names of nodes; empty where it is no module.
    """

    anatomy: Anatomy | None = None
    modules: Mapping[str, nn.Module] | None = None


_SAME = ({"Gemm", "MatMul"}, {"Relu", "Clip"}, {"Conv", "MatMulInteger"})
"""Operators that lowering writes for one another."""

_AROUND = ("Add", "Mul", "Transpose")
"""What a product of integers is written with, in nodes named after it (`lowering/qdq.py`)."""


def causes(
    step: Step, after: Anatomy, nodes: Sequence[onnx.NodeProto], before: Before
) -> tuple[str, ...]:
    """Candidates for what is wrong in the piece of `step`, the most likely first.

    Args:
        after: of the graph after the stage, as it is written.
        nodes: of the piece, those that compute something.
    """
    found = [
        *_structure(after, nodes, before),
        *_grid(step, after),
        *_values(step, nodes),
    ]
    return tuple(dict.fromkeys(found))


def _structure(after: Anatomy, nodes: Sequence[onnx.NodeProto], before: Before) -> Iterator[str]:
    products = [node.name for node in nodes if node.op_type == "MatMulInteger"]
    for node in nodes:
        known = after.nodes.get(node.name, node)
        yield from _against_module(known, after, (before.modules or {}).get(node.name))
        if before.anatomy is None:
            continue
        was = before.anatomy.nodes.get(node.name)
        if was is None:
            if not (node.op_type in _AROUND and node.name.startswith(tuple(products))):
                yield f"{node.op_type} '{node.name}' was not there before"
            continue
        yield from _attributes(known, after, was, before.anatomy)
        yield from _weights(known, after, was, before.anatomy)


def attributes_apart(
    node: onnx.NodeProto, after: Anatomy, was: onnx.NodeProto, before: Anatomy
) -> Iterator[str]:
    """How the attributes, or the operator, of a node differ from those before."""
    yield from _attributes(node, after, was, before)


def _attributes(
    node: onnx.NodeProto, after: Anatomy, was: onnx.NodeProto, before: Anatomy
) -> Iterator[str]:
    if node.op_type != was.op_type:
        if {node.op_type, was.op_type} not in _SAME:
            yield f"{node.op_type} where {was.op_type} was before"
        return
    now, then = after.attributes(node), before.attributes(was)
    for name in sorted(now.keys() & then.keys()):
        if now[name] != then[name]:
            kind = "wrong pooling: " if node.op_type in _POOLS else ""
            yield f"{kind}{name} is {_short(now[name])}, before {_short(then[name])}"
    if node.op_type == "Concat":
        order = [_plain_name(name) for name in node.input]
        old = [_plain_name(name) for name in was.input]
        if order != old and sorted(order) == sorted(old):
            yield "branches are concatenated in another order: " + ", ".join(order)


def _plain_name(tensor: str) -> str:
    return tensor.split(":")[0].removesuffix("/rounded")


def _against_module(
    node: onnx.NodeProto, after: Anatomy, module: nn.Module | None
) -> Iterator[str]:
    """What the node has in another way than the PyTorch module it was made of."""
    if module is None:
        return
    attributes = after.attributes(node)
    pairs = {
        "epsilon": "eps",
        "count_include_pad": "count_include_pad",
        "ceil_mode": "ceil_mode",
        "group": "groups",
    }
    for name, called in pairs.items():
        if name in attributes and hasattr(module, called):
            now, then = attributes[name], getattr(module, called)
            if abs(float(now) - float(then)) > 1e-6 * abs(float(then)):
                kind = "wrong pooling: " if node.op_type in _POOLS else ""
                yield f"{kind}{name} is {_short(now)}, PyTorch's {called} {_short(then)}"
    given = after.weights(node)
    for position, called in ((1, "weight"), (2, "bias"), (3, "running_mean"), (4, "running_var")):
        values = getattr(module, called, None)
        if position in given and values is not None:
            exact = values.detach().numpy()
            if given[position].values.shape != exact.shape:
                shape = tuple(given[position].values.shape)
                yield f"{called} has shape {shape}, PyTorch's {tuple(exact.shape)}"
            elif said := _apart(given[position].values, exact, given[position].unit):
                yield f"wrong weights: {called} {said}"


def weights_apart(
    node: onnx.NodeProto, after: Anatomy, was: onnx.NodeProto, before: Anatomy
) -> Iterator[str]:
    """How the weights of a node are further from those before than their format explains.

    Biases of integer convolutions are left out: they carry the correction of the weights' rounding.
    So are those that carry a shift.
    """
    yield from _weights(node, after, was, before)


def _weights(
    node: onnx.NodeProto, after: Anatomy, was: onnx.NodeProto, before: Anatomy
) -> Iterator[str]:
    now, then = after.weights(node), before.weights(was)
    carries = any(w.cut is not None for w in now.values()) or after.carries(node)
    for position in sorted(now.keys() & then.keys()):
        here, there = now[position], then[position]
        if carries and position == 2:
            continue
        called = {1: "weights", 2: "bias"}.get(position, "constant")
        if here.values.shape != there.values.shape:
            if here.values.size != there.values.size:
                yield (f"{called} have shape {here.values.shape}, before {there.values.shape}")
                continue
            if here.values.ndim == there.values.ndim and here.values.ndim > 1:
                yield f"{called} are {here.values.shape}, before {there.values.shape}"
            continue
        said = _apart(here.values, there.values, _unit(here, there))
        if said:
            like = _borrowed(here.values, node, before) if position == 1 else None
            yield f"wrong {called}: {like or said}"


def _unit(here: Weights, there: Weights) -> NDArray[np.float64]:
    """How far each weight may be off; what lies at its grid's end may have been cut off."""
    unit = here.unit + here.reach
    if here.cut is None:
        return unit
    beyond = np.where(np.sign(there.values) == np.sign(here.values), np.abs(there.values), 0.0)
    reach = np.maximum(beyond - np.abs(here.values), 0.0)
    return np.where(here.cut, np.maximum(unit, reach), unit)


def _apart(here: Array, there: Array, unit: Array) -> str | None:
    """How two weights of one shape differ by more than `unit`; None where they do not."""
    error = np.abs(here.astype(np.float64) - there)
    off = ~(error <= unit + 1e-30)
    if not off.any():
        return None
    if not np.isfinite(here).all():
        return f"{int((~np.isfinite(here)).sum())} of {here.size} are NaN or infinite"
    rows = off.reshape(len(off), -1) if off.ndim else off.reshape(1, 1)
    channels = np.flatnonzero(rows.any(1))
    wide = there.astype(np.float64)
    if here.ndim >= 2 and here.shape[-1] == here.shape[-2]:
        turned = np.swapaxes(there, -1, -2)
        if np.abs(here - turned).max() <= _EXPLAINS * error.max():
            return "transposed"
    if not np.any(here):
        return "all zero"
    if len(channels) <= max(len(rows) // 4, 1) and len(rows) > 1:
        first = channels[0]
        gain = _gain(here[first], wide[first])
        factor = f" by ×{gain:.4g}" if gain is not None else ""
        names = ", ".join(map(str, channels[:4])) + (", …" if len(channels) > 4 else "")
        return f"channel{'s' if len(channels) > 1 else ''} {names} of {len(rows)} off{factor}"
    gain = _gain(here, wide)
    if gain is not None and abs(gain - 1) > 1e-9:
        return f"×{gain:.5g} of those before"
    share = float(np.linalg.norm(here - wide)) / max(float(np.linalg.norm(wide)), 1e-300)
    return f"off by {share:.2g} of their norm, in {len(channels)} of {len(rows)} channels"


def _gain(here: Array, there: Array) -> float | None:
    """The factor between two arrays, where that is all the difference."""
    power = float(np.vdot(there, there))
    if not power:
        return None
    gain = float(np.vdot(there, here.astype(np.float64)) / power)
    left = float(np.linalg.norm(here - gain * there))
    return gain if left <= _EXPLAINS * float(np.linalg.norm(here - there)) else None


def _borrowed(values: Array, node: onnx.NodeProto, before: Anatomy) -> str | None:
    """The other node whose weights these are."""
    tolerance = 0.02 * float(np.abs(values).max(initial=0.0))
    for name, other in before.nodes.items():
        if name == node.name or other.op_type != node.op_type or len(other.input) < 2:
            continue
        tensor = before.constants.get(other.input[1])
        if tensor is None or tuple(tensor.dims) != values.shape:
            continue
        theirs = before.weights(other)[1].values
        if float(np.abs(theirs - values).max()) <= tolerance:
            return f"they are those of '{name}'"
    return None


def _grid(step: Step, after: Anatomy) -> Iterator[str]:
    apart = after.scales_apart(step.tensor)
    if apart:
        yield (f"scale mismatch: quantised in steps of {apart[0]:.4g}, read back in {apart[1]:.4g}")
    grid = after.grid(step.tensor)
    if grid is None:
        return
    low, high = float(step.want.min()), float(step.want.max())
    cut = cut_off(step.want, step.own, grid)
    if cut.cost > CLIPPED:
        yield (
            f"clipped range: {cut.share:.2%} of the values are beyond {grid.low:.4g} to "
            f"{grid.high:.4g}; before, they reach from {low:.4g} to {high:.4g}"
        )
    needed = (max(high, 0.0) - min(low, 0.0)) / 255
    if needed and grid.scale > 4 * needed:
        yield (
            f"range {grid.scale / needed:.1f}× wider than the values: a stale calibration table?"
        )


def _values(step: Step, nodes: Sequence[onnx.NodeProto]) -> Iterator[str]:
    """Hypotheses on what was computed."""
    want, own = step.want.astype(np.float64), step.own.astype(np.float64)
    if want.shape != own.shape or not np.isfinite(own).all():
        return
    error = float(np.linalg.norm(own - want))
    if not error:
        return

    def explains(changed: NDArray[Any], target: NDArray[Any]) -> bool:
        return float(np.linalg.norm(changed - target)) <= _EXPLAINS * error

    if explains(np.maximum(own, 0), want):
        yield "a ReLU is missing"
    elif explains(own, np.maximum(want, 0)):
        yield "a ReLU too many"
    if (order := _permutation(want, own)) is not None:
        joined = any(node.op_type == "Concat" for node in nodes)
        yield (
            "channels are in another order"
            + (": swapped concat branches" if joined else "")
            + f" (channel {order[0]} holds {order[1]})"
        )
    gain = _gain(own, want)
    if gain is not None:
        yield f"everything ×{gain:.4g}"
    yield from _terms(step, own, want)
    if own.ndim == 4 and min(own.shape[2:]) > 2:
        inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))
        if float(np.linalg.norm((own - want)[inner])) <= 1e-3 * error:
            yield "only the border differs: padding, or an average pool that counts it"
    if own.ndim > 1:
        per = np.linalg.norm(np.moveaxis(own - want, 1, 0).reshape(own.shape[1], -1), axis=1)
        worst = np.flatnonzero(per > 0.5 * per.max())
        rest = float(np.linalg.norm(np.delete(per, worst)))
        if len(worst) <= max(1, own.shape[1] // 8) and rest <= 0.3 * error:
            shown = ", ".join(map(str, worst[:4])) + (", …" if len(worst) > 4 else "")
            yield f"the error is in channel{'s' if len(worst) > 1 else ''} {shown}"


def _permutation(want: NDArray[Any], own: NDArray[Any]) -> tuple[int, int] | None:
    """A channel that holds another's values, where all of them are somewhere."""
    if want.ndim < 2 or want.shape[1] < 2:
        return None
    rows_want = np.moveaxis(want, 1, 0).reshape(want.shape[1], -1)
    rows_own = np.moveaxis(own, 1, 0).reshape(want.shape[1], -1)
    distances = (
        np.square(rows_own).sum(1)[:, None]
        - 2 * rows_own @ rows_want.T
        + np.square(rows_want).sum(1)[None]
    )
    nearest = distances.argmin(1)
    left = float(np.maximum(distances[np.arange(len(nearest)), nearest], 0).sum())
    error = float(np.square(own - want).sum())
    moved = np.flatnonzero(nearest != np.arange(len(nearest)))
    if not len(moved) or left > _EXPLAINS**2 * error or len(set(nearest)) < 0.9 * len(nearest):
        return None
    return int(moved[0]), int(nearest[moved[0]])


def _terms(step: Step, own: NDArray[Any], want: NDArray[Any]) -> Iterator[str]:
    """Where the piece sums what it reads: the factor of each summand, before and now."""
    terms = [v.astype(np.float64) for v in step.read.values() if v.shape == want.shape]
    if len(terms) < 2 or want.size < 4:
        return
    matrix = np.stack([t.reshape(-1) for t in terms], 1)
    for target in (want, own):
        if not np.isfinite(target).all():
            return
    then, now = (
        np.linalg.lstsq(matrix, target.reshape(-1), rcond=None)[0] for target in (want, own)
    )
    left = float(np.linalg.norm(matrix @ now - own.reshape(-1)))
    if left > _EXPLAINS * float(np.linalg.norm(own - want)):
        return
    names = [n for n, v in step.read.items() if v.shape == want.shape]
    for name, before, after in zip(names, then, now, strict=True):
        if abs(after - before) > 0.01 * max(abs(before), 0.01):
            yield f"'{name}' is added ×{after:.3g}, before ×{before:.3g}: wrong residual scale"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
