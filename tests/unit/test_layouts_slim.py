"""TF-slim's checkpoints: loaded from slim's names, every block equals slim's own arithmetic.

TensorFlow is not needed: tests/slim_networks.py transcribes slim's published networks, variables
and padding included, and these tests compare with it on the same random variables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slim_networks
import torch
from peers import BOUND, block_outputs, relative_errors, too_far
from safetensors.torch import save_file
from slim_networks import Slim
from torch import Tensor

from inception_deploy.checkpoints import Checkpoint, read_checkpoint
from inception_deploy.errors import CheckpointError
from inception_deploy.matching import Match, blank, identify, match
from inception_deploy.networks import NETWORKS, InceptionNetwork
from inception_deploy.reference import load_reference

WIDTH = 0.125

V4_BLOCKS = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Mixed_3a", "Mixed_4a", "Mixed_5a"),
    *(f"Mixed_5{letter}" for letter in "bcde"),
    *(f"Mixed_6{letter}" for letter in "abcdefgh"),
    *(f"Mixed_7{letter}" for letter in "abcd"),
)


def same_name(end_point: str) -> str:
    return end_point


def googlenet_block(end_point: str) -> str:
    if end_point.startswith("Conv2d"):
        return {"1a": "conv1", "2b": "conv2", "2c": "conv3"}[end_point.split("_")[1]]
    return f"inception{end_point[6]}{chr(ord(end_point[7]) - 1)}"


def v4_block(end_point: str) -> str:
    return f"features.{V4_BLOCKS.index(end_point)}"


def resnet_block(end_point: str) -> str:
    stage, _, number = end_point.rpartition("_")
    if stage.startswith("Repeat"):
        return f"{stage.partition('/')[0].lower()}.{int(number) - 1}"
    return end_point.lower().removesuffix("_3x3").removesuffix("_1x1")


@dataclass(frozen=True)
class Case:
    """A slim network, its name here, and how its end points are called here."""

    network: str
    root: str
    run: Callable[[Slim, Tensor, int], Tensor]
    block: Callable[[str], str]
    size: int

    def slim(self, classes: int = 12, width: float = WIDTH) -> tuple[Slim, Tensor, Tensor]:
        """The network after one pass: its variables and end points, the images, the logits."""
        net = Slim(self.root, depth=width, seed=5)
        x = torch.randn(2, 3, self.size, self.size, generator=torch.Generator().manual_seed(6))
        return net, x, self.run(net, x, classes)


CASES = [
    Case("googlenet", "InceptionV1", slim_networks.inception_v1, googlenet_block, 64),
    Case("inception_v3", "InceptionV3", slim_networks.inception_v3, same_name, 97),
    Case("inception_v4", "InceptionV4", slim_networks.inception_v4, v4_block, 97),
    Case(
        "inception_resnet_v2",
        "InceptionResnetV2",
        slim_networks.inception_resnet_v2,
        resnet_block,
        97,
    ),
]
V1, V3 = CASES[:2]


def checkpoint(variables: Mapping[str, Tensor]) -> Checkpoint:
    return Checkpoint(Path("slim.npz"), "0" * 64, variables)


def loaded(network: str, variables: Mapping[str, Tensor]) -> tuple[InceptionNetwork, Match]:
    spec = NETWORKS.get(network)
    fitted = match(checkpoint(variables), spec, width=WIDTH)
    module = blank(spec, fitted.num_classes, WIDTH, fitted.build)
    module.load_state_dict(fitted.state_dict, strict=True, assign=True)
    return module.eval(), fitted


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.network)
def test_every_block_equals_slim_s(case: Case) -> None:
    net, x, logits = case.slim()
    module, fitted = loaded(case.network, net.variables)
    assert fitted.layout.name == "tf-slim"
    assert fitted.num_classes == 12
    assert fitted.dropped == ()
    names = [name for name, _ in module.blocks()]
    assert names == list(map(case.block, net.end_points))
    expected = [*net.end_points.values(), logits]
    assert too_far(names, block_outputs(module, names, x), expected) == {}


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.network)
def test_the_network_and_its_background_row_are_recognised(case: Case) -> None:
    net, x, logits = case.slim(classes=1001)
    assert identify(checkpoint(net.variables)).name == case.network
    module, fitted = loaded(case.network, net.variables)
    assert fitted.background_dropped
    assert fitted.num_classes == 1000
    with torch.no_grad():
        assert relative_errors([module(x)], [logits[:, 1:]])[0] <= BOUND


def test_what_training_leaves_behind_is_dropped() -> None:
    net, _, _ = V3.slim()
    layer = "InceptionV3/Conv2d_1a_3x3"
    left_behind = {
        "global_step": torch.tensor(7),
        f"{layer}/weights/RMSProp": torch.zeros(3, 3, 3, 8),
        f"{layer}/weights/ExponentialMovingAverage": torch.zeros(3, 3, 3, 8),
        f"{layer}/BatchNorm/beta/RMSProp_1": torch.zeros(8),
        "InceptionV3/AuxLogits/Conv2d_1b_1x1/BatchNorm/beta": torch.zeros(32),
        "InceptionV3/AuxLogits/Conv2d_2b_1x1/weights": torch.zeros(1, 1, 192, 12),
    }
    _, fitted = loaded("inception_v3", {**net.variables, **left_behind})
    assert set(left_behind) <= set(fitted.dropped)
    # the auxiliary batch norm's gamma is made up like any other, and dropped with it
    assert len(fitted.dropped) == len(left_behind) + 1


def test_a_scale_of_batch_norm_is_used_where_there_is_one() -> None:
    net, _, _ = V1.slim()
    scale = "InceptionV1/Conv2d_1a_7x7/BatchNorm/gamma"
    _, fitted = loaded("googlenet", {**net.variables, scale: torch.full((8,), 2.0)})
    assert torch.equal(fitted.state_dict["conv1.bn.weight"], torch.full((8,), 2.0))
    assert torch.equal(fitted.state_dict["conv2.bn.weight"], torch.ones(8))


def test_a_variable_that_is_missing_or_unknown_is_named() -> None:
    net, _, _ = V1.slim()
    variables = dict(net.variables)
    variables["InceptionV1/Mixed_6a/weights"] = torch.zeros(1, 1, 3, 3)
    del variables["InceptionV1/Mixed_5b/Branch_2/Conv2d_0a_3x3/weights"]
    with pytest.raises(CheckpointError) as caught:
        loaded("googlenet", variables)
    assert "1 tensors missing (inception5a.branch3.1.conv.weight)" in str(caught.value)
    assert "1 unexpected (InceptionV1/Mixed_6a/weights)" in str(caught.value)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_converted_file_gives_slim_s_logits(tmp_path: Path, suffix: str) -> None:
    net, x, logits = V1.slim(classes=1001, width=1.0)
    path = tmp_path / f"inception_v1{suffix}"
    if suffix == ".npz":
        arrays: dict[str, Any] = {name: value.numpy() for name, value in net.variables.items()}
        np.savez(path, **arrays)
    else:
        save_file({name: v.contiguous() for name, v in net.variables.items()}, path)
    assert set(read_checkpoint(path).tensors) == set(net.variables)

    reference = load_reference(None, str(path), image_size=V1.size)
    assert reference.spec.name == "googlenet"
    assert reference.weights.detail == "tf-slim layout, 1000 classes, background row dropped"
    assert reference.preprocessing.interpolation == "bilinear"
    assert reference.preprocessing.mean == reference.preprocessing.std == (0.5, 0.5, 0.5)
    with torch.no_grad():
        assert relative_errors([reference.module(x)], [logits[:, 1:]])[0] <= BOUND
