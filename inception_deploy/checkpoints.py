"""Reading weights from disk, safely: a file or folder → named tensors, never arbitrary objects.

PyTorch files go through `torch.load(weights_only=True)`, so a pickle that asks for anything but
tensors is refused, not run; NumPy archives are read without pickle, too, and of Keras's and Caffe's
files nothing but the arrays. Which network the tensors are of is for `inception_deploy.matching` to
decide.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from inception_deploy.caffe_files import read_caffe
from inception_deploy.errors import CheckpointError
from inception_deploy.keras_files import read_keras

__all__ = ["Checkpoint", "read_checkpoint"]

# Where training scripts put the state dict; averaged weights first, as they are the ones evaluated.
WRAPPERS = (
    "state_dict_ema",
    "model_ema",
    "state_dict",
    "model_state_dict",
    "model",
)

# What DataParallel, torch.compile and Lightning put before every name.
PREFIXES = ("module.", "_orig_mod.", "model.")

# What `huggingface_hub` and timm call the weights inside a folder.
FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")

# Python's pickle opcode PROTO with protocols 3 to 5; torch.save itself writes protocol 2.
PLAIN_PICKLES = (b"\x80\x03", b"\x80\x04", b"\x80\x05")

FOREIGN_SUFFIXES = {
    ".onnx": "an ONNX graph",
    ".pb": "a TensorFlow graph",
    ".tflite": "a TFLite model",
}

# How TensorFlow's checkpoints end: the format of 2016 in one file, and the newer one's index, are
# sorted-string tables (leveldb's table_format.md); the newer one's tensors lie in .data files.
TABLE_MAGIC = bytes.fromhex("57fb808b247547db")
TABLE_DATA = re.compile(r"\.ckpt(-\d+)?\.(meta|data-\d+-of-\d+)$")


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors as they lay in a file, before any network is considered.

    Args:
        path: the weights file itself, also when a folder was given.
        sha256: of that file, hexadecimal.
        tensors: name → tensor on the CPU, wrapper keys and common prefixes removed.
        config: the folder's `config.json` (timm), None for a plain file.
        wrapper: dotted keys under which the state dict was found, "" at the top level.
    """

    path: Path
    sha256: str
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] | None = None
    wrapper: str = ""


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a weights file, or a folder with one under timm's names.

    `.safetensors`, `.npz`, Keras's `.h5` and `.keras`, Caffe's `.caffemodel`; anything else as
    PyTorch's.

    Raises:
        CheckpointError: for a missing, empty, truncated or foreign file, for a pickle that contains
            more than tensors, for quantised weights, and for a file without a state dict.
    """
    config = None
    if path.is_dir():
        path, config = _inside(path)
    digest = _sha256(path)
    if path.suffix.lower() in FOREIGN_SUFFIXES:
        raise CheckpointError(
            f"{path} is {FOREIGN_SUFFIXES[path.suffix.lower()]}; "
            "convert it to a PyTorch state dict, .safetensors or .npz first"
        )
    if _is_tensorflow(path):
        raise CheckpointError(
            f"{path} is a TensorFlow checkpoint; convert its variables to .npz with "
            "tf.train.load_checkpoint where TensorFlow is installed (docs/checkpoints.md)"
        )
    content = READERS.get(path.suffix.lower(), _torch)(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path} holds a bare {type(content).__name__}, no state dict; save model.state_dict()"
        )
    found, wrapper = _unwrapped(content)
    _refuse_quantised(found, path)
    tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        keys = ", ".join(str(key) for key in list(found)[:5]) or "nothing"
        raise CheckpointError(
            f"{path} holds no state dict (found {keys}); save model.state_dict() instead"
        )
    return Checkpoint(path, digest, _without_prefixes(tensors), config, wrapper)


def _inside(folder: Path) -> tuple[Path, Mapping[str, Any] | None]:
    """The weights file and the parsed config.json of a folder."""
    files = [folder / name for name in FOLDER_FILES if (folder / name).is_file()]
    if not files:
        raise CheckpointError(
            f"folder {folder} holds neither {' nor '.join(FOLDER_FILES)}; "
            "name the weights file itself"
        )
    config_path = folder / "config.json"
    if not config_path.is_file():
        return files[0], None
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{config_path} is not readable JSON ({error})") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{config_path} must hold a JSON object, as timm writes it")
    return files[0], config


def _sha256(path: Path) -> str:
    """The file's digest; also the place where missing, unreadable and empty files are found."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise CheckpointError(f"no such weights file: {path}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if not head:
        raise CheckpointError(f"{path} is empty; fetch or save it again")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the weights; run `git lfs pull`")
    if head.startswith(PLAIN_PICKLES):
        raise CheckpointError(
            f"{path} is a plain Python pickle; refusing to unpickle it, as that may run code; "
            "save the state dict as .safetensors"
        )
    return digest


