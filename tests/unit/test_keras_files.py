"""Reading HDF5 as Keras lays it out, and what is said of files that are not."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from inception_deploy.errors import CheckpointError
from inception_deploy.keras_files import read_keras

Layers = Mapping[str, Sequence[Any]]


def ones(*shape: int, value: float = 1.0) -> Any:
    return np.full(shape, value, np.float32)


LAYERS: Layers = {
    "input_1": [],
    "conv2d_7": [ones(3, 3, 2, 4, value=7)],
    "batch_normalization_7": [ones(4, value=value) for value in (0, 1, 2)],
    "activation": [],
    "conv2d_5": [ones(1, 1, 4, 4, value=5), ones(4)],
    "my_norm": [ones(4, value=value) for value in (3, 4, 5, 6)],
    "sepconv": [ones(3, 3, 4, 1), ones(1, 1, 4, 5)],
    "predictions": [ones(5, 6), ones(6)],
}


def legacy(path: Path, layers: Layers = LAYERS, *, inside: str = "", chunks: int = 1) -> Path:
    """As Keras's legacy format has it; `chunks` splits the list of names, as beyond 64 KiB."""
    with h5py.File(path, "w") as file:
        root = file.create_group(inside) if inside else file
        names = np.array([name.encode() for name in layers])
        if chunks == 1:
            root.attrs["layer_names"] = names
        else:
            for index, part in enumerate(np.array_split(names, chunks)):
                root.attrs[f"layer_names{index}"] = part
        for name, arrays in layers.items():
            group = root.create_group(name)
            weights = [f"{name}/array_{index}:0" for index in range(len(arrays))]
            group.attrs["weight_names"] = [weight.encode() for weight in weights]
            for weight, array in zip(weights, arrays, strict=True):
                group[weight] = array
    return path


def numbered(path: Path, layers: Layers) -> Path:
    """As Keras 3's saving_lib writes."""
    with h5py.File(path, "w") as file:
        for name, arrays in layers.items():
            group = file.create_group(f"layers/{name}/vars")
            for index, array in enumerate(arrays):
                group[str(index)] = array
    return path


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_keras(path)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


@pytest.mark.parametrize(("inside", "chunks"), [("", 1), ("model_weights", 1), ("", 3)])
def test_legacy_files_keep_their_order_and_lose_their_names(
    tmp_path: Path, inside: str, chunks: int
) -> None:
    tensors = read_keras(legacy(tmp_path / "w.h5", inside=inside, chunks=chunks))
    assert {name: tensor.flatten()[0].item() for name, tensor in tensors.items()} == {
        "conv2d/0/kernel": 7,
        "batch_normalization/0/beta": 0,
        "batch_normalization/0/moving_mean": 1,
        "batch_normalization/0/moving_variance": 2,
        "conv2d/1/kernel": 5,
        "conv2d/1/bias": 1,
        "batch_normalization/1/gamma": 3,
        "batch_normalization/1/beta": 4,
        "batch_normalization/1/moving_mean": 5,
        "batch_normalization/1/moving_variance": 6,
        "separable_conv2d/0/depthwise_kernel": 1,
        "separable_conv2d/0/pointwise_kernel": 1,
        "dense/0/kernel": 1,
        "dense/0/bias": 1,
    }
    assert tensors["separable_conv2d/0/pointwise_kernel"].shape == (1, 1, 4, 5)


def test_keras_3_s_files_go_by_number_and_not_by_alphabet(tmp_path: Path) -> None:
    names = ["conv2d", *(f"conv2d_{number}" for number in range(1, 12)), "dense", "dropout"]
    layers = {name: [ones(1, 1, 2, 2, value=place)] for place, name in enumerate(names)}
    layers |= {"dense": [ones(2, 3), ones(3)], "dropout": []}
    found = read_keras(numbered(tmp_path / "w.weights.h5", layers))
    assert [found[f"conv2d/{place}/kernel"][0, 0, 0, 0].item() for place in range(12)] == [
        *range(12)
    ]


@pytest.mark.parametrize("kind", ["<f2", ">f4", "<f8"])
def test_other_kinds_of_numbers(tmp_path: Path, kind: str) -> None:
    values = np.arange(6.0).reshape(2, 3).astype(kind)
    found = read_keras(legacy(tmp_path / "w.h5", {"dense": [values, values[0]]}))
    assert found["dense/0/kernel"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("keep", [0.0001, 0.01, 0.3, 0.6, 0.999])
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_truncated_files(tmp_path: Path, suffix: str, keep: float) -> None:
    whole = legacy(tmp_path / "whole.h5")
    if suffix == ".keras":
        with zipfile.ZipFile(tmp_path / "whole.keras", "w") as archive:
            archive.write(whole, "model.weights.h5")
        whole = tmp_path / "whole.keras"
    content = whole.read_bytes()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(content[: max(1, int(len(content) * keep))])
    assert "truncated" in refusal(path)


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_files_that_are_something_else(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(b"<html>404</html>")
    assert "no Keras file" in refusal(path)


def test_an_archive_without_weights(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    assert "no item named 'model.weights.h5'" in refusal(tmp_path / "w.keras")


def test_hdf5_of_somebody_else(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["images"] = ones(2, 3)
    message = refusal(tmp_path / "data.h5")
    assert "without Keras's list of layers (found images)" in message
    assert "save_weights" in message


def test_a_layer_that_is_listed_but_missing(tmp_path: Path) -> None:
    path = legacy(tmp_path / "w.h5")
    with h5py.File(path, "a") as file:
        del file["sepconv"]
    assert "damaged" in refusal(path)


@pytest.mark.parametrize(
    "arrays", [[ones(2), ones(2), np.float32(3)], [ones(3, 3, 2, 2), ones(2), ones(2)], [ones(5)]]
)
def test_layers_of_other_kinds(tmp_path: Path, arrays: list[Any]) -> None:
    message = refusal(legacy(tmp_path / "w.h5", {**LAYERS, "normalization": arrays}))
    assert f"layer 'normalization' with {len(arrays)} arrays" in message


def test_arrays_in_another_file_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(24))
    path = legacy(tmp_path / "w.h5", {"dense": [ones(2, 3), ones(3)]})
    with h5py.File(path, "a") as file:
        del file["dense/dense/array_0:0"]
        file["dense"].create_dataset(
            "dense/array_0:0", (2, 3), "<f4", external=[(str(tmp_path / "secret"), 0, 24)]
        )
    assert "lies in another file" in refusal(path)


def test_links_to_another_file_are_not_followed(tmp_path: Path) -> None:
    legacy(tmp_path / "other.h5")
    path = legacy(tmp_path / "w.h5")
    with h5py.File(path, "a") as file:
        del file["predictions"]
        file["predictions"] = h5py.ExternalLink("other.h5", "/predictions")
    assert "lies in another file" in refusal(path)
