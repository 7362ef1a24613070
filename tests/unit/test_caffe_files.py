"""Reading Caffe's protocol buffers: both generations of layers, and what a damaged file says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from caffe_models import caffemodel

from inception_deploy.caffe_files import read_caffe
from inception_deploy.errors import CheckpointError

KERNEL = np.arange(24.0, dtype=np.float32).reshape(2, 3, 2, 2)
MATRIX = np.arange(10.0, dtype=np.float32).reshape(2, 5)
BIAS = np.array([7.0, -1.5], np.float32)
LAYERS = {"conv1/7x7_s2": [KERNEL, BIAS], "pool": [], "loss3/classifier": [MATRIX, BIAS]}


def written(folder: Path, content: bytes) -> Path:
    path = folder / "w.caffemodel"
    path.write_bytes(content)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_caffe(path)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("legacy", [True, False], ids=["layers", "layer"])
def test_both_generations(tmp_path: Path, legacy: bool, packed: bool) -> None:
    path = written(tmp_path, caffemodel(LAYERS, legacy=legacy, packed=packed))
    tensors = read_caffe(path)
    assert set(tensors) == {
        *("conv1/7x7_s2.weight", "conv1/7x7_s2.bias"),
        *("loss3/classifier.weight", "loss3/classifier.bias"),
    }
    for layer, arrays in LAYERS.items():
        for role, array in zip(("weight", "bias"), arrays, strict=False):
            assert tensors[f"{layer}.{role}"].dtype == torch.float32
            np.testing.assert_array_equal(tensors[f"{layer}.{role}"].numpy(), array)


def test_a_matrix_with_one_row_keeps_it(tmp_path: Path) -> None:
    content = caffemodel({"fc": [MATRIX[:1], BIAS[:1]]}, legacy=True)
    tensors = read_caffe(written(tmp_path, content))
    assert tensors["fc.weight"].shape == (1, 5)
    assert tensors["fc.bias"].shape == (1,)


def test_upgraded_files_keep_four_axes_in_the_new_field(tmp_path: Path) -> None:
    content = caffemodel({"fc": [MATRIX[None, None], BIAS[None, None, None]]})
    tensors = read_caffe(written(tmp_path, content))
    assert tensors["fc.weight"].shape == (2, 5)
    assert tensors["fc.bias"].shape == (2,)


def test_doubles_and_further_blobs(tmp_path: Path) -> None:
    values = np.array([1.0, 1e-300])
    content = caffemodel({"bn": [values, values + 1, values + 2]})
    tensors = read_caffe(written(tmp_path, content))
    assert set(tensors) == {"bn.weight", "bn.bias", "bn.2"}
    assert tensors["bn.weight"].tolist() == [1.0, 1e-300]


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.999])
def test_truncated_files(tmp_path: Path, keep: float) -> None:
    content = caffemodel({"conv": [np.ones((8, 8, 5, 5), np.float32)]})
    path = written(tmp_path, content[: int(len(content) * keep)])
    assert "truncated" in refusal(path)


@pytest.mark.parametrize("content", [b"<html>404</html>", bytes(range(256)), b"\x00"])
def test_files_that_are_something_else(tmp_path: Path, content: bytes) -> None:
    assert "no .caffemodel" in refusal(written(tmp_path, content))


def test_a_shape_that_does_not_fit(tmp_path: Path) -> None:
    good = caffemodel({"conv": [np.ones((3, 5), np.float32)]})
    shape = b"\x0a\x02\x03\x05"
    assert shape in good
    message = refusal(written(tmp_path, good.replace(shape, b"\x0a\x02\x03\x06")))
    assert "'conv.weight' has 15 values for the shape (3, 6)" in message


def test_a_network_without_weights(tmp_path: Path) -> None:
    message = refusal(written(tmp_path, caffemodel({"data": []})))
    assert "upgrade_net_proto_binary" in message
