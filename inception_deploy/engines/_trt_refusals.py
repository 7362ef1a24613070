"""What TensorRT would refuse, or take and compute otherwise than written; said before it parses.

Each rule was seen with TensorRT-RTX 1.7.1: an activation in uint8 builds and is treated as int8, so
that values above 127 saturate; weights quantised along axis 1 build and run in float; the others
end in a parser error that names neither cause nor cure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from inception_deploy.build_options import unsupported
from inception_deploy.errors import StageError

__all__ = ["Refusal", "refusals", "require_parsable"]

_SIGNED = "export with --target tensorrt or tensorrt-rtx, whose quantisers are signed around 0"
_FP8 = {TensorProto.FLOAT8E4M3FN}
_MOVES = frozenset({"Transpose", "Reshape", "Slice", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True)
class Refusal:
    """A node that must not reach the parser.

    Args:
        node: its name, which begins with the block it came from.
        what: is wrong with it.
        remedy: what to do about it.
    """

    node: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.node} {self.what}; {self.remedy}"


class _Graph:
    """A graph with what the rules ask for at hand."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes: Sequence[onnx.NodeProto] = model.graph.node
        self.constants = {t.name: t for t in model.graph.initializer}
        self.inputs = {i.name: i.type.tensor_type.elem_type for i in model.graph.input}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def of(self, *ops: str) -> Iterator[onnx.NodeProto]:
        return (node for node in self.nodes if node.op_type in ops)

    def zero_point(self, node: onnx.NodeProto) -> onnx.TensorProto | None:
        """Of a quantiser; None where it has none, or one that is computed."""
        given = len(node.input) > 2 and node.input[2]
        return self.constants.get(node.input[2]) if given else None


def _unsigned(graph: _Graph) -> Iterator[Refusal]:
    for node in graph.of("QuantizeLinear"):
        zero = graph.zero_point(node)
        if zero is None or zero.data_type == TensorProto.UINT8:
            what = "quantises to uint8, which would be read as int8: values above 127 saturate"
            yield Refusal(node.name, what, _SIGNED)


def _off_centre(graph: _Graph) -> Iterator[Refusal]:
    for node in graph.of("QuantizeLinear", "DequantizeLinear"):
        zero = graph.zero_point(node)
        if zero is not None and zero.data_type not in _FP8 | {TensorProto.UINT8}:
            points = numpy_helper.to_array(zero)
            if np.any(points):
                worst = int(points.flat[int(np.abs(points.astype(np.int64)).argmax())])
                yield Refusal(node.name, f"has the zero point {worst}, not 0", _SIGNED)


def _integer_bias(graph: _Graph) -> Iterator[Refusal]:
    for node in graph.of("DequantizeLinear"):
        stored = graph.constants.get(node.input[0])
        if stored is not None and stored.data_type == TensorProto.INT32:
            what = "holds a bias in int32, which TensorRT does not dequantise"
            yield Refusal(node.name, what, "write the bias in float: --target tensorrt does")


def _wrong_axis(graph: _Graph) -> Iterator[Refusal]:
    for node in graph.of("DequantizeLinear"):
        stored = graph.constants.get(node.input[0])
        scales = graph.constants.get(node.input[1])
        per_channel = stored is not None and scales is not None and len(scales.dims) == 1
        if stored is None or not per_channel:
            continue
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1) % len(stored.dims)
        readers = [r for name in node.output for r in graph.readers.get(name, [])]
        if axis != 0 and any(r.op_type in ("Conv", "Gemm") for r in readers):
            what = f"has weights quantised along axis {axis}: the kernel would run in float"
            yield Refusal(node.name, what, "quantise along axis 0, the output channels")


def _bytes_first(graph: _Graph) -> Iterator[Refusal]:
    for name, kind in graph.inputs.items():
        for node in graph.readers.get(name, []):
            if kind == TensorProto.UINT8 and node.op_type in _MOVES | {"DequantizeLinear"}:
                what = f"reads the uint8 input '{name}' without a Cast before it"
                yield Refusal(node.name, what, "put the Cast first, as --input uint8 does")


_RULES: tuple[Callable[[_Graph], Iterator[Refusal]], ...] = (
    _unsigned,
    _off_centre,
    _integer_bias,
    _wrong_axis,
    _bytes_first,
)


def refusals(model: onnx.ModelProto, sm: Sequence[int] = ()) -> tuple[Refusal, ...]:
    """What must not reach the parser, rule by rule; () for a graph that may be parsed.

    Args:
        sm: compute capabilities (times ten) that the engine is built for.
    """
    graph = _Graph(model)
    found = [refusal for rule in _RULES for refusal in rule(graph)]
    kinds = {t.data_type for t in model.graph.initializer}
    kinds |= {v.type.tensor_type.elem_type for v in model.graph.value_info}
    for precision, held in (("bf16", {TensorProto.BFLOAT16}), ("fp8", _FP8)):
        for target in sm:
            why = unsupported(precision, target) if kinds & held else None
            if why is not None:
                found.append(Refusal("the graph", f"cannot run: {why}", f"leave out SM{target}"))
    return tuple(found)


def require_parsable(model: onnx.ModelProto, sm: Sequence[int] = ()) -> None:
    """Raises `StageError` naming the first refusal and how many there are."""
    found = refusals(model, sm)
    if found:
        more = f" ({len(found) - 1} more nodes are refused)" if len(found) > 1 else ""
        raise StageError(f"{found[0]}{more}")
