"""Keras's weight files → named tensors: legacy `.h5`, Keras 3's `.weights.h5` and `.keras`.

Most layers of the networks here have automatic names (`conv2d_17`), which depend on what else was
built in the same session; Keras itself goes by the order of the layers instead. So does this
reader, and names every array by its layer's kind, the layer's place among that kind, and its role:
`conv2d/17/kernel`, `batch_normalization/3/gamma`, `separable_conv2d/0/pointwise_kernel`,
`dense/0/bias`. Kernels stay (height, width, in, out), matrices (in, out).

Where the order is written differs. The legacy format (saving/legacy/hdf5_format.py) has it as the
attribute `layer_names`, beneath `model_weights` in a whole saved model, and `weight_names` on every
layer. Keras 3 (saving/saving_lib.py) numbers the groups beneath `layers` per class, and the arrays
beneath their `vars`; a `.keras` archive holds such a file. Nothing but arrays is read: no
configuration, so no code that a model may bring.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inception_deploy.errors import CheckpointError

__all__ = ["read_keras"]

Arrays: TypeAlias = Sequence[NDArray[Any]]

INSIDE_ARCHIVE = "model.weights.h5"

# Ranks of a layer's arrays → its kind and their roles. A batch norm with three has `scale=False`.
KINDS: dict[tuple[int, ...], tuple[str, tuple[str, ...]]] = {
    (4,): ("conv2d", ("kernel",)),
    (4, 1): ("conv2d", ("kernel", "bias")),
    (4, 4): ("separable_conv2d", ("depthwise_kernel", "pointwise_kernel")),
    (2, 1): ("dense", ("kernel", "bias")),
    (1, 1, 1): ("batch_normalization", ("beta", "moving_mean", "moving_variance")),
    (1, 1, 1, 1): ("batch_normalization", ("gamma", "beta", "moving_mean", "moving_variance")),
}


def read_keras(path: Path) -> dict[str, Tensor]:
    """Every array of a Keras file on the CPU, named as the module's docstring says.

    Raises:
        CheckpointError: for a damaged file, HDF5 that is not Keras's, arrays that lie in another
            file, and layers of a kind these networks do not have.
    """
    try:
        return _named(_layers(path), path)
    except (CheckpointError, ImportError):
        raise
    except Exception as error:  # a damaged file can raise anything
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path} is truncated, damaged or no Keras file ({reason}); fetch or save it again"
        ) from error


def _named(layers: Iterable[tuple[str, Arrays]], path: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    seen: Counter[str] = Counter()
    for name, arrays in layers:
        ranks = tuple(array.ndim for array in arrays)
        if ranks not in KINDS:
            raise CheckpointError(
                f"{path}: layer '{name}' with {len(arrays)} arrays is none of these networks'; "
                "save the network without layers around it, a model inside a model by itself"
            )
        kind, roles = KINDS[ranks]
        for role, array in zip(roles, arrays, strict=True):
            native = array.astype(array.dtype.newbyteorder("="))
            tensors[f"{kind}/{seen[kind]}/{role}"] = torch.from_numpy(native)
        seen[kind] += 1
    return tensors


def _layers(path: Path) -> list[tuple[str, Arrays]]:
    """The layers with weights, each kind in the order of the model's list."""
    import h5py  # here: no other kind of file needs it

    source: Any = path
    if path.suffix.lower() == ".keras":
        with zipfile.ZipFile(path) as archive:
            source = io.BytesIO(archive.read(INSIDE_ARCHIVE))
    with h5py.File(source, "r") as file:
        root = file.get("model_weights", file)
        if "layer_names" in root.attrs or "layer_names0" in root.attrs:
            found = list(_legacy(root, path))
        elif "layers" in root:
            found = list(_numbered(root["layers"], path))
        else:
            inside = ", ".join(list(root)[:3]) or "nothing"
            raise CheckpointError(
                f"{path} is HDF5 without Keras's list of layers (found {inside}); save it with "
                "model.save_weights('FILE.weights.h5') in Keras 3"
            )
    return [(name, arrays) for name, arrays in found if arrays]


def _legacy(root: Any, path: Path) -> Iterator[tuple[str, Arrays]]:
    for name in _attribute(root, "layer_names"):
        layer = root[name]
        weights = _attribute(layer, "weight_names")
        yield name, [_array(layer[weight], root, path) for weight in weights]


def _attribute(group: Any, name: str) -> list[str]:
    """A list of texts; Keras splits one beyond HDF5's 64 KiB into `name0`, `name1`, …"""
    keys = [name]
    if name not in group.attrs:
        keys = sorted(
            (key for key in group.attrs if re.fullmatch(rf"{name}\d+", key)),
            key=lambda key: int(key.removeprefix(name)),
        )
    values = [value for key in keys for value in group.attrs[key]]
    return [v.decode("utf-8") if isinstance(v, bytes) else str(v) for v in values]


def _numbered(layers: Any, path: Path) -> Iterator[tuple[str, Arrays]]:
    for name in sorted(layers, key=_class_and_number):
        arrays = layers[name].get("vars", {})
        if "layers" in layers[name]:
            raise CheckpointError(
                f"{path}: layer '{name}' is a model inside the model; save that one by itself"
            )
        yield name, [_array(arrays[key], layers, path) for key in sorted(arrays, key=int)]


def _class_and_number(name: str) -> tuple[str, int]:
    """`conv2d_17` → (`conv2d`, 17); the first of a class goes without a number."""
    kind, number = re.fullmatch(r"(.+?)(?:_(\d+))?", name).groups()  # type: ignore[union-attr]
    return kind, int(number or 0)


def _array(dataset: Any, root: Any, path: Path) -> NDArray[Any]:
    elsewhere = dataset.file.filename != root.file.filename
    if elsewhere or dataset.external or dataset.is_virtual:
        raise CheckpointError(
            f"{path}: '{dataset.name}' lies in another file; save the weights into one"
        )
    return np.asarray(dataset[()])
