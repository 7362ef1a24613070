"""Normalisation, rescaling and reordering of the input's channels go into the first convolutions.

Whatever nodes do it — x / 127.5 − 1, torchvision's `transform_input` (a Gather, Mul and Add per
channel and a Concat), a swap of RGB and BGR, a batch norm on the image — channel k of the result is

    y[k] = s[k] · x[i[k]] + t[k]

and a convolution of it

    (W * y + b)[o] = Σ_k W[o, k] · s[k] * x[i[k]] + b[o] + Σ_k t[k] Σ_uv W[o, k, u, v]
                   = (W' * x + b')[o]        with W'[o, j] = Σ_{k : i[k] = j} s[k] · W[o, k]

exactly where the convolution has no padding: a padded one sees zeros of y at the border, which are
no zeros of x. There, t stays, as one addition in front:

    y[k] = s[k] · (x[i[k]] + t[k] / s[k])

so that W' takes order and scale, for zeros stay zeros when scaled, and what is padded is x + a with
a[i[k]] = t[k] / s[k]. The first convolutions of Inception v3, v4, Inception-ResNet, Xception and
InceptionNeXt have no padding; GoogLeNet and BN-Inception pad by 3, aligned Xception by 1. W' and b'
are computed in float64 and rounded to float32 once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from inception_deploy.fusions._channels import ChannelMap, follow
from inception_deploy.fusions._examples import Weights, graph
from inception_deploy.fusions._linear import Float64Array, set_bias
from inception_deploy.fusions.base import Example, Fusion, Phase
from inception_deploy.graphs import (
    constant_values,
    fits_float32,
    fresh_name,
    is_op,
    is_output,
    replace_constant,
)
from inception_deploy.proof import FP32_BOUND

__all__ = ["FUSIONS", "InputScale"]


class InputScale(Fusion):
    """Folds what happens to the input's channels into the convolutions behind."""

    name = "input_scale"
    phase = Phase.FOLD
    bound = FP32_BOUND

    @property
    def examples(self) -> tuple[Example, ...]:
        return _EXAMPLES

    def match(self, graph: gs.Graph) -> Iterator[gs.Node]:
        """The last node of what can be folded: nothing behind it can be."""
        for node in graph.nodes:
            if len(node.outputs) != 1 or not _does_something(node.outputs[0]):
                continue
            if not any(map(_goes_on, node.outputs[0].outputs)):
                yield node

    def check(self, graph: gs.Graph, anchor: gs.Node) -> str | None:
        found, result = _found(anchor), anchor.outputs[0]
        if reason := _used_beside(graph, found, result):
            return reason
        if found.dropped or found.source.dtype != np.float32:
            return f"'{found.source.name}' is no float32 image"
        for user in result.outputs:
            if not is_op(user, "Conv") or any(t is result for t in user.inputs[1:]):
                return f"'{user.name}' ({user.op}) behind it is no convolution"
            if reason := _cannot_take(user, found):
                return reason
        if _stays(found, result):
            padded = next(filter(_pads, result.outputs))
            if found.in_order and len(found.nodes) == 1 and (found.scale == 1.0).all():
                return f"'{padded.name}' pads with zeros, which the shift does not reach"
            if _shift_before(found) is None:
                return f"'{padded.name}' pads with zeros, and no shift before the scale exists"
        for conv in result.outputs:
            if not all(map(fits_float32, _folded(conv, found, _stays(found, result)))):
                return f"the weights of '{conv.name}' do not fit into float32 then"
        return None

    def rewrite(self, graph: gs.Graph, anchor: gs.Node) -> str:
        found, result = _found(anchor), anchor.outputs[0]
        convs, stays = list(result.outputs), _stays(found, result)
        for conv in convs:
            weights, bias = _folded(conv, found, stays)
            replace_constant(conv, 1, weights)
            if found.shift.any() and not stays:
                set_bias(graph, conv, bias)
        names = ", ".join(f"'{conv.name}'" for conv in convs)
        if stays:
            shift = _shift_before(found)
            assert shift is not None, "check was not asked"
            values = shift.astype(np.float32).reshape(1, -1, 1, 1)
            constant = gs.Constant(fresh_name(graph, f"{anchor.name}.shift"), values)
            anchor.op, anchor.attrs, anchor.inputs = "Add", {}, [found.source, constant]
            result.shape = found.source.shape
            return f"order and scale into {names}; the shift stays in front of the padding"
        anchor.inputs.clear()
        anchor.outputs.clear()
        for conv in convs:
            conv.inputs[0] = found.source
        return f"into {names}"


