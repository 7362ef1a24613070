"""Caffe's weight files as Caffe writes them, byte by byte, for tests of the reader.

Written here without the protocol buffer runtime, so that the reader's table of fields is compared
with something that does not come from it. Field numbers are caffe.proto's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["caffemodel"]

Array = NDArray[Any]


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, content: bytes | int) -> bytes:
    """One field: a number (wire type 0), or bytes with their length (wire type 2)."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def blob(array: Array, *, legacy: bool, packed: bool = True) -> bytes:
    """BlobProto: `shape` (7), or num, channels, height, width (1 to 4); data (5 or, double, 8)."""
    if legacy:
        shape = (1,) * (4 - array.ndim) + array.shape
        header = b"".join(field(number, side) for number, side in enumerate(shape, 1))
    else:
        header = field(7, field(1, b"".join(varint(side) for side in array.shape)))
    kind, data = ("<f8", 8) if array.dtype == np.float64 else ("<f4", 5)
    raw = array.astype(kind).tobytes()
    if packed:
        return header + field(data, raw)
    step, wire = (8, 1) if data == 8 else (4, 5)
    key = varint(data << 3 | wire)
    return header + b"".join(key + raw[i : i + step] for i in range(0, len(raw), step))


def caffemodel(
    layers: Mapping[str, Sequence[Array]], *, legacy: bool = False, packed: bool = True
) -> bytes:
    """NetParameter with these blobs: V1LayerParameters (`layers`, 2), or `layer` (100) since."""
    name, blobs, place = (4, 6, 2) if legacy else (1, 7, 100)
    out = field(1, b"GoogleNet")
    for layer, arrays in layers.items():
        described = field(2 if not legacy else 5, b"Convolution" if not legacy else 4)
        content = field(name, layer.encode()) + described
        content += b"".join(
            field(blobs, blob(array, legacy=legacy, packed=packed)) for array in arrays
        )
        out += field(place, content)
    return out
