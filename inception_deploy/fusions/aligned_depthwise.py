"""Depthwise convolutions get as many channels as the engine's kernel computes at once.

Between two convolutions, a channel whose weights are all zero may be added: the convolution before
puts out C' − C channels more, whose rows are zero; the depthwise one in the middle keeps them zero;
and the one behind reads them through columns that are zero:

    W₂ * (D ∘ W₁) x  =  [W₂ 0] * (diag(D, 0) ∘ [W₁; 0]) x

so that every sum has C' − C terms 0 · 0 more, and is equal to the bit. Relu, which keeps zero, may
stand between them.

Kernels that compute L channels at once have a slower one for the rest. In ONNX Runtime's eight-bit
depthwise kernel for x86, L = 16 and the rest is computed one by one: on maps of 19×19, 728 channels
take 3.5 times as long as 736. Xception's middle flow has 728 throughout, and 2 % more
multiply-adds buy two thirds of its depthwise convolutions the faster way; the first one of each
block reads the sum of the block before, whose channels are the network's, and stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from inception_deploy.fusions._examples import Weights, graph
from inception_deploy.fusions._linear import (
    bias_of,
    constants_problem,
    set_bias,
    sharing_problem,
)
from inception_deploy.fusions.base import Example, Fusion, Phase
from inception_deploy.graphs import (
    absorb,
    is_op,
    is_output,
    producer,
    replace_constant,
    used_elsewhere,
)
from inception_deploy.proof import FP32_BOUND

__all__ = ["FUSIONS", "LANES", "AlignedDepthwise"]

LANES = 16
"""Channels that ONNX Runtime's eight-bit depthwise kernel computes at once; and the block of its
float layout on AVX-512."""


class AlignedDepthwise(Fusion):
    """Adds channels of zeros to a depthwise convolution, up to the next multiple of `LANES`."""

    name = "aligned_depthwise"
    phase = Phase.EXCHANGE
    bound = FP32_BOUND
    grows = "channels of zeros, which whole blocks of channels cost less with than single ones"

    @property
    def examples(self) -> tuple[Example, ...]:
        return _EXAMPLES

    def match(self, graph: gs.Graph) -> Iterator[gs.Node]:
        for node in graph.nodes:
            if _is_depthwise(node) and node.inputs[1].shape[0] % LANES:
                yield node

    def check(self, graph: gs.Graph, anchor: gs.Node) -> str | None:
        channels = anchor.inputs[1].shape[0]
        if channels < LANES:
            return f"it has {channels} channels, of which {LANES} would be too many more"
        if reason := constants_problem(anchor) or sharing_problem(anchor):
            return reason
        before, after = _before(graph, anchor), _after(graph, anchor)
        for end in (before, after):
            if isinstance(end, str):
                return end
            if not is_op(end, "Conv") or end.attrs.get("group", 1) != 1:
                return f"'{end.name}' ({end.op}) beside it mixes no channels"
            if reason := constants_problem(end) or sharing_problem(end):
                return reason
        return None

    def rewrite(self, graph: gs.Graph, anchor: gs.Node) -> str:
        before, after = _before(graph, anchor), _after(graph, anchor)
        assert isinstance(before, gs.Node), f"'{anchor.name}' is no anchor"
        assert isinstance(after, gs.Node), f"'{anchor.name}' is no anchor"
        channels = anchor.inputs[1].shape[0]
        more = -channels % LANES
        same = gs.Node("Conv", anchor.name, dict(anchor.attrs), list(anchor.inputs))
        same.attrs["group"] = channels + more
        graph.nodes.insert(graph.nodes.index(anchor), same)
        absorb(same, anchor)
        for node in (before, same):
            _extend(graph, node, axis=0, more=more)
        _extend(graph, after, axis=1, more=more)
        for end in (same, after):
            tensor = end.inputs[0]
            while (writer := producer(tensor)) is not None:
                tensor.shape = [tensor.shape[0], channels + more, *tensor.shape[2:]]
                if not is_op(writer, "Relu"):
                    break
                tensor = writer.inputs[0]
        return f"{channels} channels and {more} of zeros, from '{before.name}' to '{after.name}'"


def _is_depthwise(node: gs.Node) -> bool:
    """One filter per channel, and weights of known shape."""
    if not is_op(node, "Conv") or node.inputs[1].shape is None:
        return False
    channels, each = node.inputs[1].shape[:2]
    return bool(each == 1 and node.attrs.get("group", 1) == channels > 1)


def _before(graph: gs.Graph, conv: gs.Node) -> gs.Node | str:
    """The node that computes what `conv` reads, Relu aside; or why nothing can be added there."""
    node, tensor = conv, conv.inputs[0]
    while True:
        if reason := used_elsewhere(graph, tensor, node):
            return f"'{tensor.name}' {reason}"
        writer = producer(tensor)
        if writer is None:
            return f"'{tensor.name}' is the input"
        if not is_op(writer, "Relu"):
            return writer
        node, tensor = writer, writer.inputs[0]


def _after(graph: gs.Graph, conv: gs.Node) -> gs.Node | str:
    """The node that alone reads the output of `conv`, Relu aside; or why there is none."""
    tensor = conv.outputs[0]
    while True:
        if is_output(graph, tensor) or not tensor.outputs:
            return f"'{tensor.name}' is an output of the graph"
        user: gs.Node = tensor.outputs[0]
        if reason := used_elsewhere(graph, tensor, user):
            return f"'{tensor.name}' {reason}"
        if not is_op(user, "Relu"):
            return user
        tensor = user.outputs[0]


def _extend(graph: gs.Graph, conv: gs.Node, *, axis: int, more: int) -> None:
    """Weights with zeros appended along `axis`; the bias, where there is one, follows the rows."""
    weights = conv.inputs[1].values
    pads = [(0, 0)] * weights.ndim
    pads[axis] = (0, more)
    if axis == 0 and len(conv.inputs) > 2:
        set_bias(graph, conv, np.pad(bias_of(conv, len(weights)), (0, more)))
    replace_constant(conv, 1, np.pad(weights, pads))


_WEIGHTS: Weights = {
    **{"U": (18, 4, 1, 1), "u": (18,), "D": (18, 1, 3, 3), "d": (18,), "V": (2, 18, 1, 1)},
    **{"E": (18, 1, 3, 3), "W": (18, 18, 1, 1), "v": (2,)},
}
_DEPTHWISE = "Conv<group: int = 18, pads: ints = [1, 1, 1, 1]>"
_SEPARABLE = f"""up = Conv(input, U, u)
                 up_relu = Relu(up)
                 deep = {_DEPTHWISE}(up_relu, D)
                 output = Conv(deep, V, v)"""

_EXAMPLES = (
    Example("a Relu before", graph(_SEPARABLE, _WEIGHTS), applied=1),
    Example(
        "a bias of its own, a Relu behind",
        graph(
            f"""up = Conv(input, U)
                deep = {_DEPTHWISE}(up, D, d)
                deep_relu = Relu(deep)
                output = Conv(deep_relu, V)""",
            _WEIGHTS,
        ),
        applied=1,
    ),
    Example(
        "two in a row",
        graph(
            f"""up = Conv(input, U, u)
                deep = {_DEPTHWISE}(up, D)
                point = Conv(deep, W, u)
                point_relu = Relu(point)
                deeper = {_DEPTHWISE}(point_relu, E, d)
                output = Conv(deeper, V, v)""",
            _WEIGHTS,
        ),
        applied=2,
    ),
    Example(
        "wider kernels before and behind",
        graph(
            f"""up = Conv(input, A)
                deep = {_DEPTHWISE}(up, D)
                output = Conv(deep, B)""",
            {**_WEIGHTS, "A": (18, 4, 3, 3), "B": (2, 18, 3, 3)},
        ),
        applied=1,
    ),
    Example(
        "a multiple already",
        graph(
            """up = Conv(input, U)
               deep = Conv<group: int = 16>(up, D)
               output = Conv(deep, V)""",
            {"U": (16, 4, 1, 1), "D": (16, 1, 3, 3), "V": (2, 16, 1, 1)},
        ),
        applied=0,
    ),
    Example(
        "few channels",
        graph(
            """up = Conv(input, U)
               deep = Conv<group: int = 12>(up, D)
               output = Conv(deep, V)""",
            {"U": (12, 4, 1, 1), "D": (12, 1, 3, 3), "V": (2, 12, 1, 1)},
        ),
        applied=0,
        refused="it has 12 channels",
    ),
    Example(
        "not depthwise",
        graph("up = Conv(input, U)\n output = Conv(up, V)", _WEIGHTS),
        applied=0,
    ),
    Example(
        "on the input",
        graph(
            "deep = Conv<group: int = 18>(input, D)\n output = Conv(deep, V)",
            _WEIGHTS,
            shape="batch, 18, 6, 6",
        ),
        applied=0,
        refused="'input' is the input",
    ),
    Example(
        "behind a sum",
        graph(
            f"""up = Conv(input, U)
                sum = Add(up, up)
                deep = {_DEPTHWISE}(sum, D)
                output = Conv(deep, V)""",
            _WEIGHTS,
        ),
        applied=0,
        refused="'sum' (Add) beside it mixes no channels",
    ),
    Example(
        "what it reads has another reader",
        graph(
            f"""up = Conv(input, U)
                deep = {_DEPTHWISE}(up, D)
                sum = Add(up, deep)
                output = Conv(sum, V)""",
            _WEIGHTS,
        ),
        applied=0,
        refused="'up' is used by 'sum' too",
    ),
    Example(
        "two readers",
        graph(
            f"""up = Conv(input, U)
                deep = {_DEPTHWISE}(up, D)
                left = Conv(deep, V)
                right = Conv(deep, V)
                output = Add(left, right)""",
            _WEIGHTS,
        ),
        applied=0,
        refused="'deep' is used by 'right' too",
    ),
    Example(
        "its output leaves the graph",
        graph(_SEPARABLE, _WEIGHTS, outputs=("output", "deep")),
        applied=0,
        refused="'deep' is an output of the graph",
    ),
    Example(
        "what it reads leaves the graph",
        graph(_SEPARABLE, _WEIGHTS, outputs=("output", "up_relu")),
        applied=0,
        refused="'up_relu' is an output of the graph",
    ),
    Example(
        "shared weights behind",
        graph(
            f"""up = Conv(input, U)
                deep = {_DEPTHWISE}(up, D)
                left = Conv(deep, V)
                other = Conv(input, U2)
                right = Conv(other, V)
                output = Add(left, right)""",
            {**_WEIGHTS, "U2": (18, 4, 1, 1)},
        ),
        applied=0,
        refused="the weights of 'left' are shared with",
    ),
    Example(
        "weights computed at run time",
        graph(
            f"""up = Conv(input, U)
                turned = Neg(D)
                deep = {_DEPTHWISE}(up, turned)
                output = Conv(deep, V)""",
            _WEIGHTS,
        ),
        applied=0,
        refused="is not constant",
    ),
    Example(
        "float64",
        graph(_SEPARABLE, {k: np.ones(s) for k, s in _WEIGHTS.items()}, dtype="double"),
        applied=0,
        refused="is float64, not float32",
    ),
)

FUSIONS = (AlignedDepthwise(),)
