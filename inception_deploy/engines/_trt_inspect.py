"""What an engine runs, from its own description: kernels, and the nodes that went into each.

TensorRT describes an engine in JSON, and in lines of `Key: value`; the lines are also what the
builder logs when it is done, on machines without a GPU too. Each kernel names the ONNX nodes it
came from (`[ONNX Layer: NAME]`) and the data types of what it reads and writes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Kernel", "kernels_of_json", "kernels_of_log", "precisions", "reformats"]

_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_DATATYPE = re.compile(r"Datatype: (\w+)")
_LINE = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+), ")

_NAMES: Mapping[str, str] = {
    "int8": "int8",
    "half": "float16",
    "fp16": "float16",
    "bf16": "bfloat16",
    "bfloat16": "bfloat16",
    "float": "float32",
    "fp32": "float32",
    "fp8": "fp8",
}
"""TensorRT's words for a data type, in lower case → the words of reports."""

_GENERATED = "kgen"
"""Kind of a kernel that was generated for a chain of element-wise operations."""

_CHORES = ("shape_call", "copy", "move", "reformat", "noop", "constant")
"""Kinds that compute nothing, in lower case: the two libraries write them differently."""

_FLOATS = ("float16", "bfloat16", "float32")


@dataclass(frozen=True)
class Kernel:
    """One step of an engine.

    Args:
        name: as the engine calls it.
        kind: "correlation", "gemm", "maxpool", "kgen", …
        nodes: ONNX nodes that went into it.
        reads, writes: data types of activations, in the words of reports.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]

    @property
    def precision(self) -> str | None:
        """Of its arithmetic: that of what it reads, and of a generated chain its narrowest float.

        A chain that reads and writes only integers moves them.
        """
        if self.kind != _GENERATED:
            return self.reads[0] if self.reads else None
        touched = {*self.reads, *self.writes}
        return next((kind for kind in _FLOATS if kind in touched), min(touched, default=None))


def kernels_of_log(text: str) -> list[Kernel]:
    """Kernels from the lines that the builder logs, or that an inspector gives as `ONELINE`."""
    found = []
    for line in text.split("\n"):  # names are separated by a control character of lines
        start = _LINE.match(line)
        if start is None:
            continue
        reads, _, rest = line.partition(", Outputs: ")
        reads = reads.partition(", Constants: ")[0]
        writes, _, _ = rest.partition(", TacticName: ")
        found.append(
            Kernel(
                start["name"],
                start["kind"],
                tuple(dict.fromkeys(_NODE.findall(line))),
                tuple(map(_named, _DATATYPE.findall(reads))),
                tuple(map(_named, _DATATYPE.findall(writes))),
            )
        )
    return found


def kernels_of_json(text: str) -> list[Kernel]:
    """Kernels from what an inspector gives as `JSON`; the engine must be built with its details.

    Layers of an engine without details are bare names, and give nothing.
    """
    layers = [layer for layer in json.loads(text).get("Layers", []) if isinstance(layer, dict)]
    return [
        Kernel(
            str(layer["Name"]),
            str(layer.get("LayerType", "")),
            tuple(dict.fromkeys(_NODE.findall(str(layer.get("Metadata", ""))))),
            tuple(_types(layer.get("Inputs", []))),
            tuple(_types(layer.get("Outputs", []))),
        )
        for layer in layers
    ]


def precisions(kernels: Iterable[Kernel]) -> dict[str, str]:
    """ONNX node → the precision it ran in.

    A node that went into several kernels — a convolution, and the chain behind it that scales its
    sums — counts where its arithmetic is, not in the generated chain.
    """
    found: dict[str, str] = {}
    ordered = sorted(kernels, key=lambda kernel: kernel.kind == _GENERATED)
    for kernel in ordered:
        if kernel.precision is not None and kernel.kind.lower() not in _CHORES:
            for node in kernel.nodes:
                found.setdefault(node, kernel.precision)
    return found


def reformats(kernels: Iterable[Kernel]) -> int:
    """Kernels that only change how values are stored: copies, and casts of no node's own."""
    return sum(
        "reformat" in kernel.kind.lower() or (kernel.kind == _GENERATED and not kernel.nodes)
        for kernel in kernels
    )


def _types(tensors: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for tensor in tensors:
        words = str(tensor.get("Datatype") or tensor.get("Format/Datatype", "")).split()
        known = [_NAMES[word.lower()] for word in words if word.lower() in _NAMES]
        if known:
            yield known[-1]


def _named(word: str) -> str:
    return _NAMES.get(word.lower(), word.lower())
