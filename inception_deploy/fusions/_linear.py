"""What the rewrites of linear nodes ask of convolutions, matrix products and batch norms.

All arithmetic is float64; the caller rounds once.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from inception_deploy.graphs import fresh_name, is_constant, is_op, is_output, numbered

__all__ = [
    "Float64Array",
    "bias_of",
    "channel_affine",
    "constants_problem",
    "fresh_node_name",
    "is_padded",
    "kernel_of",
    "norm_problem",
    "relu_behind",
    "scaled_filters",
    "set_bias",
    "sharing_problem",
    "spatial",
]

Float64Array: TypeAlias = NDArray[np.float64]


def channel_affine(norm: gs.Node) -> tuple[Float64Array, Float64Array]:
    """g = γ / √(σ² + ε) and t = β − g·μ of a batch norm: it computes g·x + t. May overflow."""
    gamma, beta, mean, variance = (t.values.astype(np.float64) for t in norm.inputs[1:5])
    with np.errstate(all="ignore"):  # a zero or negative variance shows in the result
        g = gamma / np.sqrt(variance + norm.attrs.get("epsilon", 1e-5))
        return g, beta - g * mean


def bias_of(node: gs.Node, length: int) -> Float64Array:
    """The bias of a convolution, zeros where it has none, of shape (length,)."""
    if len(node.inputs) > 2 and not node.inputs[2].is_empty():
        return np.asarray(node.inputs[2].values.astype(np.float64))
    return np.zeros(length)


def scaled_filters(weights: NDArray[np.float32], factors: Float64Array) -> NDArray[np.float32]:
    """`weights` (filters, …) times one factor per filter, or per filter and channel.

    Multiplied in float64 and rounded once, without a float64 copy of the weights; may overflow to
    Inf.
    """
    factors = factors.reshape(*factors.shape, *[1] * (weights.ndim - factors.ndim))
    result = np.empty_like(weights)
    with np.errstate(all="ignore"):
        np.multiply(weights, factors, out=result, dtype=np.float64, casting="same_kind")
    return result


def set_bias(graph: gs.Graph, node: gs.Node, bias: Float64Array) -> None:
    """Give `node` this bias, float32, in place of its own or as the first one.

    The constant keeps the name of the old one, unless others use that.
    """
    wanted = f"{node.name}.bias"
    if len(node.inputs) > 2:
        wanted = node.inputs.pop().name or wanted
    node.inputs.append(gs.Constant(fresh_name(graph, wanted), bias.astype(np.float32)))


def norm_problem(norm: gs.Node) -> str | None:
    """Why a batch norm is no constant affine map; None where it is."""
    if norm.attrs.get("training_mode", 0) or len(norm.outputs) > 1:
        return f"'{norm.name}' is in training mode: its statistics come from the batch"
    return constants_problem(norm)


def constants_problem(node: gs.Node) -> str | None:
    """The first parameter of `node`, all inputs but the first, that is not constant float32."""
    for tensor in node.inputs[1:]:
        if not is_constant(tensor) and not tensor.is_empty():
            return f"'{tensor.name}' of '{node.name}' is not constant"
        if is_constant(tensor) and tensor.dtype != np.float32:
            return f"'{tensor.name}' of '{node.name}' is {tensor.dtype}, not float32"
    return None


def sharing_problem(node: gs.Node) -> str | None:
    """Who else uses the weights of `node`, or None; a bias that is replaced may be shared."""
    others = [user for user in node.inputs[1].outputs if user is not node]
    if others:
        return f"the weights of '{node.name}' are shared with '{others[0].name}'"
    return None


def kernel_of(conv: gs.Node) -> tuple[int, ...] | None:
    """Height and width of the kernel; None where not even the shape of the weights is known."""
    if "kernel_shape" in conv.attrs:
        return tuple(conv.attrs["kernel_shape"])
    shape = conv.inputs[1].shape
    return None if shape is None else tuple(shape[2:])


def is_padded(node: gs.Node) -> bool:
    """Whether a convolution or pool may see anything outside of its input."""
    if node.attrs.get("auto_pad", "NOTSET") == "NOTSET":
        return any(node.attrs.get("pads", ()))
    return bool(node.attrs["auto_pad"] != "VALID")


def spatial(node: gs.Node, name: str, default: int) -> tuple[int, ...]:
    """Attribute `strides` or `dilations` of a convolution or pool, one number per image axis."""
    axes = len(node.inputs[0].shape) - 2
    return tuple(node.attrs.get(name, (default,) * axes))


def relu_behind(graph: gs.Graph, node: gs.Node) -> gs.Node | None:
    """The Relu that alone uses the output of `node`."""
    result = node.outputs[0]
    if is_output(graph, result) or len(result.outputs) != 1:
        return None
    user: gs.Node = result.outputs[0]
    return user if is_op(user, "Relu") else None


def fresh_node_name(graph: gs.Graph, wanted: str) -> str:
    """`wanted`, or with the first number appended under which no node is known yet."""
    return numbered(wanted, {node.name for node in graph.nodes})
