"""AveragePool → Conv 1×1 becomes Conv 1×1 → AveragePool, where that leaves fewer channels to pool.

Averaging mixes places, a 1×1 convolution mixes channels, and both are linear, so that they commute:

    W * pool(x) = pool(W * x)

for a pool that keeps the size (stride 1). The bias b depends on what the pool divides by. Where it
counts only what lies inside (count_include_pad=0, or no padding), the factors of one average sum to
one, pool(b) = b, and the bias stays with the convolution. Where it counts the padding too, pool(b)
is less than b at the border; the bias then follows behind the pool, as an Add per channel:

    W * pool(x) + b = pool(W * x + b)          count_include_pad=0
    W * pool(x) + b = pool(W * x) + b          count_include_pad=1

The multiply-adds of the convolution stay, the pool has c' < c channels to read, add up and write.
The pool branch of Inception modules is of this shape: 192 channels become 32 in Inception v3's
first one.

A pool right behind a convolution, a batch norm or the input's normalisation stays: moved there, the
1×1 convolution would be a neighbour of another linear node, after the turn of the rewrites that
join such.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from inception_deploy.fusions._channels import follow
from inception_deploy.fusions._examples import Weights, graph
from inception_deploy.fusions._linear import (
    constants_problem,
    fresh_node_name,
    is_padded,
    kernel_of,
    spatial,
)
from inception_deploy.fusions.base import Example, Fusion, Phase
from inception_deploy.graphs import fresh_name, is_op, producer, used_elsewhere
from inception_deploy.proof import FP32_BOUND

__all__ = ["FUSIONS", "PoolProjection"]


class PoolProjection(Fusion):
    """Swaps an average pool and the 1×1 convolution behind it; all nodes keep their names."""

    name = "pool_projection"
    phase = Phase.EXCHANGE
    bound = FP32_BOUND

    @property
    def examples(self) -> tuple[Example, ...]:
        return _EXAMPLES

    def match(self, graph: gs.Graph) -> Iterator[gs.Node]:
        for node in graph.nodes:
            if is_op(node, "AveragePool") and _projection(node) is not None:
                yield node

    def check(self, graph: gs.Graph, anchor: gs.Node) -> str | None:
        conv = _projection(anchor)
        if conv is None:
            return "no 1×1 convolution follows"
        if reason := used_elsewhere(graph, anchor.outputs[0], conv):
            return f"its output {reason}"
        if reason := _why_not_pointwise(conv) or constants_problem(conv):
            return reason
        if not _keeps_size(anchor):
            return "it changes the size of its input: the convolution would have more to do"
        before = affine_before(anchor) or _convolution_before(anchor)
        if before is not None:
            return f"it follows '{before.name}' ({before.op}), which is linear too"
        filters, channels = conv.inputs[1].shape[0], anchor.inputs[0].shape[1]
        if not isinstance(channels, int) or filters >= channels:
            return f"'{conv.name}' makes {filters} channels of {channels}: nothing is saved"
        return None

    def rewrite(self, graph: gs.Graph, anchor: gs.Node) -> str:
        conv = _projection(anchor)
        assert conv is not None, f"'{anchor.name}' is no anchor"
        source, result = anchor.inputs[0], conv.outputs[0]
        behind = None
        if counts_padding(anchor) and len(conv.inputs) > 2:
            behind = conv.inputs.pop()

        shape, place = result.shape, graph.nodes.index(conv) + 1
        name = fresh_node_name(graph, f"{conv.name}.Add")
        projected = gs.Variable(fresh_name(graph, f"{conv.name}.projected"), result.dtype, shape)
        pooled = result
        if behind is not None:
            pooled = gs.Variable(fresh_name(graph, f"{conv.name}.pooled"), result.dtype, shape)
        conv.inputs[0], conv.outputs = source, [projected]
        pool = gs.Node(anchor.op, anchor.name, anchor.attrs, [projected], [pooled])
        graph.nodes.insert(place, pool)
        if behind is not None:
            values = behind.values.reshape(1, -1, *[1] * (len(shape) - 2))
            bias = gs.Constant(fresh_name(graph, behind.name), values)
            graph.nodes.insert(place + 1, gs.Node("Add", name, None, [pooled, bias], [result]))
        anchor.inputs.clear()
        anchor.outputs.clear()
        channels = f"{shape[1]} channels pooled instead of {source.shape[1]}"
        return f"behind '{conv.name}'{', and the bias after it' * (behind is not None)}, {channels}"


def counts_padding(pool: gs.Node) -> bool:
    """Whether zeros around the image are part of the averages."""
    return bool(pool.attrs.get("count_include_pad", 0)) and is_padded(pool)


def affine_before(pool: gs.Node) -> gs.Node | None:
    """The batch norm, or the last node of the input's normalisation, whose output `pool` reads."""
    source = pool.inputs[0]
    before = producer(source)
    if before is None or is_op(before, "BatchNormalization"):
        return before
    found = follow(source)
    return before if found is not None and found.nodes else None


