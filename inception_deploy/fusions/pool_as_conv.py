"""AveragePool becomes a depthwise convolution, which takes a bias behind it along.

An average over a window is a convolution with equal weights:

    pool(x) + b = D * x + b          D of shape (C, 1, kh, kw), every entry 1 / (kh · kw)

where the padding counts (count_include_pad=1) or is none, and no window hangs over the edge. With
count_include_pad=0 the divisor is another one at the border, which is `pool_edges`' business. One
node less where the bias of a moved projection follows the pool, and for engines whose quantised
average pool is slow: in ONNX Runtime on x86, that pool takes 38 % of the time of a stock-quantised
Inception v3. The multiply-adds are the same.

A pool that `pool_projection` would move behind a smaller 1×1 convolution is moved first, by the
same rewrite, and then replaced; so both may run in any order, and this one alone does both.

A pool with a batch norm or a scale as a neighbour, or one channel only, stays: a convolution in its
place could be folded with others, after the turn of the rewrites that do. 1 / (kh · kw) is rounded
to float32 once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from inception_deploy.fusions._examples import Weights, graph
from inception_deploy.fusions._linear import is_padded, spatial
from inception_deploy.fusions.base import Example, Fusion, Phase
from inception_deploy.fusions.pool_projection import PoolProjection, affine_before, counts_padding
from inception_deploy.graphs import (
    absorb,
    constant_values,
    fresh_name,
    is_op,
    is_output,
    used_elsewhere,
)
from inception_deploy.proof import FP32_BOUND

__all__ = ["FUSIONS", "PoolAsConv", "depthwise", "depthwise_problem"]

_PROJECTION = PoolProjection()


class PoolAsConv(Fusion):
    """Replaces average pools by depthwise convolutions, which keep the pools' names."""

    name = "pool_as_conv"
    phase = Phase.EXCHANGE
    bound = FP32_BOUND

    @property
    def examples(self) -> tuple[Example, ...]:
        return _EXAMPLES

    def match(self, graph: gs.Graph) -> Iterator[gs.Node]:
        for node in graph.nodes:
            if is_op(node, "AveragePool"):
                yield node

    def check(self, graph: gs.Graph, anchor: gs.Node) -> str | None:
        if is_padded(anchor) and not counts_padding(anchor):
            return "it leaves the padding out of its averages: the divisor differs at the border"
        absorbed = _bias_behind(graph, anchor)
        result = anchor.outputs[0] if absorbed is None else absorbed[0].outputs[0]
        return depthwise_problem(anchor, result)

    def rewrite(self, graph: gs.Graph, anchor: gs.Node) -> str:
        if _PROJECTION.check(graph, anchor) is None:
            return _PROJECTION.rewrite(graph, anchor)
        conv = depthwise(graph, anchor, divisor=math.prod(anchor.attrs["kernel_shape"]))
        absorbed = _bias_behind(graph, anchor)
        absorb(conv, anchor)
        if absorbed is not None:
            add, name, bias = absorbed
            absorb(conv, add)
            conv.inputs.append(gs.Constant(fresh_name(graph, name), bias))
        size = "×".join(map(str, conv.attrs["kernel_shape"]))
        channels = f"{conv.attrs['group']} channels{', with a bias' * (absorbed is not None)}"
        return f"{size} depthwise, {channels}"


def depthwise_problem(pool: gs.Node, result: gs.Tensor) -> str | None:
    """Why no depthwise convolution may stand in place of `pool`; None where one may.

    Args:
        result: what it would put out: the average, or that with a bias behind.
    """
    pooled = pool.outputs[0]
    if pooled.dtype != np.float32:
        return f"'{pooled.name}' is {np.dtype(pooled.dtype)}, not float32"
    if pool.attrs.get("ceil_mode", 0) and set(spatial(pool, "strides", 1)) != {1}:
        return "it rounds its size up: the last window may hang over the edge"
    if not isinstance(pooled.shape[1], int):
        return "the number of its channels is only known at run time"
    if pooled.shape[1] == 1:
        return "it has one channel: a convolution in its place would not be depthwise"
    if (before := affine_before(pool)) is not None:
        return f"it follows '{before.name}' ({before.op}), which could be folded into it"
    for user in result.outputs:
        if is_op(user, "BatchNormalization", "Mul", "Div"):
            return f"'{user.name}' ({user.op}) follows, which could be folded into it"
    return None


def depthwise(graph: gs.Graph, pool: gs.Node, *, divisor: int) -> gs.Node:
    """A convolution in front of `pool` that sums up the same windows and divides by `divisor`.

    It has no outputs yet.
    """
    kernel, channels = pool.attrs["kernel_shape"], pool.outputs[0].shape[1]
    share = np.full((channels, 1, *kernel), 1.0 / divisor, np.float32)
    names = ("kernel_shape", "strides", "pads", "dilations", "auto_pad")
    conv = gs.Node(
        "Conv",
        pool.name,
        {name: pool.attrs[name] for name in names if name in pool.attrs},
        [pool.inputs[0], gs.Constant(fresh_name(graph, f"{pool.name}.weight"), share)],
    )
    conv.attrs["group"] = channels
    graph.nodes.insert(graph.nodes.index(pool), conv)
    return conv


def _bias_behind(graph: gs.Graph, pool: gs.Node) -> tuple[gs.Node, str, NDArray[np.float32]] | None:
    """The Add of one constant per channel behind `pool`: the node, and name and values (C,)."""
    pooled = pool.outputs[0]
    if len(pooled.outputs) != 1 or is_output(graph, pooled):
        return None
    add = pooled.outputs[0]
    if not is_op(add, "Add") or used_elsewhere(graph, pooled, add):
        return None
    other = add.inputs[1] if add.inputs[0] is pooled else add.inputs[0]
    values, rank, channels = constant_values(other), len(pooled.shape), pooled.shape[1]
    if values is None or values.ndim > rank:
        return None
    shape = (1,) * (rank - values.ndim) + values.shape
    if shape[1] not in (1, channels) or any(n != 1 for n in (shape[0], *shape[2:])):
        return None
    return add, other.name, np.broadcast_to(values.reshape(-1), channels).astype(np.float32)


