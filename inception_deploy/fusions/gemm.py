"""Every linear layer is one `Gemm` with transB = 1, its weight (K, C) as in the state dict.

For x of shape (N, C)

    MatMul(x, V)           = Gemm(x, Vᵀ; transB = 1)              `matmul_gemm`
    Gemm(x, V, c; α, β)    = Gemm(x, αVᵀ, βc; transB = 1)         `gemm_form`
    Gemm(x, W, c; β) + d   = Gemm(x, W, βc + d)                   `gemm_bias`

A transposed matrix holds the same numbers. α, β and sums of biases are worked out in float64 and
rounded to float32 once. d may be one number, or one per output; a Gemm without c has c = 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from inception_deploy.fusions._examples import Weights, graph
from inception_deploy.fusions._shapes import extents
from inception_deploy.fusions.base import Example, Fusion, Phase
from inception_deploy.graphs import (
    absorb,
    constant_values,
    fits_float32,
    fresh_name,
    is_constant,
    is_op,
    producer,
    replace_constant,
    used_elsewhere,
)
from inception_deploy.proof import FP32_BOUND

__all__ = ["FUSIONS", "GemmBias", "GemmForm", "MatMulGemm"]

Float64Array: TypeAlias = NDArray[np.float64]


class MatMulGemm(Fusion):
    """Turns the product of (N, C) with a constant matrix into a `Gemm`."""

    name = "matmul_gemm"
    phase = Phase.CANONICAL
    bound = FP32_BOUND

    @property
    def examples(self) -> tuple[Example, ...]:
        return _MATMUL_EXAMPLES

    def match(self, graph: gs.Graph) -> Iterator[gs.Node]:
        for node in graph.nodes:
            if is_op(node, "MatMul") and is_constant(node.inputs[1]):
                yield node

    def check(self, graph: gs.Graph, anchor: gs.Node) -> str | None:
        source, weight = anchor.inputs
        if len(extents(source) or ()) != 2 or weight.values.ndim != 2:
            return f"'{source.name}' {extents(source)} times {weight.shape} is no linear layer"
        return _shared(anchor, weight)

    def rewrite(self, graph: gs.Graph, anchor: gs.Node) -> str:
        replace_constant(anchor, 1, anchor.inputs[1].values.T)
        anchor.op, anchor.attrs = "Gemm", {"transB": 1}
        return "from MatMul"


class GemmForm(Fusion):
    """Gives a `Gemm` its weight as (K, C), and no factors."""

    name = "gemm_form"
    phase = Phase.CANONICAL
    bound = FP32_BOUND

    @property
    def examples(self) -> tuple[Example, ...]:
        return _FORM_EXAMPLES

    def match(self, graph: gs.Graph) -> Iterator[gs.Node]:
        for node in graph.nodes:
            if is_op(node, "Gemm") and not (
                node.attrs.get("transB", 0) and _factors(node) == (1.0, 1.0)
            ):
                yield node

    def check(self, graph: gs.Graph, anchor: gs.Node) -> str | None:
        for tensor, factor in zip(anchor.inputs[1:], _factors(anchor), strict=False):
            values = constant_values(tensor)
            if values is None:
                return f"'{tensor.name}' is not constant"
            if factor == 1.0 and tensor is not anchor.inputs[1]:
                continue
            if factor != 1.0 and values.dtype != np.float32:
                return f"'{tensor.name}' is {values.dtype}, not float32"
            if reason := _shared(anchor, tensor):
                return reason
            if not fits_float32(_times(values, factor)):
                return f"'{tensor.name}' does not fit into float32 after scaling"
        return None

    def rewrite(self, graph: gs.Graph, anchor: gs.Node) -> str:
        details = []
        for index, factor in zip(range(1, len(anchor.inputs)), _factors(anchor), strict=False):
            if factor != 1.0:
                replace_constant(anchor, index, _times(anchor.inputs[index].values, factor))
                details.append(f"factor {factor:.6g} into '{anchor.inputs[index].name}'")
        if not anchor.attrs.get("transB", 0):
            replace_constant(anchor, 1, anchor.inputs[1].values.T)
            details.append("weight transposed")
        kept = {k: v for k, v in anchor.attrs.items() if k not in ("alpha", "beta", "transB")}
        anchor.attrs = {**kept, "transB": 1}
        return ", ".join(details)


class GemmBias(Fusion):
    """Takes a constant `Add` behind a `Gemm` into its bias."""

    name = "gemm_bias"
    phase = Phase.CANONICAL
    bound = FP32_BOUND

    @property
    def examples(self) -> tuple[Example, ...]:
        return _BIAS_EXAMPLES

    def match(self, graph: gs.Graph) -> Iterator[gs.Node]:
        for node in graph.nodes:
            if is_op(node, "Add") and _gemm(node) is not None:
                yield node

    def check(self, graph: gs.Graph, anchor: gs.Node) -> str | None:
        gemm, bias = _parts(anchor)
        if reason := used_elsewhere(graph, gemm.outputs[0], anchor):
            return f"the output of '{gemm.name}' {reason}"
        values = bias.values
        if values.dtype != np.float32:
            return f"the bias '{bias.name}' is {values.dtype}, not float32"
        outputs = _outputs(gemm)
        if outputs is None:
            return f"the weight of '{gemm.name}' is not constant"
        if not _per_output(values, outputs):
            return f"'{bias.name}' {values.shape} is not one bias per output"
        if _biased(gemm):
            before = constant_values(gemm.inputs[2])
            if before is None:
                return f"the bias '{gemm.inputs[2].name}' of '{gemm.name}' is not constant"
            if not _per_output(before, outputs):
                return f"'{gemm.inputs[2].name}' {before.shape} is not one bias per output"
        if not fits_float32(_sum(anchor)):
            return "the sum of the biases does not fit into float32"
        return None

    def rewrite(self, graph: gs.Graph, anchor: gs.Node) -> str:
        gemm, bias = _parts(anchor)
        total = _sum(anchor).astype(np.float32)
        if _biased(gemm):
            name = gemm.inputs[2].name
            gemm.inputs[2] = gs.Constant(fresh_name(graph, f"{name}.sum"), total)
        else:
            alone = len(bias.outputs) == 1 and total.shape == bias.values.shape
            name = bias.name if alone else fresh_name(graph, f"{gemm.name}.bias")
            gemm.inputs = [*gemm.inputs[:2], gs.Constant(name, total)]
        gemm.attrs.pop("beta", None)
        absorb(gemm, anchor)
        return f"into '{gemm.name}'"


def _shared(node: gs.Node, tensor: gs.Tensor) -> str | None:
    others = [user for user in tensor.outputs if user is not node]
    return f"'{tensor.name}' is shared with '{others[0].name}'" if others else None


def _factors(gemm: gs.Node) -> tuple[float, float]:
    """α and β; β is 1 where there is nothing to scale."""
    beta = gemm.attrs.get("beta", 1.0) if _biased(gemm) else 1.0
    return float(gemm.attrs.get("alpha", 1.0)), float(beta)


def _biased(gemm: gs.Node) -> bool:
    return len(gemm.inputs) > 2 and not gemm.inputs[2].is_empty()


def _times(values: NDArray[np.float32], factor: float) -> Float64Array:
    return np.asarray(values.astype(np.float64) * factor)


def _gemm(add: gs.Node) -> int | None:
    """Which input of an `Add` comes from a `Gemm`, the other being constant."""
    for index in (0, 1):
        before = producer(add.inputs[index])
        other = constant_values(add.inputs[1 - index])
        if before is not None and other is not None and is_op(before, "Gemm"):
            return index
    return None


def _parts(add: gs.Node) -> tuple[gs.Node, gs.Constant]:
    index = _gemm(add)
    assert index is not None, f"'{add.name}' is no anchor"
    return add.inputs[index].inputs[0], add.inputs[1 - index]


def _outputs(gemm: gs.Node) -> int | None:
    """K, the number of outputs."""
    weight = gemm.inputs[1]
    last = 0 if gemm.attrs.get("transB", 0) else 1
    return int(weight.shape[last]) if is_constant(weight) else None


def _per_output(bias: NDArray[np.float32], outputs: int) -> bool:
    """Whether `bias` is one number, or one along the last of at most two axes for each output."""
    last = bias.shape[-1] if bias.ndim else 1
    return bias.ndim <= 2 and bias.size == last and last in (1, outputs)


def _sum(add: gs.Node) -> Float64Array:
    """βc + d, one for each output, in float64."""
    gemm, bias = _parts(add)
    total = np.broadcast_to(bias.values.astype(np.float64).reshape(-1), (_outputs(gemm) or 0,))
    if _biased(gemm):
        _, beta = _factors(gemm)
        total = total + _times(gemm.inputs[2].values.reshape(-1), beta)
    return np.array(total)


_LINEAR: Weights = {"V": (4, 5), "W": (5, 4), "d": (5,), "c": (5,), "one": (1, 1), "rows": (3, 1)}
_X = "batch, 4"

_MATMUL_EXAMPLES = (
    Example("a linear layer", graph("output = MatMul(input, V)", _LINEAR, shape=_X), applied=1),
    Example(
        "with a bias behind",
        graph("product = MatMul(input, V)\n output = Add(product, d)", _LINEAR, shape=_X),
        applied=1,
    ),
    Example(
        "two in a row",
        graph(
            "hidden = MatMul(input, V)\n active = Relu(hidden)\n output = MatMul(active, W)",
            _LINEAR,
            shape=_X,
        ),
        applied=2,
    ),
    Example(
        "a product of two activations",
        graph("left = Relu(input)\n output = MatMul(left, input)", {}, shape="batch, 3, 3"),
        applied=0,
    ),
    Example(
        "the last axis of a map",
        graph("output = MatMul(input, U)", {"U": (6, 5)}),
        applied=0,
        refused="is no linear layer",
    ),
    Example(
        "shared weights",
        graph(
            """left = MatMul(input, square)
               right = Relu(left)
               output = MatMul(right, square)""",
            {"square": (4, 4)},
            shape=_X,
        ),
        applied=0,
        refused="'square' is shared with",
    ),
)

_FORM_EXAMPLES = (
    Example("a weight (C, K)", graph("output = Gemm(input, V, c)", _LINEAR, shape=_X), applied=1),
    Example(
        "factors",
        graph(
            "output = Gemm<alpha: float = 0.5, beta: float = 3.0, transB: int = 1>(input, W, c)",
            _LINEAR,
            shape=_X,
        ),
        applied=1,
    ),
    Example(
        "a factor and a weight (C, K), without bias",
        graph("output = Gemm<alpha: float = 2.0, beta: float = 7.0>(input, V)", _LINEAR, shape=_X),
        applied=1,
    ),
    Example(
        "a bias that others use, unscaled",
        graph(
            "product = Gemm(input, V, c)\n output = Add(product, c)",
            _LINEAR,
            shape=_X,
        ),
        applied=1,
    ),
    Example(
        "in form already",
        graph("output = Gemm<transB: int = 1>(input, W, c)", _LINEAR, shape=_X),
        applied=0,
    ),
    Example(
        "a factor for shared weights",
        graph(
            """left = Gemm<transB: int = 1>(input, W)
               right = Gemm<transB: int = 1, alpha: float = 2.0>(input, W)
               output = Add(left, right)""",
            _LINEAR,
            shape=_X,
        ),
        applied=0,
        refused="'W' is shared with 'left'",
    ),
    Example(
        "a factor for a shared bias",
        graph(
            """product = Gemm<transB: int = 1, beta: float = 2.0>(input, W, c)
               output = Add(product, c)""",
            _LINEAR,
            shape=_X,
        ),
        applied=0,
        refused="'c' is shared with 'output'",
    ),
    Example(
        "weights computed at run time",
        graph("U = Abs(V)\n output = Gemm(input, U)", _LINEAR, shape=_X),
        applied=0,
        refused="'U' is not constant",
    ),
    Example(
        "a factor beyond float32",
        graph(
            "output = Gemm<alpha: float = 1e38, transB: int = 1>(input, big)",
            {"big": np.full((5, 4), 100, np.float32)},
            shape=_X,
        ),
        applied=0,
        refused="does not fit into float32",
    ),
)

_BIAS_EXAMPLES = (
    Example(
        "one number per output",
        graph(
            "product = Gemm<transB: int = 1>(input, W)\n output = Add(product, d)",
            _LINEAR,
            shape=_X,
        ),
        applied=1,
    ),
    Example(
        "one number for all, on the left",
        graph("product = Gemm(input, V)\n output = Add(one, product)", _LINEAR, shape=_X),
        applied=1,
    ),
    Example(
        "on top of a scaled bias, twice",
        graph(
            """product = Gemm<beta: float = 2.0>(input, V, c)
               sum = Add(product, d)
               output = Add(sum, one)""",
            _LINEAR,
            shape=_X,
        ),
        applied=2,
    ),
    Example(
        "a sum of two branches",
        graph(
            "left = Gemm(input, V)\n right = Gemm(input, U)\n output = Add(left, right)",
            {**_LINEAR, "U": (4, 5)},
            shape=_X,
        ),
        applied=0,
    ),
    Example(
        "the product is used elsewhere",
        graph(
            "product = Gemm(input, V)\n sum = Add(product, d)\n output = Mul(sum, product)",
            _LINEAR,
            shape=_X,
        ),
        applied=0,
        refused="the output of 'product' is used by 'output' too",
    ),
    Example(
        "the product leaves the graph",
        graph(
            "product = Gemm(input, V)\n output = Add(product, d)",
            _LINEAR,
            shape=_X,
            outputs=("output", "product"),
        ),
        applied=0,
        refused="is an output of the graph or of a block",
    ),
    Example(
        "one number per image",
        graph("product = Gemm(input, V)\n output = Add(product, rows)", _LINEAR, shape="3, 4"),
        applied=0,
        refused="'rows' (3, 1) is not one bias per output",
    ),
    Example(
        "a bias that spreads one output over five",
        graph(
            "product = Gemm(input, U)\n output = Add(product, d)",
            {**_LINEAR, "U": (4, 1)},
            shape=_X,
        ),
        applied=0,
        refused="is not one bias per output",
    ),
    Example(
        "float64",
        graph(
            "product = Gemm(input, V)\n output = Add(product, d)",
            {"V": np.ones((4, 5)), "d": np.ones(5)},
            shape=_X,
            dtype="double",
        ),
        applied=0,
        refused="is float64, not float32",
    ),
)

FUSIONS = (MatMulGemm(), GemmForm(), GemmBias())
