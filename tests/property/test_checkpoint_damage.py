"""A damaged weights file is refused with a CheckpointError, whatever the damage."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from caffe_models import caffemodel
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from inception_deploy.checkpoints import Checkpoint, read_checkpoint
from inception_deploy.errors import CheckpointError


def _numpy() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{name: tensor.numpy() for name, tensor in TENSORS.items()})
    return buffer.getvalue()


def _pytorch(zipped: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(TENSORS, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def _keras() -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["layer_names"] = [b"dense"]
        file.create_group("dense").attrs["weight_names"] = [b"kernel", b"bias"]
        file["dense/kernel"] = TENSORS["conv.weight"].numpy()
        file["dense/bias"] = TENSORS["fc.bias"].numpy()
    return buffer.getvalue()


def _caffe() -> bytes:
    # one layer: a prefix that ends between two would be a whole, smaller file
    weight, bias = (tensor.numpy() for tensor in TENSORS.values())
    return caffemodel({"fc": [weight, bias]})


TENSORS = {"conv.weight": torch.arange(300.0).reshape(3, 100), "fc.bias": torch.ones(5)}
FILES = {
    "zip.pth": _pytorch(zipped=True),
    "pickle.pth": _pytorch(zipped=False),
    "tensors.safetensors": save(TENSORS),
    "tensors.npz": _numpy(),
    "weights.h5": _keras(),
    "weights.caffemodel": _caffe(),
}


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_prefix_of_a_file_loads(name: str, data: st.DataObject) -> None:
    content = FILES[name]
    length = data.draw(st.integers(0, len(content) - 1))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            read_checkpoint(path)


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_flipped_bytes_never_escape_as_another_error(name: str, data: st.DataObject) -> None:
    content = bytearray(FILES[name])
    places = st.integers(0, len(content) - 1)
    for place in data.draw(st.lists(places, min_size=1, max_size=4)):
        content[place] ^= data.draw(st.integers(1, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        outcome: Any
        try:
            outcome = read_checkpoint(path)
        except CheckpointError as error:
            outcome = str(error)
    assert isinstance(outcome, Checkpoint) or "\n" not in outcome
