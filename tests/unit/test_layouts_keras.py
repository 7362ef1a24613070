"""Keras's networks: files that Keras itself has written, and its outputs on the same weights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import pytest
import torch
from peers import BOUND, block_outputs, noise, relative_errors, too_far
from torch.nn import functional as F

from benchmarks.keras_networks import (
    KERAS,
    KERAS_FORMATS,
    KerasOrigin,
    keras_network,
    keras_outputs,
    save_keras,
)
from inception_deploy.checkpoints import read_checkpoint
from inception_deploy.errors import CheckpointError
from inception_deploy.export import export
from inception_deploy.golden import record_golden
from inception_deploy.matching import identify, match
from inception_deploy.networks import NETWORKS
from inception_deploy.networks._keras import inception_v3_layers
from inception_deploy.networks.xception import SamePool, Xception
from inception_deploy.reference import load_reference


def block_ends(module: Any, network: str) -> list[Any]:
    """Keras's layers that put out what our blocks do, in the same order."""
    layers: list[Any] = module.layers

    def named(pattern: str) -> list[Any]:
        return [layer for layer in layers if re.fullmatch(pattern, layer.name)]

    def of_kind(kind: str) -> list[Any]:
        return [layer for layer in layers if type(layer).__name__ == kind]

    if network == "xception":
        ends = of_kind("Add")
        return [*named(r"block1_conv\d_act"), *ends, *named(r"block14_sepconv\d_act")]
    stem = of_kind("Activation")[:5]
    if network == "inception_v3":
        return [*stem, *named(r"mixed\d+")]
    scaled = of_kind("CustomScaleLayer")
    ends = named(r"mixed_\d[a-z]|block(35|17|8)_\d+_ac")
    return [*stem, *ends, scaled[-1], *named("conv_7b_ac")]  # the last block has no activation


@pytest.mark.parametrize("origin", KERAS, ids=lambda o: o.network)
def test_a_file_of_keras_s_gives_keras_s_blocks(tmp_path: Path, origin: KerasOrigin) -> None:
    theirs = keras_network(origin.model, origin.size)
    save_keras(theirs, tmp_path / "weights.h5")
    reference = load_reference(None, str(tmp_path / "weights.h5"), image_size=origin.size)
    assert reference.name == origin.network
    assert reference.weights.detail == "keras layout, 1000 classes"
    assert reference.preprocessing.mean == reference.preprocessing.std == (0.5, 0.5, 0.5)
    assert reference.preprocessing.interpolation == "bilinear"

    names = [name for name, _ in reference.module.blocks()]
    x = noise(origin.size, batch=1)
    ends = block_ends(theirs, origin.network)
    expected = [t.permute(0, 3, 1, 2) if t.ndim == 4 else t for t in keras_outputs(theirs, ends, x)]
    assert too_far(names, block_outputs(reference.module, names, x), expected) == {}


@pytest.mark.parametrize("size", [75, 98])
def test_xception_s_pools_are_right_at_other_sizes(tmp_path: Path, size: int) -> None:
    sample = replace(KERAS[0], size=size).sample(tmp_path)
    reference = load_reference("xception", str(sample.path), image_size=size)
    with torch.no_grad():
        assert relative_errors([reference.module(sample.images)], [sample.logits])[0] <= BOUND
    port = Xception(eps=1e-3).eval()
    port.load_state_dict(reference.module.state_dict())
    with torch.no_grad():
        assert relative_errors([port(sample.images)], [sample.logits])[0] > 100 * BOUND


@cache
def small_keras(classes: int = 10, top: bool = True) -> Any:
    return keras_network("Xception", 75, classes, include_top=top)


def test_every_format_holds_the_same_tensors(tmp_path: Path) -> None:
    found = []
    for ending in KERAS_FORMATS:
        save_keras(small_keras(), tmp_path / f"w{ending}")
        checkpoint = read_checkpoint(tmp_path / f"w{ending}")
        assert identify(checkpoint).name == "xception"
        found.append(match(checkpoint, NETWORKS.get("xception")))
    whole = tmp_path / "whole.h5"
    with h5py.File(tmp_path / "w.h5") as weights, h5py.File(whole, "w") as model:
        weights.copy(weights, model, name="model_weights")
        model.attrs["model_config"] = "{}"
    found.append(match(read_checkpoint(whole), NETWORKS.get("xception")))
    assert [f.num_classes for f in found] == [10] * 4
    for other in found[1:]:
        assert other.state_dict.keys() == found[0].state_dict.keys()
        for name, tensor in other.state_dict.items():
            assert torch.equal(tensor, found[0].state_dict[name])


