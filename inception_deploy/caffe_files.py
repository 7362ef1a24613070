"""Caffe's `.caffemodel` → named tensors: `conv1/7x7_s2.weight`, `conv1/7x7_s2.bias`.

The file is one protocol buffer, a `NetParameter`; the few fields that hold weights are described
below (numbers and types from caffe.proto, github.com/BVLC/caffe), everything else is skipped. Two
generations of layers exist, `layers` up to 2014 and `layer` since, and as many ways to give the
shape of a blob. The first blob of a layer is called weight, the second bias, further ones by
their number.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from torch import Tensor

from inception_deploy.errors import CheckpointError

__all__ = ["net_parameter", "read_caffe"]

# message → field → (number, type, repeated); a type in capitals is a message
SCHEMA: dict[str, dict[str, tuple[int, str, bool]]] = {
    "BlobShape": {"dim": (1, "int64", True)},
    "BlobProto": {
        "num": (1, "int32", False),
        "channels": (2, "int32", False),
        "height": (3, "int32", False),
        "width": (4, "int32", False),
        "data": (5, "float", True),
        "shape": (7, "BlobShape", False),
        "double_data": (8, "double", True),
    },
    "LayerParameter": {"name": (1, "bytes", False), "blobs": (7, "BlobProto", True)},
    "V1LayerParameter": {"name": (4, "bytes", False), "blobs": (6, "BlobProto", True)},
    "NetParameter": {
        "name": (1, "bytes", False),
        "layers": (2, "V1LayerParameter", True),
        "layer": (100, "LayerParameter", True),
    },
}
LEGACY_SHAPE = ("num", "channels", "height", "width")
ROLES = ("weight", "bias")


@cache
def net_parameter() -> Any:
    """The message class `NetParameter`, reduced to the fields of `SCHEMA`."""
    file = descriptor_pb2.FileDescriptorProto(name="caffe_weights.proto", package="caffe")
    kinds = descriptor_pb2.FieldDescriptorProto
    for name, fields in SCHEMA.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, repeated) in fields.items():
            described = message.field.add(
                name=field,
                number=number,
                label=kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL,
            )
            if kind in SCHEMA:
                described.type, described.type_name = kinds.TYPE_MESSAGE, f".caffe.{kind}"
            else:
                described.type = getattr(kinds, f"TYPE_{kind.upper()}")
                described.options.packed = repeated  # the only repeated scalars are numbers
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe.NetParameter"))


def read_caffe(path: Path) -> dict[str, Tensor]:
    """Every blob of a `.caffemodel` on the CPU, in float32 or float64 as it was stored.

    The older generation gives every blob four axes; the leading ones of biases and matrices are
    removed.

    Raises:
        CheckpointError: for a damaged file, one without weights, and a blob whose shape does not
            fit its data.
    """
    net = net_parameter()()
    try:
        net.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise CheckpointError(
            f"{path} is truncated, damaged or no .caffemodel; fetch it again"
        ) from error
    tensors: dict[str, Tensor] = {}
    for layer in (*net.layers, *net.layer):
        for index, blob in enumerate(layer.blobs):
            role = ROLES[index] if index < len(ROLES) else str(index)
            name = f"{layer.name.decode('utf-8', 'replace')}.{role}"
            tensors[name] = _tensor(blob, role, f"{path}: '{name}'")
    if not tensors:
        raise CheckpointError(
            f"{path} holds no weights that are read here; files of before 2014 need Caffe's "
            "upgrade_net_proto_binary"
        )
    return tensors


def _tensor(blob: Any, role: str, where: str) -> Tensor:
    values = np.array(blob.double_data) if blob.double_data else np.array(blob.data, np.float32)
    named = [getattr(blob, axis) for axis in LEGACY_SHAPE]
    shape = list(blob.shape.dim) if blob.HasField("shape") else named
    if len(shape) == 4 and shape[:2] == [1, 1]:
        # (1, 1, out, in) is an inner product's matrix, (1, 1, 1, out) a bias
        shape = shape[3:] if role == "bias" else shape[2:]
    if any(side < 1 for side in shape) or math.prod(shape) != len(values):
        raise CheckpointError(
            f"{where} has {len(values)} values for the shape {tuple(shape)}; the file is damaged, "
            "fetch it again"
        )
    return torch.from_numpy(values).reshape(shape)