def _found(anchor: gs.Node) -> ChannelMap:
    found = follow(anchor.outputs[0])
    assert found is not None, f"'{anchor.name}' is no anchor"
    return found


def _does_something(tensor: gs.Tensor) -> bool:
    found = follow(tensor)
    return found is not None and bool(found.nodes)


def _goes_on(node: gs.Node) -> bool:
    return any(_does_something(tensor) for tensor in node.outputs)


def _used_beside(graph: gs.Graph, found: ChannelMap, result: gs.Tensor) -> str | None:
    """Who needs a tensor that would be gone."""
    members = {id(node) for node in found.nodes}
    for tensor in (tensor for node in found.nodes for tensor in node.outputs):
        if is_output(graph, tensor):
            return f"'{tensor.name}' is an output of the graph or of a block"
        for user in tensor.outputs:
            if tensor is not result and id(user) not in members:
                return f"'{tensor.name}' is used by '{user.name}' too"
    return None


def _cannot_take(conv: gs.Node, found: ChannelMap) -> str | None:
    """Why the weights of `conv` cannot be changed as needed."""
    for tensor in conv.inputs[1:]:
        values = constant_values(tensor)
        if values is None and not tensor.is_empty():
            return f"'{tensor.name}' of '{conv.name}' is not constant"
        if values is not None and values.dtype != np.float32:
            return f"'{tensor.name}' of '{conv.name}' is {values.dtype}, not float32"
    sharers = [node for node in conv.inputs[1].outputs if node is not conv]
    if sharers:
        return f"the weights of '{conv.name}' are shared with '{sharers[0].name}'"
    if conv.attrs.get("group", 1) != 1 and not found.in_order:
        return f"'{conv.name}' has groups, which other channels would fall into"
    channels = int(found.source.shape[1])
    if channels > len(found.index):
        return f"'{conv.name}' sees {len(found.index)} channels of {channels}: it would grow"
    return None


def _pads(conv: gs.Node) -> bool:
    automatic = str(conv.attrs.get("auto_pad", "NOTSET")).startswith("SAME")
    return automatic or any(conv.attrs.get("pads", [0]))


def _stays(found: ChannelMap, result: gs.Tensor) -> bool:
    """Whether the shift cannot go into the convolutions."""
    return bool(found.shift.any()) and any(map(_pads, result.outputs))


def _shift_before(found: ChannelMap) -> Float64Array | None:
    """a of shape (C,) with s · (x + a) = s · x + t; None where there is none."""
    if not found.scale.all() or sorted(found.index) != list(range(int(found.source.shape[1]))):
        return None
    shift = np.empty(len(found.index))
    shift[found.index] = found.shift / found.scale
    return shift if fits_float32(shift) else None


