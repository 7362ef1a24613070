"""Our networks against torchvision's and timm's own, block by block, on the same weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from inception_deploy.networks import NETWORKS

BOUND = 1e-5  # max |ours - theirs| / max |theirs|


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


@torch.no_grad()
def randomise(module: nn.Module, seed: int) -> None:
    """Random weights and batch-norm statistics that keep activations of order one."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            fan_in = layer.weight[0].numel()
            layer.weight.normal_(0.0, (2.0 / fan_in) ** 0.5, generator=generator)
            if layer.bias is not None:
                layer.bias.normal_(0.0, 0.2, generator=generator)
        elif isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.weight.uniform_(0.5, 1.5, generator=generator)
            layer.bias.normal_(0.0, 0.2, generator=generator)
            layer.running_mean.normal_(0.0, 0.2, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)


@torch.no_grad()
def traced(module: nn.Module, names: list[str], x: Tensor) -> dict[str, Tensor]:
    """Each named submodule's output, and the network's as "logits"."""
    outputs: dict[str, Tensor] = {}
    for name in names:

        def keep(
            _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor, name: str = name
        ) -> None:
            outputs[name] = output.clone()

        module.get_submodule(name).register_forward_hook(keep)
    outputs["logits"] = module(x)
    return outputs


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """Small images only wait on a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_one_thread")
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
    expected, got = traced(theirs, names, x), traced(ours, names, x)
    assert list(got) == list(expected) == [*names, "logits"]
    errors = {n: float((got[n] - e).abs().max() / e.abs().max()) for n, e in expected.items()}
    assert {n: error for n, error in errors.items() if not error <= BOUND} == {}
    assert all(0 < float(e.abs().max()) < 1e6 for e in expected.values())


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
