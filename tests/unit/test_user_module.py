"""A module of the user's own goes the whole way, under its own names."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
import torchvision
from torch import Tensor, nn

from inception_deploy.compare import compare_bundle
from inception_deploy.errors import CheckpointError, RecipeError
from inception_deploy.foreign import module_reference
from inception_deploy.networks.base import calibrate_batch_norm
from inception_deploy.pipeline import deploy
from inception_deploy.recipe import Recipe
from inception_deploy.user_module import UserNetwork


class Block(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))


class Mine(nn.Module):
    """Two blocks, a bare layer, a parameter of its own, and a block that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Block(3, 8)
        self.second = Block(8, 16)
        self.blocks = nn.Identity()  # named like a method of the wrapper
        self.twice = nn.Sequential(nn.Conv2d(16, 16, 1), nn.ReLU())
        self.norm = nn.BatchNorm2d(16)
        self.gain = nn.Parameter(torch.full((1, 16, 1, 1), 0.5))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.second(self.first(x)))
        x = self.norm(self.twice(self.twice(x))) * self.gain
        return self.head(x.mean((2, 3)))


def test_blocks_and_names_are_the_module_s_own() -> None:
    module = Mine()
    network = UserNetwork(module, torch.zeros(2, 3, 32, 32))
    assert [name for name, _ in network.blocks()] == ["first", "second"]
    assert network.num_classes == 4
    assert not module.training
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(network(x), module(x))


RECIPE = Recipe(
    image_size=32,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    precision="fp16",
    data_size=16,
    calibration_size=16,
    seconds=0.0,
)


def test_a_module_is_deployed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Mine()
    calibrate_batch_norm(module, torch.randn(8, 3, 32, 32))
    bundle = deploy(RECIPE, tmp_path / "mine", module=module)
    assert bundle.manifest["network"]["name"] == "Mine"
    assert bundle.manifest["parity"]["max_rel_error"] < 1e-2
    plain = {node.name for node in onnx.load(bundle.reference).graph.node}
    assert {"first.conv", "second.bn", "head"} <= plain
    with pytest.raises(CheckpointError, match=r"--against reference\.onnx"):
        compare_bundle(bundle)
    report = compare_bundle(bundle, against="reference.onnx", data_size=8)
    assert report.to_dict()["max_rel_error"] < 1e-2


def test_torchvision_s_googlenet_is_deployed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = torchvision.models.googlenet(
        weights=None, init_weights=False, aux_logits=False, num_classes=9, transform_input=True
    )
    calibrate_batch_norm(module, torch.randn(8, 3, 64, 64))
    recipe = RECIPE.but(network="googlenet", image_size=64, mean=None, std=None, precision="fp32")
    bundle = deploy(recipe, tmp_path / "googlenet", module=module)
    assert bundle.manifest["parity"]["max_rel_error"] < 1e-4
    applied = {s["name"]: len(s["applied"]) for s in bundle.manifest["stages"]}
    assert applied["fuse/conv_bn"] == 57
    assert "inception4e" in {b["name"] for b in bundle.read_json("parity.json")["blocks"]}


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean((2, 3)), x


class Wide(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(
    ("module", "fields", "said"),
    [
        (Pair(), {}, "returns tuple"),
        (Wide(), {}, r"returns torch\.float32 \(2, 3, 32, 32\)"),
        (nn.Linear(5, 2), {}, "cannot take images"),
        (Mine(), {"image_size": None}, "image_size="),
        (Mine(), {"mean": None}, "give --mean and --std"),
        (Mine(), {"num_classes": 7}, "4 outputs, 7 classes were asked for"),
        (Mine(), {"weights": "random"}, "brings its own weights"),
    ],
)
def test_a_module_that_cannot_serve_is_refused(
    module: nn.Module, fields: dict[str, object], said: str
) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        module_reference(RECIPE.but(**fields), module)
    assert "\n" not in str(caught.value)
