"""Random small graphs of the family's operators, drawn by hypothesis, for tests of rewrites."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx
from hypothesis import strategies as st
from numpy.typing import NDArray

__all__ = ["BATCH", "CHANNELS", "SIDE", "Builder", "models"]

CHANNELS, SIDE, BATCH = 4, 7, 2
"""Of the input."""

Image: TypeAlias = tuple[int, int, int]
"""(channels, height, width)"""


@dataclass
class Builder:
    """A graph under construction; every drawn step appends nodes and returns a new tensor."""

    draw: st.DrawFn
    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, NDArray[Any]] = field(default_factory=dict)
    shapes: dict[str, Image] = field(default_factory=dict)
    filters: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def node(
        self, operator: str, *inputs: str, shape: Image | None = None, **attributes: Any
    ) -> str:
        """Append a node; its output has the shape of the first input unless told otherwise."""
        name = f"{operator}_{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(operator, inputs, [name], name, **attributes))
        self.shapes[name] = shape or next(self.shapes[i] for i in inputs if i in self.shapes)
        return name

    def weight(self, shape: tuple[int, ...], low: float = -1.0, high: float = 1.0) -> str:
        """Weights from a uniform distribution."""
        return self.constant(self.rng.uniform(low, high, shape).astype(np.float32))

    def constant(self, values: Any) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights[name] = np.asarray(values)
        return name

    def one_of(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def like(self, source: str) -> str:
        """Any tensor of the same shape."""
        alike = [name for name, shape in self.shapes.items() if shape == self.shapes[source]]
        return str(self.one_of(*alike))

    def model(self, outputs: list[str]) -> onnx.ModelProto:
        value = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph(
            self.nodes,
            "drawn",
            [value("input", onnx.TensorProto.FLOAT, ["batch", CHANNELS, SIDE, SIDE])],
            [onnx.ValueInfoProto(name=name) for name in outputs],
            [onnx.numpy_helper.from_array(v, name) for name, v in self.weights.items()],
        )
        for output in graph.output:
            output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        opsets = [onnx.helper.make_opsetid("", 20)]
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        for output in model.graph.output:
            output.type.tensor_type.shape.dim[0].dim_param = "batch"  # not known behind a Reshape
        return model


@st.composite
def models(draw: st.DrawFn) -> onnx.ModelProto:
    """Convolutions, batch norms, scaled sums, pools, concatenations, splits, LRN and heads.

    Half of the steps follow a pattern that fusions look for. A step takes the latest tensor or
    any other, so outputs are shared, scaled twice, summed with themselves, or left dangling;
    filters are reused now and then; an inner tensor may leave the graph.
    """
    build = Builder(draw, np.random.default_rng(draw(st.integers(0, 2**32 - 1))))
    build.shapes["input"] = (CHANNELS, SIDE, SIDE)
    latest = _normalised(build) if draw(st.integers(0, 3)) == 0 else "input"
    pattern = draw(st.sampled_from(PATTERNS))
    for index in range(draw(st.integers(2, 8))):
        step = pattern[index % len(pattern)] if draw(st.booleans()) else build.one_of(*STEPS)
        others = draw(st.integers(0, 3)) == 0
        latest = step(build, build.one_of(*build.shapes) if others else latest)
    images = [name for name in build.shapes if name != "input"]
    leaving = {latest, *draw(st.lists(st.sampled_from(images), max_size=1))} - {"input"}
    if draw(st.integers(0, 2)) == 0:
        leaving = {_head(build, latest), *(leaving - {latest})}
    return build.model(sorted(leaving))


def _convolution(build: Builder, source: str) -> str:
    channels = build.shapes[source][0]
    kernels = [(1, 1), (1, 1), (1, 3), (3, 1), (3, 3), (2, 2)]
    known = [(w, a) for w, a in build.filters if build.weights[w].shape[1] * a["group"] == channels]
    if known and build.draw(st.integers(0, 4)) == 0:
        weights, attributes = build.one_of(*known)
    else:
        group = build.one_of(*(g for g in (1, 1, 2, channels) if channels % g == 0))
        kernel = build.one_of(*kernels)
        makes = group * build.one_of(*(n for n in (1, 2, 3, 5) if n * group <= 6 or n == 1))
        pads = [k // 2 for k in kernel] * 2 if build.draw(st.booleans()) else [0] * 4
        attributes = {"group": group, "pads": pads, "strides": [build.one_of(1, 1, 1, 2)] * 2}
        weights = build.weight((makes, channels // group, *kernel))
        build.filters.append((weights, attributes))
    makes, _, *kernel = build.weights[weights].shape
    shape = _window(source, build, kernel, attributes["pads"], attributes["strides"])
    if min(shape) < 1:
        return build.node("Relu", source)
    bias = [build.weight((makes,))] if build.draw(st.booleans()) else []
    return build.node("Conv", source, weights, *bias, shape=(makes, *shape), **attributes)


def _window(
    source: str, build: Builder, kernel: Any, pads: list[int], strides: list[int]
) -> tuple[int, int]:
    """(height, width) behind a window."""
    _, *sides = build.shapes[source]
    height, width = (
        (side + pads[axis] + pads[axis + 2] - kernel[axis]) // strides[axis] + 1
        for axis, side in enumerate(sides)
    )
    return height, width


def _pointwise(build: Builder, source: str, channels: int | None = None) -> str:
    makes = channels or build.one_of(1, 2, 3, 6)
    weights = build.weight((makes, build.shapes[source][0], 1, 1))
    bias = [build.weight((makes,))] if build.draw(st.booleans()) else []
    shape = (makes, *build.shapes[source][1:])
    return build.node("Conv", source, weights, *bias, shape=shape)


def _batch_norm(build: Builder, source: str) -> str:
    channels = build.shapes[source][0]
    parameters = [build.weight((channels,)) for _ in range(3)]
    variance = build.weight((channels,), 0.3, 2.0)
    epsilon = build.one_of(1e-5, 1e-3)
    return build.node("BatchNormalization", source, *parameters, variance, epsilon=epsilon)


def _scaled(build: Builder, source: str) -> str:
    """A scalar, one factor per channel, or one per column, which cannot be folded."""
    channels, _, width = build.shapes[source]
    shape = build.one_of((), (1,), (channels, 1, 1), (1, channels, 1, 1), (width,))
    scale = build.weight(shape, 0.5, 1.5)
    if build.draw(st.integers(0, 4)) == 0:
        build.weights[scale] = np.ones_like(build.weights[scale])
    operator = build.one_of("Mul", "Div")
    swap = operator == "Mul" and build.draw(st.booleans())
    return build.node(operator, *((scale, source) if swap else (source, scale)))


def _sum(build: Builder, source: str) -> str:
    return build.node("Add", build.like(source), _scaled(build, source))


def _add(build: Builder, source: str) -> str:
    return build.node("Add", source, build.like(source))


def _relu(build: Builder, source: str) -> str:
    return build.node("Relu", source)


def _concat(build: Builder, *sources: str) -> str:
    channels = sum(build.shapes[source][0] for source in sources)
    shape = (channels, *build.shapes[sources[0]][1:])
    return build.node("Concat", *sources, shape=shape, axis=1)


def _joined(build: Builder, source: str) -> str:
    """With another map of the same size, or itself; narrow again behind, as often as not."""
    size = build.shapes[source][1:]
    others = [name for name, shape in build.shapes.items() if shape[1:] == size]
    joined = _concat(build, source, build.one_of(*others))
    return _pointwise(build, joined) if build.draw(st.booleans()) else joined


def _pool(build: Builder, source: str) -> str:
    channels, *sides = build.shapes[source]
    operator = build.one_of("AveragePool", "MaxPool")
    if min(sides) >= 3 and build.draw(st.integers(0, 3)) == 0:
        shape = (channels, *_window(source, build, (3, 3), [0] * 4, [2, 2]))
        return build.node(operator, source, shape=shape, kernel_shape=[3, 3], strides=[2, 2])
    counted = {"count_include_pad": build.one_of(0, 1)} if operator == "AveragePool" else {}
    return build.node(operator, source, kernel_shape=[3, 3], pads=[1, 1, 1, 1], **counted)


def _projected(build: Builder, source: str) -> str:
    return _pointwise(build, _pool(build, source))


def _siblings(build: Builder, source: str) -> str:
    """Branches of one input, side by side, as an Inception block has them."""
    branches = []
    for kind in build.draw(st.lists(st.sampled_from("1sp"), min_size=2, max_size=3)):
        branch = (
            source
            if kind != "p"
            else build.node(
                "AveragePool",
                source,
                kernel_shape=[3, 3],
                pads=[1] * 4,
                count_include_pad=build.one_of(0, 1),
            )
        )
        branch = _pointwise(build, branch, build.one_of(1, 2, 3))
        branch = build.node("Relu", branch) if build.draw(st.integers(0, 2)) else branch
        branches.append(_pointwise(build, branch, 2) if kind == "s" else branch)
    return _concat(build, *branches)


def _split(build: Builder, source: str) -> str:
    """Halves, one of them through a convolution, as in InceptionNeXt's mixer."""
    channels, *size = build.shapes[source]
    if channels < 2:
        return build.node("Relu", source)
    names = [f"half_{len(build.nodes)}_{index}" for index in range(2)]
    parts = [channels // 2, channels - channels // 2]
    sizes = build.constant(np.array(parts))
    build.nodes.append(onnx.helper.make_node("Split", [source, sizes], names, names[0], axis=1))
    for name, part in zip(names, parts, strict=True):
        build.shapes[name] = (part, size[0], size[1])
    changed = build.one_of(_relu, _pointwise, _pool, lambda _, x: x)(build, names[1])
    if build.shapes[changed][1:] != tuple(size):
        return str(changed)
    return _concat(build, names[0], changed)


def _lrn(build: Builder, source: str) -> str:
    """The native node, or the nodes of dynamo's."""
    numbers = {"alpha": 0.5, "beta": 0.75, "bias": 2.0}
    if build.draw(st.booleans()):
        return build.node("LRN", source, size=3, **numbers)
    channels, height, width = build.shapes[source]
    square = build.node("Mul", source, source)
    lifted = build.constant(np.array([-1, 1, channels, height, width]))
    pads = build.constant(np.array([0, 0, 1, 0, 0, 0, 0, 1, 0, 0]))
    inner = (0, 0, 0)  # no image: nothing else takes these
    view = build.node("Reshape", square, lifted, shape=inner)
    padded = build.node("Pad", view, pads, shape=inner)
    pool = build.node("AveragePool", padded, shape=inner, kernel_shape=[3, 1, 1])
    axis = build.constant(np.array([1]))
    mean = build.node("Squeeze", pool, axis, shape=build.shapes[source])
    for name in (view, padded, pool):
        del build.shapes[name]
    for operator, number in (("Mul", 0.5), ("Add", 2.0), ("Pow", 0.75)):
        mean = build.node(operator, mean, build.constant(np.float32(number)))
    return build.node("Div", source, mean)


def _nothing(build: Builder, source: str) -> str:
    """What computes nothing."""
    kind = build.one_of("Identity", "Dropout", "Mul", "Add", "Reshape", "Slice")
    if kind == "Slice":  # the map cut to its own height, asked for at run time
        height = _measured(build, source, 2)
        starts, axes = build.constant(np.array([0])), build.constant(np.array([2]))
        return build.node("Slice", source, starts, height, axes)
    if kind in ("Identity", "Dropout"):
        return build.node(kind, source)
    value = np.array([0, *build.shapes[source]]) if kind == "Reshape" else np.float32(kind == "Mul")
    return build.node(kind, source, build.constant(value))


def _measured(build: Builder, source: str, axis: int) -> str:
    """The extent of an axis, as a tensor of one integer; not among the images."""
    name = build.node("Shape", source, start=axis, end=axis + 1)
    del build.shapes[name]
    return name


def _normalised(build: Builder) -> str:
    """Scale, shift and order of the input's channels."""
    tensor = "input"
    for kind in build.draw(
        st.lists(st.sampled_from(["Mul", "Sub", "Add", "Gather"]), min_size=1, max_size=3)
    ):
        if kind == "Gather":
            order = build.constant(np.arange(CHANNELS)[::-1].copy())
            tensor = build.node("Gather", tensor, order, axis=1)
        else:
            values = build.weight(build.one_of((), (1, CHANNELS, 1, 1)), 0.5, 1.5)
            tensor = build.node(kind, tensor, values)
    return tensor


def _head(build: Builder, source: str) -> str:
    """A mean over the map, two axes, and a linear layer, in words of several exporters."""
    channels, height, width = build.shapes[source]
    flat, point = (channels, 0, 0), (channels, 1, 1)
    kind = build.one_of("ReduceMean", "dropped", "AveragePool", "GlobalAveragePool", "none")
    if kind in ("ReduceMean", "dropped"):
        axes = build.constant(np.array([2, 3]))
        keep = int(kind == "ReduceMean")
        tensor = build.node(
            "ReduceMean", source, axes, shape=point if keep else flat, keepdims=keep
        )
    elif kind == "none":
        tensor, point = source, (channels * height * width, 1, 1)
    else:
        window = {"kernel_shape": [height, width]} if kind == "AveragePool" else {}
        tensor = build.node(kind, source, shape=point, **window)
    features = point[0]
    if kind in ("ReduceMean", "AveragePool", "GlobalAveragePool") and build.draw(st.booleans()):
        tensor, features = _pointwise(build, tensor, 3), 3
    if kind != "dropped":
        ways = ("Flatten", "Reshape", "view", *(["Squeeze"] if kind != "none" else []))
        tensor = _flat(build, tensor, features, build.one_of(*ways))
    linear = build.one_of("none", "Gemm", "transposed", "MatMul")
    if linear == "none":
        return tensor
    build.shapes[tensor] = (3, 0, 0)
    if linear == "MatMul":
        tensor = build.node("MatMul", tensor, build.weight((features, 3)))
        tensor = build.node("Add", tensor, build.weight((3,)))
    else:
        across = int(linear == "transposed")
        weights = build.weight((3, features) if across else (features, 3))
        tensor = build.node("Gemm", tensor, weights, build.weight((3,)), transB=across)
    return _batch_norm(build, tensor) if build.draw(st.booleans()) else tensor


def _flat(build: Builder, source: str, features: int, way: str) -> str:
    """(N, C · H · W), with a target that is constant, or computed: PyTorch's `view(n, -1)`."""
    shape = (features, 0, 0)
    if way == "view":
        batch, rest = _measured(build, source, 0), build.constant(np.array([-1]))
        target = build.node("Concat", batch, rest, shape=shape, axis=0)
        del build.shapes[target]
        return build.node("Reshape", source, target, shape=shape)
    constant = {"Reshape": [0, -1], "Squeeze": [2, 3]}.get(way)
    more = [] if constant is None else [build.constant(np.array(constant))]
    return build.node(way, source, *more, shape=shape)


Step: TypeAlias = Callable[[Builder, str], str]

STEPS: tuple[Step, ...] = (
    *(_convolution, _pointwise, _batch_norm, _sum, _scaled, _relu, _add, _joined),
    *(_pool, _projected, _siblings, _split, _lrn, _nothing),
)
PATTERNS: tuple[tuple[Step, ...], ...] = (
    (_convolution, _batch_norm, _sum),
    (_siblings, _joined),
    (_batch_norm, _pointwise, _relu),
    (_projected, _relu),
    (_pointwise, _convolution),
    (_split, _batch_norm, _pointwise, _scaled),
    (_convolution, _lrn, _nothing),
)
