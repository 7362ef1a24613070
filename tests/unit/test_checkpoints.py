"""Reading weights files: every accepted wrapping, and one clear line for every bad file."""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from inception_deploy.checkpoints import read_checkpoint
from inception_deploy.errors import CheckpointError

TENSORS = {"conv.weight": torch.arange(24.0).reshape(2, 3, 2, 2), "fc.bias": torch.ones(5)}


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def refusal(path: Path) -> str:
    """The message with which a file is refused: one line naming the file."""
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


def assert_tensors(found: Any) -> None:
    assert set(found) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pytorch_files(tmp_path: Path, suffix: str, zipped: bool) -> None:
    path = saved(tmp_path / f"w{suffix}", TENSORS, _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint(path)
    assert_tensors(checkpoint.tensors)
    assert checkpoint.path == path
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert checkpoint.config is None


def test_safetensors_files(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "w.safetensors")
    assert_tensors(read_checkpoint(tmp_path / "w.safetensors").tensors)


@pytest.mark.parametrize("order", ["<", ">"])
def test_numpy_archives(tmp_path: Path, order: str) -> None:
    arrays: dict[str, Any] = {
        name: tensor.numpy().astype(f"{order}f4") for name, tensor in TENSORS.items()
    }
    np.savez(tmp_path / "w.npz", comment=np.array("text is no weight"), **arrays)
    assert_tensors(read_checkpoint(tmp_path / "w.npz").tensors)


def test_names_with_slashes_survive_in_numpy_archives(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"InceptionV3/Conv2d_1a_3x3/weights": np.ones(3, np.float32)}
    np.savez(tmp_path / "w.npz", **arrays)
    assert set(read_checkpoint(tmp_path / "w.npz").tensors) == set(arrays)


@pytest.mark.parametrize(
    ("wrap", "wrapper"),
    [
        (lambda t: t, ""),
        (lambda t: {"state_dict": t, "epoch": 3}, "state_dict"),
        (lambda t: {"model": t, "optimizer": {"lr": 0.1}}, "model"),
        (lambda t: {"model_state_dict": t}, "model_state_dict"),
        (lambda t: {"model": {"state_dict": t}}, "model.state_dict"),
        (lambda t: {"state_dict": {"a": t["fc.bias"]}, "state_dict_ema": t}, "state_dict_ema"),
    ],
)
def test_wrappers_of_training_scripts(
    tmp_path: Path, wrap: Callable[[dict[str, Tensor]], Any], wrapper: str
) -> None:
    checkpoint = read_checkpoint(saved(tmp_path / "w.pth", wrap(TENSORS)))
    assert_tensors(checkpoint.tensors)
    assert checkpoint.wrapper == wrapper


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_prefixes_that_all_names_share_are_removed(tmp_path: Path, prefix: str) -> None:
    content = {prefix + name: tensor for name, tensor in TENSORS.items()}
    assert_tensors(read_checkpoint(saved(tmp_path / "w.pth", content)).tensors)


def test_a_prefix_that_only_some_names_carry_stays(tmp_path: Path) -> None:
    content = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    assert set(read_checkpoint(saved(tmp_path / "w.pth", content)).tensors) == {"module.a", "b"}


def test_averaged_models_lose_their_counter(tmp_path: Path) -> None:
    content = {f"module.{name}": tensor for name, tensor in TENSORS.items()}
    content["n_averaged"] = torch.tensor(7)
    assert_tensors(read_checkpoint(saved(tmp_path / "w.pth", content)).tensors)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_folders_as_timm_writes_them(tmp_path: Path, file: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "inception_v3"}))
    if file.endswith("safetensors"):
        save_file(TENSORS, tmp_path / file)
    else:
        saved(tmp_path / file, TENSORS)
    checkpoint = read_checkpoint(tmp_path)
    assert_tensors(checkpoint.tensors)
    assert checkpoint.path == tmp_path / file
    assert checkpoint.config == {"architecture": "inception_v3"}


def test_a_folder_without_config(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    assert read_checkpoint(tmp_path).config is None


def test_a_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert "neither model.safetensors nor pytorch_model.bin" in refusal(tmp_path)


@pytest.mark.parametrize("text", ["{", "[1, 2]", "\udcff"])
def test_a_folder_with_a_broken_config(tmp_path: Path, text: str) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=r"config\.json .*JSON"):
        read_checkpoint(tmp_path)


def test_a_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "absent.pth").startswith("no such weights file")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_an_empty_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.touch()
    assert "is empty" in refusal(path)


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "w.pth", TENSORS)

    def denied(*_arguments: Any, **_options: Any) -> Any:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "open", denied)  # root may read every file, so no chmod
    assert "cannot be read: Permission denied" in refusal(path)


