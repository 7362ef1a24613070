"""Inception-ResNet-v1 against facenet-pytorch's, on tensors under that project's names.

facenet-pytorch demands torch < 2.3 and cannot be installed beside the torch of these tests, so its
`InceptionResnetV1` is transcribed here from the published tables, as plain functions that share
nothing with the package; the names and shapes of its state dict come from them too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from peers import BOUND, Drawn, block_outputs, loaded, noise, relative_errors, too_far
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from inception_deploy.checkpoints import Checkpoint
from inception_deploy.errors import CheckpointError, RecipeError
from inception_deploy.matching import blank, identify, match
from inception_deploy.networks import NETWORKS
from inception_deploy.networks.inception_resnet_v1 import InceptionResNetV1
from inception_deploy.reference import load_reference

SPEC = NETWORKS.get("inception_resnet_v1")
SIZE = 107

Kernel = int | tuple[int, int]


@dataclass
class Facenet:
    """One pass: the tensors of the state dict, and what every block put out."""

    tensors: Drawn = field(default_factory=lambda: Drawn(seed=8))
    blocks: dict[str, Tensor] = field(default_factory=dict)

    def conv(
        self, x: Tensor, name: str, channels: int, kernel: Kernel, stride: int = 1, pad: bool = True
    ) -> Tensor:
        """Convolution without bias, batch norm (eps 1e-3), ReLU; `pad` keeps the side."""
        size = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        fan_in = x.shape[1] * size[0] * size[1]
        shape = (channels, x.shape[1], *size)
        weight = self.tensors.normal(f"{name}.conv.weight", *shape, std=(2 / fan_in) ** 0.5)
        padding = (size[0] // 2, size[1] // 2) if pad else (0, 0)
        return F.relu(self.norm(F.conv2d(x, weight, None, stride, padding), f"{name}.bn"))

    def norm(self, x: Tensor, name: str) -> Tensor:
        scale = self.tensors.uniform(f"{name}.weight", x.shape[1])
        shift = self.tensors.normal(f"{name}.bias", x.shape[1])
        mean = self.tensors.normal(f"{name}.running_mean", x.shape[1])
        variance = self.tensors.uniform(f"{name}.running_var", x.shape[1])
        return F.batch_norm(x, mean, variance, scale, shift, eps=1e-3)

    def chain(self, x: Tensor, name: str, *layers: tuple[int, Kernel]) -> Tensor:
        for index, (channels, kernel) in enumerate(layers):
            x = self.conv(x, f"{name}.{index}", channels, kernel)
        return x

    def end(self, name: str, x: Tensor) -> Tensor:
        self.blocks[name] = x
        return x

    def residual(
        self, x: Tensor, name: str, scale: float, *branches: Tensor, relu: bool = True
    ) -> Tensor:
        mixed = torch.cat(branches, 1)
        shape = (x.shape[1], mixed.shape[1], 1, 1)
        weight = self.tensors.normal(f"{name}.conv2d.weight", *shape, std=mixed.shape[1] ** -0.5)
        bias = self.tensors.normal(f"{name}.conv2d.bias", x.shape[1])
        x = x + scale * F.conv2d(mixed, weight, bias)
        return self.end(name, F.relu(x) if relu else x)

    def block35(self, x: Tensor, name: str) -> Tensor:
        return self.residual(
            x,
            name,
            0.17,
            self.conv(x, f"{name}.branch0", 32, 1),
            self.chain(x, f"{name}.branch1", (32, 1), (32, 3)),
            self.chain(x, f"{name}.branch2", (32, 1), (32, 3), (32, 3)),
        )

    def block17(self, x: Tensor, name: str) -> Tensor:
        return self.residual(
            x,
            name,
            0.10,
            self.conv(x, f"{name}.branch0", 128, 1),
            self.chain(x, f"{name}.branch1", (128, 1), (128, (1, 7)), (128, (7, 1))),
        )

    def block8(self, x: Tensor, name: str, scale: float = 0.20, relu: bool = True) -> Tensor:
        return self.residual(
            x,
            name,
            scale,
            self.conv(x, f"{name}.branch0", 192, 1),
            self.chain(x, f"{name}.branch1", (192, 1), (192, (1, 3)), (192, (3, 1))),
            relu=relu,
        )

    def bottleneck(self, x: Tensor) -> Tensor:
        for name, channels, kernel, stride, pad in (
            ("conv2d_1a", 32, 3, 2, False),
            ("conv2d_2a", 32, 3, 1, False),
            ("conv2d_2b", 64, 3, 1, True),
            ("conv2d_3b", 80, 1, 1, False),
            ("conv2d_4a", 192, 3, 1, False),
            ("conv2d_4b", 256, 3, 2, False),
        ):
            if name == "conv2d_3b":
                x = F.max_pool2d(x, 3, 2)
            x = self.end(name, self.conv(x, name, channels, kernel, stride, pad))
        for index in range(5):
            x = self.block35(x, f"repeat_1.{index}")
        name = "mixed_6a"
        inner = self.chain(x, f"{name}.branch1", (192, 1), (192, 3))
        branches = (
            self.conv(x, f"{name}.branch0", 384, 3, 2, pad=False),
            self.conv(inner, f"{name}.branch1.2", 256, 3, 2, pad=False),
            F.max_pool2d(x, 3, 2),
        )
        x = self.end(name, torch.cat(branches, 1))
        for index in range(10):
            x = self.block17(x, f"repeat_2.{index}")
        name = "mixed_7a"
        inners = (
            self.chain(x, f"{name}.branch0", (256, 1)),
            self.chain(x, f"{name}.branch1", (256, 1)),
            self.chain(x, f"{name}.branch2", (256, 1), (256, 3)),
        )
        branches = (
            self.conv(inners[0], f"{name}.branch0.1", 384, 3, 2, pad=False),
            self.conv(inners[1], f"{name}.branch1.1", 256, 3, 2, pad=False),
            self.conv(inners[2], f"{name}.branch2.2", 256, 3, 2, pad=False),
        )
        x = self.end(name, torch.cat((*branches, F.max_pool2d(x, 3, 2)), 1))
        for index in range(5):
            x = self.block8(x, f"repeat_3.{index}")
        x = self.block8(x, "block8", scale=1.0, relu=False).mean((2, 3))
        weight = self.tensors.normal("last_linear.weight", 512, 1792, std=1792**-0.5)
        return self.end("last_bn", self.norm(x @ weight.t(), "last_bn"))

    def logits(self, bottleneck: Tensor, classes: int) -> Tensor:
        weight = self.tensors.normal("logits.weight", classes, 512, std=512**-0.5)
        return bottleneck @ weight.t() + self.tensors.normal("logits.bias", classes)


def counted(tensors: Drawn) -> int:
    """Parameters, without the buffers of batch norm."""
    return sum(t.numel() for name, t in tensors.items() if "running" not in name)


@pytest.mark.parametrize(("classes", "params"), [(8631, 27_910_327), (10575, 28_907_599)])
def test_vggface2_and_casia_classify_block_by_block(classes: int, params: int) -> None:
    theirs, x = Facenet(), noise(SIZE)
    expected = theirs.logits(theirs.bottleneck(x), classes)
    assert counted(theirs.tensors) == params
    ours, found = loaded("inception_resnet_v1", theirs.tensors)
    assert found.detail == f"facenet-pytorch layout, {classes} classes"
    names = [name for name, _ in ours.blocks()]
    assert names == list(theirs.blocks)
    assert too_far(names, block_outputs(ours, names, x), [*theirs.blocks.values(), expected]) == {}


def test_features_are_the_bottleneck_at_unit_length() -> None:
    theirs, x = Facenet(), noise(SIZE)
    bottleneck = theirs.bottleneck(x)
    theirs.logits(bottleneck, 10)
    ours, _ = loaded("inception_resnet_v1", theirs.tensors)
    ours.head = "features"
    with torch.no_grad():
        embedding = ours(x)
    assert relative_errors([embedding], [F.normalize(bottleneck, p=2, dim=1)])[0] <= BOUND
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))
    assert not torch.allclose(bottleneck.norm(dim=1), torch.ones(2), rtol=0.5)


def test_an_embedding_of_zeros_stays_finite() -> None:
    module = InceptionResNetV1(num_classes=10, width=0.125)
    assert torch.equal(module.embed(torch.zeros(1, 64)), torch.zeros(1, 64))


def test_logits_see_the_bottleneck_before_it_is_normalised() -> None:
    torch.manual_seed(0)
    module = InceptionResNetV1(num_classes=10, width=0.125).eval()
    with torch.no_grad():
        features = module.forward_features(noise(80))
        assert isinstance(module.logits, nn.Linear)
        assert torch.equal(module(noise(80)), module.logits(features))


def test_weights_that_end_in_the_embedding(tmp_path: Path) -> None:
    theirs, x = Facenet(), noise(SIZE)
    bottleneck = theirs.bottleneck(x)
    assert counted(theirs.tensors) == 23_482_624
    path = tmp_path / "embedding.safetensors"
    save_file(theirs.tensors, path)

    reference = load_reference(None, str(path), head="features", image_size=SIZE)
    assert reference.spec is SPEC
    assert reference.weights.detail == "facenet-pytorch layout, no classifier"
    assert reference.weights.num_classes == 0
    with torch.no_grad():
        got = reference.module(x)
    assert relative_errors([got], [F.normalize(bottleneck, p=2, dim=1)])[0] <= BOUND

    with pytest.raises(RecipeError, match=r"no classifier.*ask for --head features"):
        load_reference(None, str(path))
    with pytest.raises(CheckpointError, match="it has no classifier, 10 were asked for"):
        load_reference(None, str(path), head="features", num_classes=10)


def test_repeat_indices_are_not_those_of_version_2() -> None:
    """facenet counts its stages from 1, Inception-ResNet-v2 from nothing: both must be told apart.

    Only the stems' first layers have tensors of the same names and shapes.
    """
    one, two = (blank(NETWORKS.get(f"inception_resnet_v{v}"), 10).state_dict() for v in (1, 2))
    assert "repeat.0.branch0.conv.weight" in two
    assert "repeat.0.branch0.conv.weight" not in one
    for version, tensors in ((1, one), (2, two)):
        zeros = {name: torch.zeros(t.shape) for name, t in tensors.items()}
        checkpoint = Checkpoint(Path("weights.pt"), "0" * 64, zeros)
        assert identify(checkpoint).name == f"inception_resnet_v{version}"
        assert match(checkpoint, NETWORKS.get(f"inception_resnet_v{version}")).num_classes == 10


def test_pixels_are_standardised_as_facenet_s() -> None:
    """(x − 127.5) / 128 of RGB pixels, on 160-pixel faces that are not cropped further."""
    pixels = np.arange(160 * 160 * 3, dtype=np.uint8).reshape(160, 160, 3)
    expected = (pixels.astype(np.float32).transpose(2, 0, 1) - 127.5) / 128
    np.testing.assert_allclose(SPEC.preprocessing.normalise(pixels), expected, rtol=0, atol=1e-6)
    assert (SPEC.preprocessing.size, SPEC.preprocessing.resize) == (160, 160)
