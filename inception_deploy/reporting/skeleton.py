"""ONNX files without their weights: what a drawing needs of a graph is a thousandth of its file.

Parsing a graph of 100 MB takes a third of a second and as much memory again, for bytes that nobody
looks at. They are left out on the level of protobuf's wire format, before anything is parsed.
"""

from __future__ import annotations

import mmap
from collections.abc import Container, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from inception_deploy.errors import BundleError

if TYPE_CHECKING:
    import onnx

__all__ = ["read_skeleton"]

# Field numbers of onnx.proto: ModelProto.graph, GraphProto.initializer, TensorProto's *_data.
_GRAPH, _INITIALIZER = 7, 5
_DATA = frozenset({4, 5, 6, 7, 9, 10, 11})
_FIXED = {1: 8, 5: 4}  # wire type → bytes
_VARINT, _BYTES = 0, 2


def read_skeleton(path: Path) -> onnx.ModelProto:
    """The model in `path` with initialisers that have names, types and shapes, but no values.

    Raises:
        BundleError: the file cannot be read, or is no ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            bare = _model(data)
        return onnx.load_model_from_string(bare)
    except (OSError, ValueError, IndexError, DecodeError) as error:
        raise BundleError(
            f"cannot read the graph {path.name} ({error or 'it ends too early'}); export the bundle"
            " again"
        ) from error


def _model(data: mmap.mmap) -> bytes:
    out = bytearray()
    for number, start, value, stop in _fields(data, 0, len(data)):
        if number == _GRAPH:
            out += _nested(number, _graph(data, value, stop))
        else:
            out += data[start:stop]
    return bytes(out)


def _graph(data: mmap.mmap, begin: int, end: int) -> bytes:
    out = bytearray()
    for number, start, value, stop in _fields(data, begin, end):
        if number == _INITIALIZER:
            out += _nested(number, _without(data, value, stop, _DATA))
        else:
            out += data[start:stop]
    return bytes(out)


def _without(data: mmap.mmap, begin: int, end: int, dropped: Container[int]) -> bytes:
    kept = (f for f in _fields(data, begin, end) if f[0] not in dropped)
    return b"".join(data[start:stop] for _, start, _, stop in kept)


def _fields(data: mmap.mmap, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(field number, start of its tag, start of its value, stop) of each field of a message."""
    at = begin
    while at < end:
        tag, value = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == _BYTES:
            length, value = _varint(data, value)
            stop = value + length
        elif wire == _VARINT:
            stop = _varint(data, value)[1]
        elif wire in _FIXED:
            stop = value + _FIXED[wire]
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if stop > end:
            raise ValueError(f"a field at byte {at} ends beyond its message")
        yield number, at, value, stop
        at = stop


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """Seven bits a byte, least first; the value, and where the next thing starts."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _nested(number: int, body: bytes) -> bytes:
    head, size = bytearray([number << 3 | _BYTES]), len(body)
    while size >= 0x80:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + body
