"""Recognising layouts, renaming, and refusing whatever does not fit."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from inception_deploy.checkpoints import Checkpoint
from inception_deploy.errors import CheckpointError
from inception_deploy.matching import blank, identify, match
from inception_deploy.networks import NETWORKS

GOOGLENET, V3, IRV2 = (
    NETWORKS.get(name) for name in ("googlenet", "inception_v3", "inception_resnet_v2")
)


def state(network: str, classes: int = 10) -> dict[str, Tensor]:
    """Zeros in the network's own names; as many classes as tell it apart where they must."""
    spec = NETWORKS.get(network)
    counted = [layout.classes for layout in spec.layouts if layout.classes]
    blueprint = blank(spec, *(counted or [classes])).state_dict()
    return {name: torch.zeros(t.shape, dtype=t.dtype) for name, t in blueprint.items()}


def checkpoint(tensors: dict[str, Tensor]) -> Checkpoint:
    return Checkpoint(Path("weights.pth"), "0" * 64, tensors)


def numbered_head(tensors: dict[str, Tensor], classifier: str) -> dict[str, Tensor]:
    """Row r of the classifier holds the value r."""
    for key in (f"{classifier}.weight", f"{classifier}.bias"):
        rows = torch.arange(len(tensors[key]), dtype=torch.float32)
        tensors[key] = rows.reshape(-1, *[1] * (tensors[key].ndim - 1)) + tensors[key]
    return tensors


