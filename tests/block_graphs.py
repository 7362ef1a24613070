"""The building blocks of Inception networks as small graphs, for tests of placements."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import numpy as np
import onnx
from small_graphs import Weights, build

__all__ = ["BLOCKS", "Block", "block"]

_KERNEL = "<pads = [1, 1, 1, 1]>"
_SAME_POOL = "<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>"


@dataclass(frozen=True)
class Block:
    """One small graph and what ONNX Runtime should make of it.

    Args:
        body: assignments, as `build` takes them; a node is called "node." and its first output.
        weights: by name, values or shapes.
        kernels: operators of the optimised graph that compute in integers → how many.
        refused: first outputs of nodes that have a rule and stay float → part of the reason.
        together: tensors that must be on one grid.
        outputs: what leaves the graph.
    """

    body: str
    weights: Weights
    kernels: dict[str, int]
    refused: dict[str, str] = field(default_factory=dict)
    together: tuple[frozenset[str], ...] = ()
    outputs: tuple[str, ...] = ("output",)


def _one_grid(*tensors: str) -> tuple[frozenset[str], ...]:
    return (frozenset(tensors),)


HEAD = """
 pooled = GlobalAveragePool(last)
 flat = Flatten(pooled)
 output = Gemm<transB = 1>(flat, w_head, b_head)"""
HEAD_WEIGHTS: Weights = {"w_head": (5, 8), "b_head": (5,)}
HEAD_KERNELS = {"QLinearGlobalAveragePool": 1, "QGemm": 1}

C1: Weights = {"w1": (8, 4, 3, 3), "b1": (8,)}
C2: Weights = {"w2": (8, 8, 3, 3), "b2": (8,)}
C3: Weights = {"w3": (8, 8, 1, 1), "b3": (8,)}

EDGES = np.outer([1.5, 1, 1, 1, 1, 1.5], [1.5, 1, 1, 1, 1, 1.5]).astype(np.float32)
"""What behind the sums of a 3×3 average pool makes its averages at the border."""

BLOCKS: dict[str, Block] = {
    "conv-relu": Block(
        f"c = Conv{_KERNEL}(input, w1, b1)\n last = Relu(c)" + HEAD,
        {**C1, **HEAD_WEIGHTS},
        {"QLinearConv": 1, **HEAD_KERNELS},
    ),
    "conv without relu": Block(
        f"c = Conv{_KERNEL}(input, w1, b1)\n last = Conv{_KERNEL}(c, w2, b2)" + HEAD,
        {**C1, **C2, **HEAD_WEIGHTS},
        {"QLinearConv": 2, **HEAD_KERNELS},
    ),
    "conv without bias": Block(
        f"c = Conv{_KERNEL}(input, w1)\n last = Relu(c)" + HEAD,
        {**C1, **HEAD_WEIGHTS},
        {"QLinearConv": 1, **HEAD_KERNELS},
    ),
    "inception": Block(
        f"""c = Conv{_KERNEL}(input, w1, b1)
        stem = Relu(c)
        c1 = Conv(stem, w3, b3)
        r1 = Relu(c1)
        c2 = Conv{_KERNEL}(stem, w2, b2)
        r2 = Relu(c2)
        pool = MaxPool{_SAME_POOL}(stem)
        joined = Concat<axis = 1>(r1, r2, pool)
        c4 = Conv(joined, w4, b4)
        last = Relu(c4)"""
        + HEAD,
        {**C1, **C2, **C3, "w4": (8, 24, 1, 1), "b4": (8,), **HEAD_WEIGHTS},
        {"QLinearConv": 4, "QLinearConcat": 1, "MaxPool": 1, **HEAD_KERNELS},
        together=_one_grid("stem", "r1", "r2", "pool", "joined"),
    ),
    "nested concat": Block(
        """c1 = Conv(input, w1, b1)
        r1 = Relu(c1)
        c2 = Conv(input, w1b, b1)
        a = Concat<axis = 1>(r1, c2)
        b = Concat<axis = 1>(a, r1)
        last = Conv(b, w2)"""
        + HEAD,
        {**C1, "w1b": (8, 4, 3, 3), "w2": (8, 24, 1, 1), **HEAD_WEIGHTS},
        {"QLinearConv": 3, "QLinearConcat": 2, "Clip": 1, **HEAD_KERNELS},
        together=_one_grid("r1", "c2", "a", "b"),
    ),
    "residual with relu": Block(
        f"""c = Conv{_KERNEL}(input, w1, b1)
        stem = Relu(c)
        up = Conv{_KERNEL}(stem, w2, b2)
        sum = Add(stem, up)
        last = Relu(sum)"""
        + HEAD,
        {**C1, **C2, **HEAD_WEIGHTS},
        {"QLinearConv": 2, "QLinearAdd": 1, **HEAD_KERNELS},
    ),
    "residual without relu": Block(
        f"""c = Conv{_KERNEL}(input, w1, b1)
        stem = Relu(c)
        up = Conv{_KERNEL}(stem, w2, b2)
        sum = Add(stem, up)
        c3 = Conv(sum, w3, b3)
        last = Add(sum, c3)"""
        + HEAD,
        {**C1, **C2, **C3, **HEAD_WEIGHTS},
        {"QLinearConv": 3, "QLinearAdd": 2, **HEAD_KERNELS},
    ),
    "pre-activation": Block(
        f"""stem = Conv{_KERNEL}(input, w1, b1)
        r = Relu(stem)
        up = Conv{_KERNEL}(r, w2, b2)
        last = Add(stem, up)"""
        + HEAD,
        {**C1, **C2, **HEAD_WEIGHTS},
        {"QLinearConv": 2, "QLinearAdd": 1, "Clip": 1, **HEAD_KERNELS},
        together=_one_grid("stem", "r"),
    ),
    "relu behind a concat": Block(
        """a = Conv(input, w1, b1)
        b = MaxPool<kernel_shape = [3, 3]>(input)
        joined = Concat<axis = 1>(a, b)
        r = Relu(joined)
        last = Conv(r, w2)"""
        + HEAD,
        {**C1, "w2": (8, 12, 1, 1), **HEAD_WEIGHTS},
        {"QLinearConv": 2, "QLinearConcat": 1, "MaxPool": 1, "Clip": 1, **HEAD_KERNELS},
        together=_one_grid("input", "a", "b", "joined", "r"),
    ),
    "separable": Block(
        """d = Conv<group = 4, pads = [1, 1, 1, 1]>(input, w_depth, b_depth)
        p = Conv(d, w_point, b_point)
        last = Relu(p)"""
        + HEAD,
        {
            "w_depth": (4, 1, 3, 3),
            "b_depth": (4,),
            "w_point": (8, 4, 1, 1),
            "b_point": (8,),
            **HEAD_WEIGHTS,
        },
        {"QLinearConv": 2, **HEAD_KERNELS},
    ),
    "split and concat": Block(
        f"""c = Conv{_KERNEL}(input, w1, b1)
        kept, square, band = Split<axis = 1>(c, parts)
        s = Conv<group = 2, pads = [1, 1, 1, 1]>(square, w_square, b_square)
        t = Conv<group = 2, pads = [0, 2, 0, 2]>(band, w_band, b_square)
        joined = Concat<axis = 1>(kept, s, t)
        last = Conv(joined, w3, b3)"""
        + HEAD,
        {
            **C1,
            **C3,
            "parts": onnx.numpy_helper.to_array(
                onnx.helper.make_tensor("parts", onnx.TensorProto.INT64, [3], [4, 2, 2])
            ),
            "w_square": (2, 1, 3, 3),
            "b_square": (2,),
            "w_band": (2, 1, 1, 5),
            **HEAD_WEIGHTS,
        },
        {"QLinearConv": 4, "Split": 1, "QLinearConcat": 1, **HEAD_KERNELS},
        together=_one_grid("c", "kept", "square", "band", "s", "t", "joined"),
    ),
    "gelu between convolutions": Block(
        f"c = Conv{_KERNEL}(input, w1, b1)\n g = Gelu(c)\n last = Conv{_KERNEL}(g, w2, b2)" + HEAD,
        {**C1, **C2, **HEAD_WEIGHTS},
        {"QLinearConv": 2, **HEAD_KERNELS},
    ),
    "gelu behind a 1×1 convolution": Block(
        f"""c = Conv{_KERNEL}(input, w1, b1)
        wide = Conv(c, w3, b3)
        g = Gelu(wide)
        last = Conv(g, w4)"""
        + HEAD,
        {**C1, **C3, "w4": (8, 8, 1, 1), **HEAD_WEIGHTS},
        {"QLinearConv": 2, "MatMulIntegerToFloat": 1, **HEAD_KERNELS},
    ),
    "gelu behind a 1×1 convolution without bias": Block(
        """wide = Conv(input, w)
        g = Gelu(wide)
        last = Conv(g, w3, b3)"""
        + HEAD,
        {**C3, "w": (8, 4, 1, 1), **HEAD_WEIGHTS},
        {"QLinearConv": 1, "MatMulIntegerToFloat": 1, **HEAD_KERNELS},
    ),
    "gelu behind a 1×1 convolution with a stride": Block(
        """wide = Conv<strides = [2, 2]>(input, w)
        g = Gelu(wide)
        last = Conv(g, w3, b3)"""
        + HEAD,
        {**C3, "w": (8, 4, 1, 1), **HEAD_WEIGHTS},
        {"QLinearConv": 2, **HEAD_KERNELS},
    ),
    "one input for several convolutions": Block(
        f"""c1 = Conv{_KERNEL}(input, w1, b1)
        c2 = Conv{_KERNEL}(input, w1b, b1)
        c3 = Conv{_KERNEL}(input, w1c, b1)
        s = Add(c1, c2)
        last = Add(s, c3)"""
        + HEAD,
        {**C1, "w1b": (8, 4, 3, 3), "w1c": (8, 4, 3, 3), **HEAD_WEIGHTS},
        {"QLinearConv": 3, "QLinearAdd": 2, **HEAD_KERNELS},
    ),
    "a sum with a constant": Block(
        f"c = Conv{_KERNEL}(input, w1, b1)\n s = Add(c, shift)\n last = Conv{_KERNEL}(s, w2, b2)"
        + HEAD,
        {**C1, **C2, "shift": (8, 1, 1), **HEAD_WEIGHTS},
        {"QLinearConv": 2, **HEAD_KERNELS},
        refused={"s": "'shift' is constant"},
    ),
    "factors per place": Block(
        f"c = Conv{_KERNEL}(input, w1, b1)\n s = Mul(c, edges)\n last = Conv{_KERNEL}(s, w2, b2)"
        + HEAD,
        {**C1, **C2, "edges": EDGES, **HEAD_WEIGHTS},
        {"QLinearConv": 2, "QLinearMul": 1, **HEAD_KERNELS},
    ),
    "factors on no grid": Block(
        f"c = Conv{_KERNEL}(input, w1, b1)\n s = Mul(c, odd)\n last = Conv{_KERNEL}(s, w2, b2)"
        + HEAD,
        {**C1, **C2, "odd": EDGES + np.float32(1e-3), **HEAD_WEIGHTS},
        {"QLinearConv": 2, **HEAD_KERNELS},
        refused={"s": "'odd' lie on no eight-bit grid"},
    ),
    "a norm": Block(
        f"""c = Conv{_KERNEL}(input, w1, b1)
        squares = Mul(c, c)
        sums = Conv(squares, band, b3)
        root = Sqrt(sums)
        quotient = Div(c, root)
        last = Conv{_KERNEL}(quotient, w2, b2)"""
        + HEAD,
        {**C1, **C2, "band": np.full((8, 8, 1, 1), 0.1, np.float32), "b3": np.ones(8, np.float32)}
        | HEAD_WEIGHTS,
        {"QLinearConv": 2, **HEAD_KERNELS},
        refused={"sums": "a Sqrt reads it", "squares": "neither of its factors is constant"},
    ),
    "a sum with a float operand": Block(
        f"""c = Conv{_KERNEL}(input, w1, b1)
        t = Sigmoid(c)
        s = Add(c, t)
        last = Conv{_KERNEL}(s, w2, b2)"""
        + HEAD,
        {**C1, **C2, **HEAD_WEIGHTS},
        {"QLinearConv": 2, **HEAD_KERNELS},
        refused={"s": "'t' is computed in float"},
    ),
    "convolution leaves the graph": Block(
        f"c = Conv{_KERNEL}(input, w1, b1)\n r = Relu(c)\n output = Conv{_KERNEL}(r, w2, b2)",
        {**C1, **C2},
        {"QLinearConv": 1},
        refused={"output": "leaves the graph"},
    ),
    "relu leaves the graph": Block(
        f"c = Conv{_KERNEL}(input, w1, b1)\n d = Conv{_KERNEL}(c, w2, b2)\n output = Relu(d)",
        {**C1, **C2},
        {"QLinearConv": 1},
        refused={"d": "leaves the graph", "output": "leaves the graph"},
    ),
    "a tensor in the middle leaves the graph": Block(
        f"middle = Conv{_KERNEL}(input, w1, b1)\n r = Relu(middle)\n"
        f"last = Conv{_KERNEL}(r, w2, b2)" + HEAD,
        {**C1, **C2, **HEAD_WEIGHTS},
        {"QLinearConv": 1, **HEAD_KERNELS},
        refused={"middle": "leaves the graph", "r": "'middle' is computed in float"},
        outputs=("middle", "output"),
    ),
    "features": Block(
        f"""c = Conv{_KERNEL}(input, w1, b1)
        r = Relu(c)
        pooled = GlobalAveragePool(r)
        output = Flatten(pooled)""",
        C1,
        {"QLinearConv": 1},
        refused={"pooled": "what reads it", "output": "leaves the graph"},
    ),
    "probabilities": Block(
        f"""c = Conv{_KERNEL}(input, w1, b1)
        last = Relu(c)
        pooled = GlobalAveragePool(last)
        flat = Flatten(pooled)
        logits = Gemm<transB = 1>(flat, w_head, b_head)
        output = Softmax<axis = 1>(logits)""",
        {**C1, **HEAD_WEIGHTS},
        {"QLinearConv": 1, **HEAD_KERNELS},
    ),
    "a linear layer of another form": Block(
        f"""c = Conv{_KERNEL}(input, w1, b1)
        last = Relu(c)
        pooled = GlobalAveragePool(last)
        flat = Flatten(pooled)
        output = Gemm<transB = 1, alpha = 0.5>(flat, w_head, b_head)""",
        {**C1, **HEAD_WEIGHTS},
        {"QLinearConv": 1, "QLinearGlobalAveragePool": 1},
        refused={"output": "no plain linear layer"},
    ),
    "average pool": Block(
        f"""c = Conv{_KERNEL}(input, w1, b1)
        r = Relu(c)
        a = AveragePool{_SAME_POOL}(r)
        last = Conv(a, w3, b3)"""
        + HEAD,
        {**C1, **C3, **HEAD_WEIGHTS},
        # no rule asks for it; quantised for the convolution behind it, it averages bytes
        {"QLinearConv": 2, "QLinearAveragePool": 1, **HEAD_KERNELS},
    ),
}


@cache
def block(name: str) -> onnx.ModelProto:
    """The graph of one of `BLOCKS`, for images (N, 4, 6, 6)."""
    chosen = BLOCKS[name]
    return build(chosen.body, chosen.weights, outputs=chosen.outputs)