def test_a_git_lfs_pointer(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "git lfs pull" in refusal(path)


@pytest.mark.parametrize("keep", [0.0001, 0.01, 0.3, 0.6, 0.999])
@pytest.mark.parametrize("kind", ["zip", "pickle", "safetensors"])
def test_truncated_files(tmp_path: Path, kind: str, keep: float) -> None:
    whole = tmp_path / f"whole.{'safetensors' if kind == 'safetensors' else 'pth'}"
    tensors = {"w": torch.randn(100, 100)}
    if kind == "safetensors":
        save_file(tensors, whole)
    else:
        saved(whole, tensors, _use_new_zipfile_serialization=kind == "zip")
    content = whole.read_bytes()
    path = tmp_path / f"cut{whole.suffix}"
    path.write_bytes(content[: max(1, int(len(content) * keep))])
    assert re.search("truncated", refusal(path))


@pytest.mark.parametrize("content", [b"<html>404</html>", bytes(range(256)) * 4, b"\x80\x02}."])
def test_files_that_are_something_else(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    assert re.search("not a PyTorch checkpoint|no state dict", refusal(path))


@pytest.mark.parametrize("suffix", [".onnx", ".pb", ".tflite"])
def test_other_frameworks_files_are_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(b"anything")
    assert "convert it" in refusal(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("inception_v3.ckpt", b"table, its footer" + bytes.fromhex("57fb808b247547db")),
        ("model.ckpt-1000.index", b"table, its footer" + bytes.fromhex("57fb808b247547db")),
        ("model.ckpt-1000.data-00000-of-00001", b"raw tensors"),
        ("model.ckpt-1000.meta", b"a graph"),
    ],
)
def test_tensorflow_s_checkpoints_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    message = refusal(path)
    assert "TensorFlow checkpoint" in message
    assert "tf.train.load_checkpoint" in message


def test_lightning_s_ckpt_is_no_tensorflow_checkpoint(tmp_path: Path) -> None:
    content = {"state_dict": {f"model.{name}": tensor for name, tensor in TENSORS.items()}}
    assert_tensors(read_checkpoint(saved(tmp_path / "epoch=3.ckpt", content)).tensors)


class Malicious:
    """Pickles into a call of `os.system` that leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("kind", ["zip", "legacy", "bare pickle"])
def test_a_malicious_pickle_is_refused_and_never_runs(tmp_path: Path, kind: str) -> None:
    mark, path = tmp_path / "mark", tmp_path / "evil.pth"
    content = {"state_dict": TENSORS, "hook": Malicious(mark)}
    if kind == "bare pickle":
        path.write_bytes(pickle.dumps(content["hook"]))
    else:
        saved(path, content, _use_new_zipfile_serialization=kind == "zip")
    message = refusal(path)
    assert "refusing to unpickle it" in message
    assert "safetensors" in message
    if kind != "bare pickle":
        assert "contains Python objects other than tensors (posix.system)" in message
    assert not mark.exists()
    # the bait is live: unpickled on purpose, it leaves its mark
    pickle.loads(pickle.dumps(content["hook"]))
    assert mark.exists()


def test_objects_in_a_numpy_archive_are_refused_and_never_run(tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "evil.npz"
    np.savez(path, weight=np.array([Malicious(mark)], object))
    assert "holds more than plain arrays" in refusal(path)
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"no archive", b"PK\x03\x04", b"\x93NUMPY\x01\x00"])
def test_damaged_numpy_archives(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.npz"
    path.write_bytes(content)
    assert "is damaged" in refusal(path)


def test_harmless_objects_are_refused_by_name_too(tmp_path: Path) -> None:
    content = {"state_dict": TENSORS, "args": argparse.Namespace(lr=0.1)}
    assert "argparse.Namespace" in refusal(saved(tmp_path / "w.pth", content))


def test_a_whole_pickled_module(tmp_path: Path) -> None:
    assert "refusing to unpickle" in refusal(saved(tmp_path / "w.pth", torch.nn.Linear(2, 2)))


def test_a_torchscript_archive(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript; users still have files
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    assert "TorchScript" in refusal(path)


@pytest.mark.parametrize("content", [{}, {"epoch": 3, "net": {}}, [1, 2], torch.zeros(3)])
def test_files_without_a_state_dict(tmp_path: Path, content: Any) -> None:
    assert "no state dict" in refusal(saved(tmp_path / "w.pth", content))


def test_quantised_tensors(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates its quantised dtypes; old files stay
        weight = torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.qint8)
        path = saved(tmp_path / "fbgemm.pth", {"conv1.conv.weight": weight})
    message = refusal(path)
    assert "already quantised" in message
    assert "conv1.conv.weight" in message


def test_packed_parameters_of_an_fbgemm_file(tmp_path: Path) -> None:
    content = {"conv1.conv.scale": torch.ones(()), "conv1.conv.zero_point": torch.zeros(())}
    assert "conv1.conv.zero_point" in refusal(saved(tmp_path / "fbgemm.pth", content))
