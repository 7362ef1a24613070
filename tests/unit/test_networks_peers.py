"""Our networks against other people's modules, block by block, on the same weights.

facenet-pytorch pins an old torch and cannot be installed beside this one, and Caffe not at all;
test_networks_facenet.py and test_networks_caffe.py compare with transcriptions of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pretrainedmodels
import pytest
import torch
from peers import block_outputs, layer_counts, loaded, noise, randomise, too_far
from pytorch_fid import inception as pytorch_fid
from torch import Tensor, nn

from benchmarks.peer_networks import (
    pytorch_fid_inception,
    timm_network,
    torchvision_googlenet,
    torchvision_inception_v3,
)
from inception_deploy.networks import NETWORKS


def timm_inception_v3() -> Any:
    return timm_network("inception_v3")


def timm_inception_v4() -> Any:
    return timm_network("inception_v4")


def timm_inception_resnet_v2() -> Any:
    return timm_network("inception_resnet_v2")


def cadene_inception_v4() -> Any:
    return pretrainedmodels.inceptionv4(num_classes=1001, pretrained=None)


def cadene_inception_resnet_v2() -> Any:
    return pretrainedmodels.inceptionresnetv2(num_classes=1001, pretrained=None)


@dataclass(frozen=True)
class Peer:
    """A public implementation; `size` gives odd and even maps, so rounding rules show."""

    network: str
    layout: str
    build: Callable[[], Any]
    size: int


PEERS = [
    Peer("googlenet", "torchvision", torchvision_googlenet, 64),
    Peer("googlenet", "torchvision", torchvision_googlenet, 83),
    Peer("inception_v3", "torchvision", torchvision_inception_v3, 97),
    Peer("inception_v3", "timm", timm_inception_v3, 111),
    Peer("inception_v4", "timm", timm_inception_v4, 97),
    Peer("inception_resnet_v2", "timm", timm_inception_resnet_v2, 97),
]


@pytest.mark.parametrize("peer", PEERS, ids=lambda p: f"{p.build.__name__}-{p.size}")
def test_every_block_equals_the_peer_s(peer: Peer) -> None:
    theirs = peer.build().eval()
    randomise(theirs, seed=3, gain=2.0)
    ours, found = loaded(peer.network, theirs.state_dict())
    assert found.layout.name == peer.layout
    names = [name for name, _ in ours.blocks()]
    x = noise(peer.size)
    assert too_far(names, block_outputs(ours, names, x), block_outputs(theirs, names, x)) == {}


def test_every_block_equals_pytorch_fid_s() -> None:
    theirs = pytorch_fid_inception().eval()
    randomise(theirs, seed=3, gain=2.0)
    ours, found = loaded("inception_v3_fid", theirs.state_dict())
    assert found.layout.name == "pytorch-fid"
    assert found.num_classes == 1008
    names = [name for name, _ in ours.blocks()]
    x = noise(97)
    assert too_far(names, block_outputs(ours, names, x), block_outputs(theirs, names, x)) == {}


def test_features_are_those_that_pytorch_fid_compares(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = pytorch_fid_inception()
    randomise(theirs, seed=3, gain=2.0)
    monkeypatch.setattr(pytorch_fid, "fid_inception_v3", lambda: theirs)
    extractor = pytorch_fid.InceptionV3(resize_input=False).eval()
    ours, _ = loaded("inception_v3_fid", theirs.state_dict())
    ours.head = "features"
    pixels = torch.rand(2, 3, 97, 97, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        (expected,) = extractor(pixels)
        got = ours((pixels - 0.5) / 0.5)
    assert got.shape == (2, 2048)
    assert too_far([], [got], [expected.flatten(1)]) == {}


def cadene_blocks(theirs: Any, x: Tensor) -> dict[str, Tensor]:
    """What Cadene's flat BN-Inception computes, its branches concatenated to our blocks."""
    layers = [name for name, layer in theirs.named_children() if isinstance(layer, nn.ReLU)]
    layers += [name for name, _ in theirs.named_children() if name.endswith(("3c_pool", "4e_pool"))]
    *found, logits = block_outputs(theirs, layers, x)
    outputs = dict(zip(layers, found, strict=True))
    blocks = {
        "conv1_7x7_s2": outputs["conv1_relu_7x7"],
        "conv2_3x3_reduce": outputs["conv2_relu_3x3_reduce"],
        "conv2_3x3": outputs["conv2_relu_3x3"],
    }
    for row in ("3a", "3b", "3c", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        block = f"inception_{row}"
        branches = ["relu_1x1", "relu_3x3", "relu_double_3x3_2", "relu_pool_proj", "pool"]
        present = [outputs[f"{block}_{b}"] for b in branches if f"{block}_{b}" in outputs]
        blocks[block] = torch.cat(present, 1)
    return {**blocks, "output": logits}


def test_every_block_equals_cadene_s_bn_inception() -> None:
    theirs: Any = pretrainedmodels.bninception(pretrained=None).eval()
    randomise(theirs, seed=3, gain=2.0)
    ours, found = loaded("bn_inception", theirs.state_dict())
    assert found.layout.name == "cadene"
    names = [name for name, _ in ours.blocks()]
    x = noise(224)  # its head pools 7×7, the native size's map
    expected = cadene_blocks(theirs, x)
    assert list(expected) == [*names, "output"]
    assert too_far(names, block_outputs(ours, names, x), expected.values()) == {}


@pytest.mark.parametrize(
    ("network", "build", "layout"),
    [
        ("inception_v4", cadene_inception_v4, "timm"),
        ("inception_resnet_v2", cadene_inception_resnet_v2, "cadene"),
    ],
)
def test_cadene_s_1001_classes_lose_their_background(
    network: str, build: Callable[[], Any], layout: str
) -> None:
    theirs = build().eval()
    randomise(theirs, seed=3, gain=2.0)
    ours, found = loaded(network, theirs.state_dict())
    assert (found.layout.name, found.num_classes) == (layout, 1000)
    assert found.background_dropped
    x = noise(299, batch=1)  # their heads pool 8×8, the native size's map
    with torch.no_grad():
        assert too_far([], [ours(x)], [theirs(x)[:, 1:]]) == {}


@dataclass(frozen=True)
class Published:
    """Counts without auxiliary heads, at 1000 classes; MACs as printed in the literature."""

    params: int
    giga_macs: str
    convolutions: int
    norms: int
    buffer_elements: int
    state_keys: int


PUBLISHED: Mapping[str, Published] = {
    "bn_inception": Published(11_295_240, "2.033", 69, 69, 20_101, 485),
    "googlenet": Published(6_624_904, "1.498", 57, 57, 14_617, 344),
    "googlenet_lrn": Published(6_998_552, "1.583", 57, 0, 0, 116),
    "inception_v3": Published(23_834_568, "5.713", 94, 94, 34_526, 566),
    "inception_v4": Published(42_679_816, "12.254", 149, 149, 63_317, 896),
    # the embedding's own counts, and a 512 → 1000 classifier; its last batch norm is not a 2-d one
    "inception_resnet_v1": Published(23_482_624 + 513_000, "1.418", 132, 111, 29_712, 714 + 2),
    "inception_resnet_v2": Published(55_843_464, "13.156", 244, 204, 60_748, 1306),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_the_published_ones(name: str) -> None:
    spec, published = NETWORKS.get(name), PUBLISHED[name]
    assert spec.params == published.params
    assert f"{spec.macs / 1e9:.3f}" == published.giga_macs
    assert layer_counts(name) == (
        published.convolutions,
        published.norms,
        published.buffer_elements,
        published.state_keys,
    )
