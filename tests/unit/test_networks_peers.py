"""Our networks against torchvision's and timm's own, block by block, on the same weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
import timm
import torch
import torchvision
from blocks import randomise, too_far, traced
from torch import nn

from inception_deploy.networks import NETWORKS


def torchvision_googlenet() -> nn.Module:
    module: nn.Module = torchvision.models.googlenet(
        weights=None, aux_logits=True, transform_input=False, init_weights=False
    )
    return module


def torchvision_inception_v3() -> nn.Module:
    module: nn.Module = torchvision.models.inception_v3(
        weights=None, aux_logits=True, transform_input=False, init_weights=False
    )
    return module


def timm_inception_v3() -> nn.Module:
    module: nn.Module = timm.create_model("inception_v3", pretrained=False)
    return module


def timm_inception_resnet_v2() -> nn.Module:
    module: nn.Module = timm.create_model("inception_resnet_v2", pretrained=False)
    return module


@dataclass(frozen=True)
class Peer:
    """A public implementation; `size` gives odd and even maps, so rounding rules show."""

    network: str
    build: Callable[[], nn.Module]
    size: int


PEERS = [
    Peer("googlenet", torchvision_googlenet, 64),
    Peer("googlenet", torchvision_googlenet, 83),
    Peer("inception_v3", torchvision_inception_v3, 97),
    Peer("inception_v3", timm_inception_v3, 111),
    Peer("inception_resnet_v2", timm_inception_resnet_v2, 97),
]


@pytest.mark.parametrize("peer", PEERS, ids=lambda p: f"{p.build.__name__}-{p.size}")
def test_every_block_equals_the_peer_s(peer: Peer) -> None:
    theirs = peer.build().eval()
    randomise(theirs, seed=3)
    spec = NETWORKS.get(peer.network)
    ours = spec.build().eval()
    layout = spec.layouts[0]
    renamed = {layout.rename(key): value for key, value in theirs.state_dict().items()}
    ours.load_state_dict({key: value for key, value in renamed.items() if key is not None})

    x = torch.randn(2, 3, peer.size, peer.size, generator=torch.Generator().manual_seed(4))
    names = [name for name, _ in ours.blocks()]
    assert too_far(traced(ours, names, x), traced(theirs, names, x)) == {}


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
    "googlenet": Published(6_624_904, "1.498", 57, 57, 14_617, 344),
    "inception_v3": Published(23_834_568, "5.713", 94, 94, 34_526, 566),
    "inception_resnet_v2": Published(55_843_464, "13.156", 244, 204, 60_748, 1306),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_the_published_ones(name: str) -> None:
    spec, published = NETWORKS.get(name), PUBLISHED[name]
    with torch.device("meta"):
        module = spec.build()
    assert spec.params == published.params
    assert f"{spec.macs / 1e9:.3f}" == published.giga_macs
    layers = list(module.modules())
    assert sum(isinstance(m, nn.Conv2d) for m in layers) == published.convolutions
    assert sum(isinstance(m, nn.BatchNorm2d) for m in layers) == published.norms
    assert sum(b.numel() for b in module.buffers()) == published.buffer_elements
    assert len(module.state_dict()) == published.state_keys