def _convolution_before(pool: gs.Node) -> gs.Node | None:
    before = producer(pool.inputs[0])
    return before if before is not None and is_op(before, "Conv") else None


def _projection(pool: gs.Node) -> gs.Node | None:
    """The first 1×1 convolution that takes the output of `pool` as its image."""
    pooled = pool.outputs[0]
    users: list[gs.Node] = list(pooled.outputs)
    for user in users:
        if is_op(user, "Conv") and user.inputs[0] is pooled and set(kernel_of(user) or ()) == {1}:
            return user
    return None


def _why_not_pointwise(conv: gs.Node) -> str | None:
    """A 1×1 convolution may still leave places out, or add some."""
    if set(spatial(conv, "strides", 1)) != {1}:
        return f"'{conv.name}' has a stride: the pool would see fewer places"
    if is_padded(conv):
        return f"'{conv.name}' is padded: the pool would see more places"
    return None


def _keeps_size(pool: gs.Node) -> bool:
    """With stride 1 and as much padding as the window reaches out; ceil_mode then says nothing."""
    if set(spatial(pool, "strides", 1)) != {1}:
        return False
    if (padding := pool.attrs.get("auto_pad", "NOTSET")) != "NOTSET":
        return bool(padding in ("SAME_UPPER", "SAME_LOWER"))
    kernel, dilations = pool.attrs["kernel_shape"], spatial(pool, "dilations", 1)
    pads = pool.attrs.get("pads", [0] * 2 * len(kernel))
    around = zip(pads[: len(kernel)], pads[len(kernel) :], strict=True)
    reach = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
    return reach == [before + after for before, after in around]


_WEIGHTS: Weights = {"W": (2, 4, 1, 1), "V": (4, 4, 1, 1), "b": (2,)}
_SAME = "kernel_shape: ints = [3, 3], pads: ints = [1, 1, 1, 1]"
_POOL = f"pool = AveragePool<{_SAME}>(input)"
_COUNTING = f"pool = AveragePool<{_SAME}, count_include_pad: int = 1>(input)"


def _branch(pool: str, conv: str = "Conv(pool, W, b)") -> str:
    return f"{pool}\n conv = {conv}\n output = Relu(conv)"