def test_the_order_is_keras_s_and_not_that_of_construction() -> None:
    """Keras numbers layers as they are built; its list of them is another order."""
    module = keras_network("InceptionV3", 75, classes=2)
    convolutions = [layer.name for layer in module.layers if layer.name.startswith("conv2d")]
    numbers = [int(re.sub(r"\D+2d_?", "", name) or 0) for name in convolutions]
    assert numbers != sorted(numbers)
    built = [number - min(numbers) for number in numbers]
    order = inception_v3_layers()["conv2d"]
    by_number = [block for _, block in sorted(zip(built, order, strict=True))]
    assert by_number[5:12] == [
        f"Mixed_5b.{layer}.conv"
        for layer in (
            *("branch1x1", "branch5x5_1", "branch5x5_2"),
            *("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3", "branch_pool"),
        )
    ]
    assert order[5:12] == [
        f"Mixed_5b.{layer}.conv"
        for layer in (
            *("branch3x3dbl_1", "branch5x5_1", "branch3x3dbl_2"),
            *("branch1x1", "branch5x5_2", "branch3x3dbl_3", "branch_pool"),
        )
    ]


def test_weights_without_the_classifier(tmp_path: Path) -> None:
    save_keras(small_keras(top=False), tmp_path / "xception_notop.h5")
    with pytest.raises(CheckpointError, match=r"xception, keras layout, without the classifier"):
        load_reference(None, str(tmp_path / "xception_notop.h5"))


def test_a_model_inside_a_model(tmp_path: Path) -> None:
    inner = small_keras(top=False)
    import keras  # its backend was chosen by the line before

    outer = keras.Sequential([inner, keras.layers.GlobalMaxPool2D(), keras.layers.Dense(3)])
    for ending in (".h5", ".weights.h5"):
        save_keras(outer, tmp_path / f"w{ending}")
        with pytest.raises(CheckpointError, match=r"layer '\w+' .*a model inside"):
            read_checkpoint(tmp_path / f"w{ending}")


@pytest.mark.parametrize("asked", ["inception_v3", "inception_resnet_v2", None])
def test_weights_of_another_network(tmp_path: Path, asked: str | None) -> None:
    save_keras(small_keras(), tmp_path / "w.h5")
    with pytest.raises(CheckpointError, match=r"weights of xception \(keras layout\), not of"):
        load_reference(asked or "googlenet", str(tmp_path / "w.h5"))


def test_a_network_that_is_none_of_ours(tmp_path: Path) -> None:
    save_keras(keras_network("MobileNet", 32, classes=3), tmp_path / "w.h5")
    with pytest.raises(CheckpointError, match="another Keras network"):
        load_reference("xception", str(tmp_path / "w.h5"))


class TestSamePool:
    @pytest.fixture(autouse=True)
    def _no_gradients(self) -> Iterator[None]:
        with torch.no_grad():
            yield

    @pytest.mark.parametrize(("height", "width"), [(74, 37), (37, 74), (5, 5), (2, 2), (1, 4)])
    def test_it_is_tensorflow_s(self, height: int, width: int) -> None:
        x = noise(80)[..., :height, :width]
        total = [max((-(-n // 2) - 1) * 2 + 3 - n, 0) for n in (width, height)]
        pads = [side for t in total for side in (t // 2, t - t // 2)]
        expected = F.max_pool2d(F.pad(x, pads, value=-torch.inf), 3, 2)
        assert torch.equal(SamePool()(x), expected)

    @pytest.mark.parametrize("side", [75, 98])
    def test_it_exports_as_one_node_with_the_padding_of_its_map(self, side: int) -> None:
        spec = NETWORKS.get("xception")
        torch.manual_seed(0)
        module = Xception(7, 0.125, eps=1e-3, same_pools=True).eval()
        golden = record_golden(module, noise(side, batch=3).numpy().astype(np.float32))
        graph = export(
            module,
            golden,
            network=spec.name,
            preprocessing=spec.preprocessing.with_size(side),
            class_names=[f"class {index}" for index in range(7)],
        ).model.graph
        found = []
        for node in graph.node:
            if node.op_type == "MaxPool":
                attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
                found.append((attributes["pads"], attributes["ceil_mode"]))
        even, odd = ([0] * 4, 1), ([1] * 4, 0)
        assert found == {75: [odd, even, odd, odd], 98: [even, odd, even, even]}[side]
        assert not any(node.op_type == "Pad" for node in graph.node)
