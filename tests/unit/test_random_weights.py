"""Seeded random networks: reproducible, and of order one on whatever they see."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peers import block_outputs, relative_errors
from torch import Tensor, nn
from torch.nn import functional as F

from inception_deploy.networks import NETWORKS, InceptionNetwork
from inception_deploy.random_weights import octave_noise, pixel_spread, random_network


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
    spec = NETWORKS.get(network)
    size = -(-(spec.min_size + 53) // spec.size_step) * spec.size_step
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
    spread = pixel_spread(spec.preprocessing)
    module(images[kind] * spread)
    assert list(sizes) == [name for name, _ in module.blocks()]
    # without batch norm it is the order of the images
    unit = 1.0 if any(isinstance(m, nn.BatchNorm2d) for m in module.modules()) else spread.mean()
    assert {name: s for name, s in sizes.items() if not 0.05 < s / unit < 50} == {}


@pytest.mark.parametrize("network", NETWORKS.names())
@torch.no_grad()
def test_no_block_magnifies_rounding(network: str) -> None:
    """Weights rounded to float16 move no block by more than 32 roundings' worth."""
    spec = NETWORKS.get(network)
    size = -(-(spec.min_size + 21) // spec.size_step) * spec.size_step
    exact = random_network(spec, 0, num_classes=10, width=0.25, image_size=size)
    rounded = random_network(spec, 0, num_classes=10, width=0.25, image_size=size)
    for parameter in rounded.parameters():
        parameter.copy_(parameter.half())
    torch.manual_seed(2)
    x = octave_noise(4, size) * pixel_spread(spec.preprocessing)
    names = [name for name, _ in exact.blocks()]
    moved, expected = block_outputs(rounded, names, x), block_outputs(exact, names, x)
    errors = dict(zip([*names, "output"], relative_errors(moved, expected), strict=True))
    assert {name: error for name, error in errors.items() if not error < 32 * 2.0**-11} == {}


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
