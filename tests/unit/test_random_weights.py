"""Seeded random networks: reproducible, and of order one on whatever they see."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from inception_deploy.networks import NETWORKS, InceptionNetwork
from inception_deploy.random_weights import octave_noise, random_network


def built(network: str = "googlenet", seed: int = 0, size: int = 64) -> InceptionNetwork:
    return random_network(NETWORKS.get(network), seed, num_classes=10, width=0.125, image_size=size)


def test_the_seed_fixes_every_tensor() -> None:
    one, again, other = (built(seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(tensor, again[name]) for name, tensor in one.items())
    for name in ("conv1.conv.weight", "conv1.bn.running_var", "fc.weight"):
        assert not torch.equal(one[name], other[name])


def test_torch_s_own_generator_is_left_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    built()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("network", NETWORKS.names())
@pytest.mark.parametrize("kind", ["white", "smooth", "octaves"])
@torch.no_grad()
def test_activations_are_of_order_one_in_every_block(network: str, kind: str) -> None:
    size = NETWORKS.get(network).min_size + 53
    module = built(network, seed=1, size=size)
    sizes: dict[str, float] = {}
    for name, block in module.blocks():

        def measure(_m: Any, _i: Any, output: Tensor, name: str = name) -> None:
            sizes[name] = float(output.square().mean().sqrt())

        block.register_forward_hook(measure)
    torch.manual_seed(2)
    images = {
        "white": torch.randn(4, 3, size, size),
        "smooth": F.interpolate(torch.randn(4, 3, 6, 6), size=(size, size), mode="bilinear"),
        "octaves": octave_noise(4, size),
    }
    module(images[kind])
    assert list(sizes) == [name for name, _ in module.blocks()]
    assert {name: s for name, s in sizes.items() if not 0.05 < s < 50} == {}


def test_octave_noise_has_coarse_structure_and_varied_contrast() -> None:
    torch.manual_seed(0)
    images = octave_noise(16, 64)
    assert images.shape == (16, 3, 64, 64)
    spread = images.std((1, 2, 3))
    assert float(spread.min()) >= 0.24
    assert float(spread.max()) <= 1.26
    assert float(spread.max() / spread.min()) > 1.5
    coarse = F.avg_pool2d(images, 16)  # of white noise 1/16 of the deviation would be left
    assert float(coarse.std() / images.std()) > 0.3