_WEIGHTS: Weights = {"W": (2, 4, 1, 1), "b": (2,), "s": (4, 1, 1), "c": np.array(3, np.float32)}
_SAME = "kernel_shape: ints = [3, 3], pads: ints = [1, 1, 1, 1]"
_POOL = f"AveragePool<{_SAME}, count_include_pad: int = 1>(input)"
_NORM: Weights = {"gamma": (4,), "beta": (4,), "mean": (4,), "var": (4,)}

_EXAMPLES = (
    Example("alone", graph(f"output = {_POOL}", {}), applied=1),
    Example(
        "with a bias per channel",
        graph(f"pool = {_POOL}\n output = Add(pool, s)", _WEIGHTS),
        applied=1,
    ),
    Example(
        "with one bias for all, on the left",
        graph(f"pool = {_POOL}\n sum = Add(c, pool)\n output = Relu(sum)", _WEIGHTS),
        applied=1,
    ),
    Example(
        "a bias that others use too",
        graph(f"pool = {_POOL}\n sum = Add(pool, s)\n output = Add(sum, s)", _WEIGHTS),
        applied=1,
    ),
    Example(
        "the pool leaves the graph before the bias",
        graph(f"pool = {_POOL}\n output = Add(pool, s)", _WEIGHTS, outputs=("output", "pool")),
        applied=1,
    ),
    Example(
        "the sum behind it is no bias",
        graph(f"pool = {_POOL}\n output = Add(pool, row)", {"row": (6,)}),
        applied=1,
    ),
    Example(
        "with itself",
        graph(f"pool = {_POOL}\n output = Add(pool, pool)", {}),
        applied=1,
    ),
    Example(
        "nothing padded, a stride and gaps",
        graph(
            """output = AveragePool<kernel_shape: ints = [2, 3], strides: ints = [2, 1],
                   dilations: ints = [2, 1]>(input)""",
            {},
        ),
        applied=1,
    ),
    Example(
        "rounding up to no effect",
        graph(f"output = {_POOL}".replace("3], pads", "3], ceil_mode: int = 1, pads"), {}),
        applied=1,
    ),
    Example(
        "in front of a smaller 1×1 convolution: moved, then replaced",
        graph(f"pool = {_POOL}\n conv = Conv(pool, W, b)\n output = Relu(conv)", _WEIGHTS),
        applied=2,
    ),
    Example(
        "in front of two 1×1 convolutions",
        graph(
            f"""pool = {_POOL}
                left = Conv(pool, W, b)
                right = Conv(pool, W)
                output = Add(left, right)""",
            _WEIGHTS,
        ),
        applied=1,
    ),
    Example(
        "a maximum", graph("output = MaxPool<kernel_shape: ints = [2, 2]>(input)", {}), applied=0
    ),
    Example("global", graph("output = GlobalAveragePool(input)", {}), applied=0),
    Example(
        "padding left out of the averages",
        graph(f"output = {_POOL}".replace("count_include_pad: int = 1", "ceil_mode: int = 0"), {}),
        applied=0,
        refused="leaves the padding out of its averages",
    ),
    Example(
        "padding by name, left out of the averages",
        graph(
            """output = AveragePool<kernel_shape: ints = [3, 3],
                   auto_pad: string = "SAME_UPPER">(input)""",
            {},
        ),
        applied=0,
        refused="leaves the padding out of its averages",
    ),
    Example(
        "rounding up, a window over the edge",
        graph(
            """output = AveragePool<kernel_shape: ints = [3, 3], strides: ints = [2, 2],
                   ceil_mode: int = 1>(input)""",
            {},
        ),
        applied=0,
        refused="rounds its size up",
    ),
    Example(
        "a batch norm behind",
        graph(f"pool = {_POOL}\n output = BatchNormalization(pool, gamma, beta, mean, var)", _NORM),
        applied=0,
        refused="'output' (BatchNormalization) follows",
    ),
    Example(
        "a batch norm before",
        graph(
            f"""bn = BatchNormalization(input, gamma, beta, mean, var)
                output = {_POOL.replace("input", "bn")}""",
            _NORM,
        ),
        applied=0,
        refused="it follows 'bn'",
    ),
    Example(
        "a scale behind",
        graph(f"pool = {_POOL}\n output = Mul(pool, s)", _WEIGHTS),
        applied=0,
        refused="'output' (Mul) follows",
    ),
    Example(
        "a bias, then a batch norm behind",
        graph(
            f"""pool = {_POOL}
                sum = Add(pool, s)
                output = BatchNormalization(sum, gamma, beta, mean, var)""",
            {**_WEIGHTS, **_NORM},
        ),
        applied=0,
        refused="'output' (BatchNormalization) follows",
    ),
    Example(
        "one channel",
        graph(f"output = {_POOL}", {}, shape="batch, 1, 6, 6"),
        applied=0,
        refused="it has one channel",
    ),
    Example(
        "channels known at run time",
        graph(f"output = {_POOL}", {}, shape="batch, channels, 6, 6"),
        applied=0,
        refused="only known at run time",
    ),
    Example(
        "float64",
        graph(f"output = {_POOL}", {}, dtype="double"),
        applied=0,
        refused="is float64, not float32",
    ),
)

FUSIONS = (PoolAsConv(),)