def renamed(tensors: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {name.replace(old, new): tensor for name, tensor in tensors.items()}


def refusal(
    tensors: dict[str, Tensor], network: str = "googlenet", num_classes: int | None = None
) -> str:
    with pytest.raises(CheckpointError) as caught:
        match(checkpoint(tensors), NETWORKS.get(network), num_classes=num_classes)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("weights.pth: ")
    return message


def test_googlenet_of_torchvision_drops_both_auxiliary_heads() -> None:
    tensors = state("googlenet")
    auxiliary = {"aux1.fc1.weight": torch.zeros(1), "aux2.conv.bn.bias": torch.zeros(1)}
    found = match(checkpoint(tensors | auxiliary), GOOGLENET)
    assert found.layout.name == "torchvision"
    assert set(found.dropped) == set(auxiliary)
    assert set(found.state_dict) == set(tensors)
    assert found.detail == "torchvision layout, 10 classes, 2 auxiliary tensors dropped"


@pytest.mark.parametrize(("auxiliary", "layout"), [(True, "torchvision"), (False, "timm")])
def test_inception_v3_s_auxiliary_head_tells_its_sources_apart(
    auxiliary: bool, layout: str
) -> None:
    tensors = state("inception_v3")
    if auxiliary:
        tensors["AuxLogits.fc.weight"] = torch.zeros(10, 768)
    found = match(checkpoint(tensors), V3)
    assert found.layout.name == layout
    assert found.layout.preprocessing.resize == (342 if auxiliary else 341)
    assert found.dropped == (("AuxLogits.fc.weight",) if auxiliary else ())


@pytest.mark.parametrize(("head", "layout"), [("classif", "timm"), ("last_linear", "cadene")])
def test_inception_resnet_v2_drops_the_background_row(head: str, layout: str) -> None:
    tensors = numbered_head(state("inception_resnet_v2", 1001), "classif")
    found = match(checkpoint(renamed(tensors, "classif", head)), IRV2)
    assert found.layout.name == layout
    assert found.num_classes == 1000
    assert found.background_dropped
    assert "background row dropped" in found.detail
    assert torch.equal(found.state_dict["classif.bias"], torch.arange(1.0, 1001.0))
    assert found.state_dict["classif.weight"].shape == (1000, 1536)
    assert float(found.state_dict["classif.weight"][0, 0]) == 1.0


@pytest.mark.parametrize(("rows", "asked", "classes"), [(1000, None, 1000), (1001, 1001, 1001)])
def test_the_background_row_stays_where_it_should(
    rows: int, asked: int | None, classes: int
) -> None:
    tensors = numbered_head(state("inception_v3", rows), "fc")
    found = match(checkpoint(tensors), V3, num_classes=asked)
    assert found.num_classes == classes
    assert not found.background_dropped
    assert float(found.state_dict["fc.bias"][0]) == 0.0


def test_a_layout_without_background_keeps_1001_classes() -> None:
    assert match(checkpoint(state("googlenet", 1001)), GOOGLENET).num_classes == 1001


@pytest.mark.parametrize("asked", [None, 7])
def test_a_fine_tuned_head(asked: int | None) -> None:
    found = match(checkpoint(state("googlenet", 7)), GOOGLENET, num_classes=asked)
    assert found.num_classes == 7
    assert found.state_dict["fc.weight"].shape == (7, 1024)


def test_another_class_count_than_asked() -> None:
    message = refusal(state("googlenet", 7), num_classes=9)
    assert "7 classes, 9 were asked for" in message


def test_narrow_networks_match_with_their_width_and_arguments() -> None:
    build = {"repeats": [1, 2, 1]}
    blueprint = blank(IRV2, 5, 0.25, build).state_dict()
    tensors = {name: torch.zeros(t.shape) for name, t in blueprint.items()}
    found = match(checkpoint(tensors), IRV2, width=0.25, build=build)
    assert found.num_classes == 5
    module = blank(IRV2, 5, 0.25, build)
    module.load_state_dict(found.state_dict, strict=True, assign=True)
    assert all(not tensor.is_meta for tensor in module.state_dict().values())


def test_constructor_arguments_that_do_not_exist() -> None:
    with pytest.raises(CheckpointError, match=r"googlenet cannot be built with .*repeats"):
        blank(GOOGLENET, 10, 1.0, {"repeats": [1]})


def test_counters_may_be_missing_and_halves_are_widened() -> None:
    tensors = {
        name: tensor.half()
        for name, tensor in state("googlenet").items()
        if not name.endswith("num_batches_tracked")
    }
    found = match(checkpoint(tensors), GOOGLENET)
    assert found.state_dict["conv1.conv.weight"].dtype == torch.float32
    assert found.state_dict["conv1.bn.num_batches_tracked"].dtype == torch.int64


def test_missing_and_unexpected_tensors_are_listed() -> None:
    tensors = state("googlenet")
    for name in ("fc.weight", "fc.bias", "conv3.bn.weight", "conv3.bn.bias"):
        del tensors[name]
    tensors["fc.1.weight"] = torch.zeros(10, 1024)
    message = refusal(tensors)
    assert "4 tensors missing (conv3.bn.bias, conv3.bn.weight, fc.bias and 1 more)" in message
    assert "1 unexpected (fc.1.weight)" in message
    assert "torchvision layout" in message


def test_an_incomplete_file_without_the_signature_is_still_recognised() -> None:
    tensors = state("googlenet")
    del tensors["conv1.conv.weight"]  # part of the layout's signature
    assert "1 tensors missing (conv1.conv.weight)" in refusal(tensors)


@pytest.mark.parametrize("network", NETWORKS.names())
def test_weights_of_another_network_are_named(network: str) -> None:
    tensors = state(network)
    for other in NETWORKS.names():
        if other == network:
            spec = NETWORKS.get(other)
            assert match(checkpoint(tensors), spec).layout in spec.layouts
        else:
            assert f"weights of {network} (" in refusal(tensors, other)


@pytest.mark.parametrize("network", NETWORKS.names())
def test_the_network_is_identified_from_the_file(network: str) -> None:
    tensors = state(network)
    assert identify(checkpoint(tensors)).name == network
    stripped = {n: t for n, t in tensors.items() if "classif" not in n and "conv1.conv" not in n}
    assert identify(checkpoint(stripped)).name == network  # by overlap, without the signature


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("layer1.0.conv1.weight", "a ResNet"),
        ("features.3.conv.conv.weight", "Inception v4"),
        ("InceptionV3/Conv2d_1a_3x3/weights", "a TF-slim export"),
        ("repeat_3.0.branch0.conv.weight", "facenet"),
        ("inception_3a_1x1.weight", "BN-Inception"),
        ("my.own.layer", "found my.own.layer"),
    ],
)
def test_foreign_weights_get_a_guess(name: str, source: str) -> None:
    tensors = {name: torch.zeros(1)}
    message = refusal(tensors)
    assert source in message
    assert "known layouts: torchvision" in message
    with pytest.raises(CheckpointError, match=r"not weights of any network here.*googlenet"):
        identify(checkpoint(tensors))


def spoil(tensor: Tensor, value: float) -> Tensor:
    spoiled = tensor.clone()
    spoiled.view(-1)[0] = value
    return spoiled


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("inception3a.branch3.1.conv.weight", lambda t: t.new_zeros(32, 16, 5, 5), "16, 5, 5"),
        ("fc.weight", lambda t: t[:, :512], r"\(10, 512\), expected \(10, 1024\)"),
        ("conv2.conv.weight", lambda t: spoil(t, float("nan")), "1 NaN or infinite"),
        ("conv2.bn.running_mean", lambda t: spoil(t, float("inf")), "1 NaN or infinite"),
        ("conv2.conv.weight", lambda t: spoil(t.double(), 1e300), "1 NaN or infinite"),
        ("conv2.bn.running_var", lambda t: spoil(t, -1.0), "negative variance"),
        ("conv2.conv.weight", lambda t: t.to(torch.int8), "torch.int8; float"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit(name: str, change: Callable[[Tensor], Tensor], words: str) -> None:
    tensors = state("googlenet")
    tensors[name] = change(tensors[name])
    message = refusal(tensors)
    assert f"'{name}'" in message
    assert re.search(words, message)