_EXAMPLES = (
    Example("padding left out of the averages", graph(_branch(_POOL), _WEIGHTS), applied=1),
    Example(
        "padding counted, and a bias",
        graph(_branch(_COUNTING), _WEIGHTS),
        applied=1,
    ),
    Example(
        "padding counted, no bias",
        graph(_branch(_COUNTING, "Conv(pool, W)"), _WEIGHTS),
        applied=1,
    ),
    Example(
        "a bias and weights that others use too",
        graph(
            f"""{_COUNTING}
                conv = Conv(pool, W, b)
                other = Conv(input, W, b)
                output = Add(conv, other)""",
            _WEIGHTS,
        ),
        applied=1,
    ),
    Example(
        "no padding, padding said to count",
        graph(
            _branch(
                "pool = AveragePool<kernel_shape: ints = [1, 1], count_include_pad: int = 1>(input)"
            ),
            _WEIGHTS,
        ),
        applied=1,
    ),
    Example(
        "padded more on one side, rounded up to no effect",
        graph(
            _branch(
                """pool = AveragePool<kernel_shape: ints = [2, 5], pads: ints = [0, 2, 1, 2],
                       ceil_mode: int = 1, count_include_pad: int = 1>(input)"""
            ),
            _WEIGHTS,
        ),
        applied=1,
    ),
    Example(
        "a window with gaps, padded by name",
        graph(
            _branch(
                """pool = AveragePool<kernel_shape: ints = [3, 3], dilations: ints = [2, 2],
                       auto_pad: string = "SAME_UPPER">(input)"""
            ),
            _WEIGHTS,
        ),
        applied=1,
    ),
    Example(
        "two groups",
        graph(_branch(_POOL, "Conv<group: int = 2>(pool, U, b)"), {**_WEIGHTS, "U": (2, 2, 1, 1)}),
        applied=1,
    ),
    Example(
        "the result leaves the graph",
        graph(f"{_COUNTING}\n output = Conv(pool, W, b)", _WEIGHTS),
        applied=1,
    ),
    Example(
        "a maximum does not commute",
        graph(_branch(_POOL.replace("Average", "Max")), _WEIGHTS),
        applied=0,
    ),
    Example(
        "an activation between",
        graph(f"{_POOL}\n relu = Relu(pool)\n output = Conv(relu, W, b)", _WEIGHTS),
        applied=0,
    ),
    Example(
        "a 3×3 convolution",
        graph(_branch(_POOL, "Conv(pool, U)"), {"U": (2, 4, 3, 3)}),
        applied=0,
    ),
    Example(
        "as many channels as before",
        graph(_branch(_POOL, "Conv(pool, V)"), _WEIGHTS),
        applied=0,
        refused="'conv' makes 4 channels of 4: nothing is saved",
    ),
    Example(
        "a pool that shrinks the image",
        graph(_branch(_POOL.replace("3], pads", "3], strides: ints = [2, 2], pads")), _WEIGHTS),
        applied=0,
        refused="it changes the size",
    ),
    Example(
        "a pool that shrinks the image, rounding up",
        graph(
            _branch(
                """pool = AveragePool<kernel_shape: ints = [3, 3], strides: ints = [2, 2],
                       ceil_mode: int = 1>(input)"""
            ),
            _WEIGHTS,
        ),
        applied=0,
        refused="it changes the size",
    ),
    Example(
        "a pool without padding",
        graph(_branch("pool = AveragePool<kernel_shape: ints = [3, 3]>(input)"), _WEIGHTS),
        applied=0,
        refused="it changes the size",
    ),
    Example(
        "wrong pads",
        graph(_branch(_POOL.replace("1, 1, 1, 1", "1, 1, 1, 0")), _WEIGHTS),
        applied=0,
        refused="it changes the size",
    ),
    Example(
        "a convolution with a stride",
        graph(_branch(_POOL, "Conv<strides: ints = [2, 2]>(pool, W, b)"), _WEIGHTS),
        applied=0,
        refused="'conv' has a stride",
    ),
    Example(
        "a padded 1×1 convolution",
        graph(_branch(_POOL, "Conv<pads: ints = [1, 1, 1, 1]>(pool, W, b)"), _WEIGHTS),
        applied=0,
        refused="'conv' is padded",
    ),
    Example(
        "two projections",
        graph(
            f"""{_POOL}
                left = Conv(pool, W, b)
                right = Conv(pool, W)
                output = Add(left, right)""",
            _WEIGHTS,
        ),
        applied=0,
        refused="its output is used by 'right' too",
    ),
    Example(
        "the pool's output leaves the graph",
        graph(_branch(_POOL), _WEIGHTS, outputs=("output", "pool")),
        applied=0,
        refused="its output is an output of the graph or of a block",
    ),
    Example(
        "behind a convolution",
        graph(f"before = Conv(input, V)\n{_branch(_POOL).replace('input', 'before')}", _WEIGHTS),
        applied=0,
        refused="it follows 'before' (Conv), which is linear too",
    ),
    Example(
        "behind the input's normalisation",
        graph(
            f"scaled = Mul(input, s)\n{_branch(_POOL).replace('input', 'scaled')}",
            {**_WEIGHTS, "s": (4, 1, 1)},
        ),
        applied=0,
        refused="it follows 'scaled' (Mul), which is linear too",
    ),
    Example(
        "weights computed at run time",
        graph(_branch(f"U = Abs(W)\n{_POOL}", "Conv(pool, U, b)"), _WEIGHTS),
        applied=0,
        refused="'U' of 'conv' is not constant",
    ),
    Example(
        "float64",
        graph(_branch(_POOL, "Conv(pool, W)"), {"W": np.ones((2, 4, 1, 1))}, dtype="double"),
        applied=0,
        refused="is float64, not float32",
    ),
)

FUSIONS = (PoolProjection(),)