def _folded(conv: gs.Node, found: ChannelMap, stays: bool) -> tuple[Float64Array, Float64Array]:
    """Weights and bias of the convolution on the source, in float64; may overflow to Inf."""
    weights = conv.inputs[1].values.astype(np.float64)
    group = conv.attrs.get("group", 1)
    # the weights of an output channel start at its group's first input channel
    starts = np.arange(len(weights)) // (len(weights) // group) * weights.shape[1]
    places = starts[:, None] + np.arange(weights.shape[1])
    shift = np.zeros_like(found.shift) if stays else found.shift
    sums = weights.reshape(*weights.shape[:2], -1).sum(2)
    bias = (sums * shift[places]).sum(1)
    if len(conv.inputs) > 2 and not conv.inputs[2].is_empty():
        bias = bias + conv.inputs[2].values
    scaled = weights * found.scale[places].reshape(*places.shape, *[1] * (weights.ndim - 2))
    if found.in_order:
        return scaled, bias
    gathered = np.zeros((len(weights), int(found.source.shape[1]), *weights.shape[2:]))
    for place, channel in enumerate(found.index):
        gathered[:, channel] += scaled[:, place]
    return gathered, bias


_WEIGHTS: Weights = {
    "W": (5, 3, 3, 3),
    "b": (5,),
    "V": (4, 3, 1, 1),
    "D": (6, 1, 3, 3),
    "N": (5, 9, 1, 1),
    "T": (5, 2, 3, 3),
    "half": np.array(0.5, np.float32),
    "one": np.array(1.0, np.float32),
    "mean": np.array([0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1),
    "std": np.array([0.229, 0.224, 0.225], np.float32).reshape(1, 3, 1, 1),
    "gains": np.array([0.458, 0.448, 0.45], np.float32).reshape(3, 1, 1),
    "dead": np.array([0.458, 0.0, 0.45], np.float32).reshape(3, 1, 1),
    "offsets": np.array([-0.03, -0.088, -0.188], np.float32).reshape(3, 1, 1),
    "huge": np.array(3e38, np.float32),
    "columns": np.linspace(0.5, 1.5, 8, dtype=np.float32),
    "bgr": np.array([2, 1, 0]),
    "zero": np.array(0),
    "first": np.array(1),
    "second": np.array(2),
    "grey": np.array([1, 1, 1]),
    "pair": np.array([0, 2]),
    "axis": np.array([1]),
    "last": np.array([-1]),
    "before": np.array([-(2**31)]),
    **dict.fromkeys(("gamma", "beta", "mu", "var"), (3,)),
}
_SHAPE = "batch, 3, 8, 8"
_CONV = "Conv(y, W, b)"
_PADDED = "Conv<pads: ints = [1, 1, 1, 1]>(y, W, b)"
_CENTRED = "c = Sub(input, mean)\n y = Div(c, std)"
_SWAPPED = "y = Gather<axis: int = 1>(input, bgr)"
_SPLIT = """r, g, v = Split<axis: int = 1, num_outputs: int = 3>(input)
            y = Concat<axis: int = 1>(v, g, r)"""
_REVERSED = "y = Slice(input, last, before, axis, last)"


def _transform_input() -> str:
    """torchvision's, as both of torch's exporters write it."""
    channels = [
        f"""picked{i} = Gather<axis: int = 1>(input, {name})
            lifted{i} = Unsqueeze(picked{i}, axis)
            scaled{i} = Mul(lifted{i}, half)
            ready{i} = Add(scaled{i}, one)"""
        for i, name in enumerate(("zero", "first", "second"))
    ]
    return "\n".join((*channels, "y = Concat<axis: int = 1>(ready0, ready1, ready2)"))


def _case(
    before: str, conv: str = _CONV, more: str = "", outputs: tuple[str, ...] = ("output",)
) -> Callable[[], onnx.ModelProto]:
    body = f"{before}\n output = {conv}\n{more}"
    return graph(body, _WEIGHTS, shape=_SHAPE, outputs=outputs)


_EXACT = {
    "centred and scaled": _case(_CENTRED),
    "0–1 to −1–1": _case("z = Div(input, half)\n y = Sub(z, one)", "Conv(y, W)"),
    "mirrored": _case("y = Sub(one, input)"),
    "scaled in front of padding": _case("y = Mul(half, input)", _PADDED),
    "BGR by Gather": _case(_SWAPPED, _PADDED),
    "BGR by Split and Concat": _case(_SPLIT, _PADDED),
    "BGR by Slice": _case(_REVERSED, _PADDED),
    "BGR and centred": _case(f"{_SWAPPED.replace('y =', 'x =')}\n y = Add(x, offsets)"),
    "transform_input": _case(_transform_input()),
    "one grey channel three times": _case("y = Gather<axis: int = 1>(input, grey)"),
    "a batch norm on the image": _case("y = BatchNormalization(input, gamma, beta, mu, var)"),
    "depthwise": _case("y = Add(input, mean)", "Conv<group: int = 3>(y, D)"),
    "two convolutions": _case(
        _CENTRED, more="other = Conv<strides: ints = [2, 2]>(y, V)", outputs=("output", "other")
    ),
    "the image thrice": _case(
        "z = Mul(input, half)\n y = Concat<axis: int = 1>(input, z, input)", "Conv(y, N)"
    ),
}
_LEFT_ALONE = {
    "nothing in front": _case("y = Relu(input)"),
    "scaled behind an activation": _case("x = Relu(input)\n y = Mul(x, half)"),
    "divided by the image": _case("y = Div(one, input)"),
    "one scale per column": _case("y = Mul(input, columns)"),
}
_REFUSED = {
    "the shift in front of padding": (
        _case("y = Sub(input, mean)", _PADDED),
        "'output' pads with zeros, which the shift does not reach",
    ),
    "a dead channel in front of padding": (
        _case("z = Mul(input, dead)\n y = Add(z, offsets)", _PADDED),
        "no shift before the scale exists",
    ),
    "the image is pooled first": (
        _case(_CENTRED, "MaxPool<kernel_shape: ints = [3, 3]>(y)"),
        "'output' (MaxPool) behind it is no convolution",
    ),
    "the normalised image leaves the graph": (
        _case(_CENTRED, outputs=("output", "y")),
        "'y' is an output of the graph or of a block",
    ),
    "the centred image is used elsewhere": (
        _case(_CENTRED, more="other = Relu(c)", outputs=("output", "other")),
        "'c' is used by 'other' too",
    ),
    "shared weights": (
        _case(_CENTRED, more="other = Conv(input, W)", outputs=("output", "other")),
        "the weights of 'output' are shared with 'other'",
    ),
    "weights computed at run time": (
        _case(f"{_CENTRED}\n U = Abs(W)", "Conv(y, U)"),
        "'U' of 'output' is not constant",
    ),
    "groups of swapped channels": (
        _case(_SWAPPED, "Conv<group: int = 3>(y, D)"),
        "'output' has groups",
    ),
    "two channels of three": (
        _case("y = Gather<axis: int = 1>(input, pair)", "Conv(y, T)"),
        "sees 2 channels of 3: it would grow",
    ),
    "weights beyond float32 after folding": (
        _case("y = Mul(input, huge)"),
        "do not fit into float32",
    ),
}

_EXAMPLES = (
    *(Example(name, build, applied=1) for name, build in _EXACT.items()),
    Example(
        "centred and scaled in front of padding: the shift stays",
        _case(_CENTRED, _PADDED),
        applied=1,
        refused="'output' pads with zeros, which the shift does not reach",
    ),
    Example(
        "transform_input in front of padding: the shift stays",
        _case(_transform_input(), _PADDED),
        applied=1,
        refused="'output' pads with zeros, which the shift does not reach",
    ),
    *(Example(name, build, applied=0) for name, build in _LEFT_ALONE.items()),
    *(Example(name, build, 0, reason) for name, (build, reason) in _REFUSED.items()),
    Example(
        "float64",
        graph(
            "y = Mul(input, two)\n output = Conv(y, W)",
            {"two": np.array(2.0), "W": np.ones((5, 3, 1, 1))},
            shape=_SHAPE,
            dtype="double",
        ),
        applied=0,
        refused="'input' is no float32 image",
    ),
)

FUSIONS = (InputScale(),)
