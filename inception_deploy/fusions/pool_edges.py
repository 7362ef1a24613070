"""AveragePool that leaves the padding out becomes a depthwise convolution and a factor per place.

Near the border fewer pixels lie in the window, and the pool divides by their number n(y, x) instead
of kh · kw. The sum is a convolution all the same, and the divisor depends on the place alone:

    pool(x) = M ⊙ (D * x)          D of shape (C, 1, kh, kw), every entry 1 / (kh · kw)
                                   M of shape (1, 1, H', W'), M[y, x] = kh · kw / n(y, x)

M is 1 inside, and for a 3×3 window of stride 1 it is 3/2 at the edges and 9/4 in the corners. It is
positive, so that a Relu behind the pool goes in between, where engines fuse it into the
convolution:

    Relu(M ⊙ (D * x)) = M ⊙ Relu(D * x)

Where n is the same everywhere (a map of 2×2 under a window of 3×3), the entries of D are 1 / n and
there is no M.

A multiplication more per output, and for engines whose quantised average pool is slow still a
gain: with eight-bit tensors ONNX Runtime on x86 takes a seventh of the time. The fourteen pools of
Inception v4 are of this kind. 1 / (kh · kw) and M are rounded to float32 once each; on an
eight-bit grid of step 1/4 the values of M above are exact.

What `pool_projection` would move behind a smaller 1×1 convolution is moved first, by the same
rewrite, as in `pool_as_conv`, which serves the pools that count the padding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from inception_deploy.fusions._examples import Weights, graph
from inception_deploy.fusions._linear import fresh_node_name, is_padded, relu_behind, spatial
from inception_deploy.fusions.base import Example, Fusion, Phase
from inception_deploy.fusions.pool_as_conv import depthwise, depthwise_problem
from inception_deploy.fusions.pool_projection import PoolProjection, counts_padding
from inception_deploy.graphs import absorb, fresh_name, is_op
from inception_deploy.proof import FP32_BOUND

__all__ = ["FUSIONS", "PoolEdges"]

_PROJECTION = PoolProjection()


class PoolEdges(Fusion):
    """Replaces average pools by depthwise convolutions, and multiplies by a constant map."""

    name = "pool_edges"
    phase = Phase.EXCHANGE
    bound = FP32_BOUND

    @property
    def examples(self) -> tuple[Example, ...]:
        return _EXAMPLES

    def match(self, graph: gs.Graph) -> Iterator[gs.Node]:
        for node in graph.nodes:
            if is_op(node, "AveragePool") and is_padded(node) and not counts_padding(node):
                yield node

    def check(self, graph: gs.Graph, anchor: gs.Node) -> str | None:
        pooled = anchor.outputs[0]
        if anchor.attrs.get("auto_pad", "NOTSET") != "NOTSET":
            return f"its padding is {anchor.attrs['auto_pad']}, not numbers"
        if not all(isinstance(size, int) for size in pooled.shape[2:]):
            return "the size of its maps is only known at run time"
        return depthwise_problem(anchor, pooled)

    def rewrite(self, graph: gs.Graph, anchor: gs.Node) -> str:
        if _PROJECTION.check(graph, anchor) is None:
            return _PROJECTION.rewrite(graph, anchor)
        counts = _counts(anchor)
        even = len(np.unique(counts)) == 1
        window = math.prod(anchor.attrs["kernel_shape"])
        conv = depthwise(graph, anchor, divisor=int(counts.flat[0]) if even else window)
        last = relu_behind(graph, anchor)
        absorb(conv, anchor)
        channels = conv.inputs[1].shape[0]
        detail = f"{'×'.join(map(str, conv.attrs['kernel_shape']))} depthwise, {channels} channels"
        if even:
            return f"{detail}, {counts.flat[0]} pixels in every window"

        last = last or conv
        result, name = last.outputs[0], fresh_node_name(graph, f"{anchor.name}.edges")
        averaged = gs.Variable(fresh_name(graph, f"{anchor.name}.inside"), np.float32, result.shape)
        last.outputs = [averaged]
        factors = gs.Constant(fresh_name(graph, name), (window / counts).astype(np.float32))
        place = graph.nodes.index(last) + 1
        graph.nodes.insert(place, gs.Node("Mul", name, None, [averaged, factors], [result]))
        return f"{detail}, times a map of {'×'.join(map(str, counts.shape[2:]))}"


def _counts(pool: gs.Node) -> NDArray[np.int64]:
    """Pixels of the image in each window: int64 (1, 1, H', W')."""
    kernel = pool.attrs["kernel_shape"]
    strides, gaps = spatial(pool, "strides", 1), spatial(pool, "dilations", 1)
    before = pool.attrs["pads"][: len(kernel)]
    sizes, places = pool.inputs[0].shape[2:], pool.outputs[0].shape[2:]
    counts = np.ones((), np.int64)
    for taps, stride, gap, pad, size, many in zip(
        kernel, strides, gaps, before, sizes, places, strict=True
    ):
        at = np.arange(many)[:, None] * stride + np.arange(taps) * gap - pad
        counts = counts[..., None] * ((at >= 0) & (at < size)).sum(1)
    return counts[None, None]


_WEIGHTS: Weights = {"W": (2, 4, 1, 1), "b": (2,), "s": (4, 1, 1)}
_SAME = "kernel_shape: ints = [3, 3], pads: ints = [1, 1, 1, 1]"
_POOL = f"AveragePool<{_SAME}>(input)"
_NORM: Weights = {"gamma": (4,), "beta": (4,), "mean": (4,), "var": (4,)}

_EXAMPLES = (
    Example("alone", graph(f"output = {_POOL}", {}), applied=1),
    Example("a Relu behind", graph(f"pool = {_POOL}\n output = Relu(pool)", {}), applied=1),
    Example(
        "the pool leaves the graph before the Relu",
        graph(f"pool = {_POOL}\n output = Relu(pool)", {}, outputs=("output", "pool")),
        applied=1,
    ),
    Example(
        "a Relu and something else behind",
        graph(f"pool = {_POOL}\n relu = Relu(pool)\n output = Add(pool, relu)", {}),
        applied=1,
    ),
    Example(
        "a stride, gaps, and other padding on each side",
        graph(
            """output = AveragePool<kernel_shape: ints = [2, 3], strides: ints = [2, 1],
                   dilations: ints = [2, 1], pads: ints = [1, 0, 0, 1]>(input)""",
            {},
        ),
        applied=1,
    ),
    Example(
        "as many pixels in every window",
        graph(f"output = {_POOL}", {}, shape="batch, 4, 2, 2"),
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
        "counting the padding",
        graph(f"output = {_POOL}".replace("3], pads", "3], count_include_pad: int = 1, pads"), {}),
        applied=0,
    ),
    Example(
        "no padding",
        graph("output = AveragePool<kernel_shape: ints = [3, 3]>(input)", {}),
        applied=0,
    ),
    Example("global", graph("output = GlobalAveragePool(input)", {}), applied=0),
    Example(
        "padding by name",
        graph(
            """output = AveragePool<kernel_shape: ints = [3, 3],
                   auto_pad: string = "SAME_UPPER">(input)""",
            {},
        ),
        applied=0,
        refused="its padding is SAME_UPPER",
    ),
    Example(
        "rounding up, a window over the edge",
        graph(
            f"output = AveragePool<{_SAME}, strides: ints = [2, 2], ceil_mode: int = 1>(input)", {}
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
        "one channel",
        graph(f"output = {_POOL}", {}, shape="batch, 1, 6, 6"),
        applied=0,
        refused="it has one channel",
    ),
    Example(
        "a size known at run time",
        graph(f"output = {_POOL}", {}, shape="batch, 4, height, 6"),
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

FUSIONS = (PoolEdges(),)