def _is_tensorflow(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-min(len(TABLE_MAGIC), path.stat().st_size), os.SEEK_END)
        return file.read() == TABLE_MAGIC or TABLE_DATA.search(path.name) is not None


def _safetensors(path: Path) -> Mapping[str, Any]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is truncated or not a safetensors file ({error}); fetch it again"
        ) from error


def _numpy(path: Path) -> Mapping[str, Any]:
    """The archive's numeric arrays, e.g. TensorFlow variables under their own names."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # a damaged archive can raise anything
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path} is damaged, or holds more than plain arrays ({reason}); save it again with "
            "numpy.savez(path, **{name: array})"
        ) from error
    numeric = {name: array for name, array in arrays.items() if array.dtype.kind in "fiu"}
    native = {name: array.astype(array.dtype.newbyteorder("=")) for name, array in numeric.items()}
    return {name: torch.from_numpy(array) for name, array in native.items()}


def _torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # torch warns about the storage classes inside old files; nothing a user could change
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(_why_torch_refused(path, str(error))) from error


def _why_torch_refused(path: Path, message: str) -> str:
    if "TorchScript" in message:
        return f"{path} is a TorchScript archive; save model.state_dict() instead"
    # torch words it "Unsupported global: GLOBAL a.b" or "unsupported GLOBAL a.b whose module …"
    if foreign := re.search(r"GLOBAL (\S+)", message):
        return (
            f"{path} contains Python objects other than tensors ({foreign[1]}); refusing to "
            "unpickle it, as that may run code; save the state dict as .safetensors"
        )
    return f"{path} is truncated, corrupt or not a PyTorch checkpoint; fetch or save it again"


READERS: Mapping[str, Callable[[Path], Any]] = {
    ".safetensors": _safetensors,
    ".npz": _numpy,
    ".h5": read_keras,
    ".hdf5": read_keras,
    ".keras": read_keras,
    ".caffemodel": read_caffe,
}


def _unwrapped(content: Mapping[Any, Any]) -> tuple[Mapping[Any, Any], str]:
    """The innermost mapping behind known wrapper keys, and the dotted path to it."""
    path: list[str] = []
    while inner := next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None):
        content = content[inner]
        path.append(inner)
    return content, ".".join(path)


def _refuse_quantised(found: Mapping[Any, Any], path: Path) -> None:
    for name, value in found.items():
        packed = str(name).endswith((".zero_point", "._packed_params"))
        if packed or (isinstance(value, Tensor) and value.is_quantized):
            raise CheckpointError(
                f"{path} is already quantised ('{name}', as in torchvision's fbgemm files); "
                "start from the float weights and ask for --int8"
            )


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without the prefixes every one of them carries."""
    # torch.optim.swa_utils.AveragedModel counts its updates beside the `module.` it wraps
    tensors = {name: tensor for name, tensor in tensors.items() if name != "n_averaged"}
    while prefix := next((p for p in PREFIXES if all(n.startswith(p) for n in tensors)), None):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
