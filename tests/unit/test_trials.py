"""The PyTorch side of a trial."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inception_deploy.networks import NETWORKS
from inception_deploy.networks.base import InceptionNetwork
from inception_deploy.random_weights import random_network
from inception_deploy.trials import torch_predictor
from inception_deploy.user_module import UserNetwork


class Strict(nn.Module):
    """Reads its image as one row, which PyTorch refuses of any other layout than the plain one."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.last = nn.Linear(3 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(x.view(len(x), -1)) + self.body(x).mean((2, 3)).sum(1, keepdim=True)
        return out


def test_the_layout_of_images_changes_nothing_but_the_last_digits() -> None:
    module = random_network(NETWORKS.get("googlenet"), 0, num_classes=7, width=0.125, image_size=64)
    images = np.random.default_rng(0).standard_normal((3, 3, 64, 64)).astype(np.float32)
    with torch.no_grad():
        plain = module(torch.from_numpy(images)).numpy()
    found = torch_predictor(module)(images)
    assert found.shape == (3, 7)
    np.testing.assert_allclose(found, plain, atol=1e-5 * np.abs(plain).max())


def test_the_family_is_given_the_channels_of_a_pixel_side_by_side(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = random_network(NETWORKS.get("googlenet"), 0, num_classes=7, width=0.125, image_size=64)
    given: list[Tensor] = []
    forward = InceptionNetwork.forward
    monkeypatch.setattr(
        InceptionNetwork, "forward", lambda self, x: (given.append(x), forward(self, x))[1]
    )
    torch_predictor(module)(np.zeros((2, 3, 64, 64), np.float32))
    assert given[0].is_contiguous(memory_format=torch.channels_last)


def test_a_users_network_gets_images_as_they_are() -> None:
    images = torch.randn(2, 3, 8, 8)
    network = UserNetwork(Strict(), images)
    with pytest.raises(RuntimeError, match="view"):
        network(images.contiguous(memory_format=torch.channels_last))
    assert torch_predictor(network)(images.numpy()).shape == (2, 5)
