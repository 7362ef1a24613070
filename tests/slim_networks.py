"""TF-slim's Inception networks as torch functions over slim's own variables, for tests.

A direct transcription of what `research/slim/nets` in tensorflow/models publishes: every variable's
scope and shape, and TensorFlow's padding rules. It shares nothing with the package. Variables are
drawn when a layer first asks for them, as slim creates them; `depth` is slim's depth multiplier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Slim", "inception_resnet_v2", "inception_v1", "inception_v3", "inception_v4"]

Kernel: TypeAlias = int | tuple[int, int]
Conv: TypeAlias = tuple[str, int, Kernel] | tuple[str, int, Kernel, str]
Pool: TypeAlias = Callable[[Tensor], Tensor]
Branch: TypeAlias = Sequence[Conv | Pool | list[Conv]]
HALVED = "VALID/2"  # stride 2 without padding; all else is stride 1, "SAME" or "VALID"


def same(x: Tensor, kernel: tuple[int, int], stride: int, value: float = 0.0) -> Tensor:
    """TensorFlow's "SAME": ceil(side / stride) outputs; an odd pixel of padding goes to the end."""
    pads: list[int] = []
    for side, k in zip(reversed(x.shape[2:]), reversed(kernel), strict=True):
        total = max((-(-side // stride) - 1) * stride + k - side, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads, value=value)


def max_pool(x: Tensor, size: int, stride: int, padding: str) -> Tensor:
    if padding == "SAME":
        x = same(x, (size, size), stride, value=-torch.inf)
    return F.max_pool2d(x, size, stride)


def average(x: Tensor) -> Tensor:
    """3×3, stride 1, "SAME": the mean over those pixels that exist."""
    ones = same(torch.ones_like(x[:1, :1]), (3, 3), 1)
    return F.avg_pool2d(same(x, (3, 3), 1), 3, 1) / F.avg_pool2d(ones, 3, 1)


maximum = partial(max_pool, size=3, stride=1, padding="SAME")
halving = partial(max_pool, size=3, stride=2, padding="VALID")


@dataclass
class Slim:
    """Variables by name, and the end points of one pass."""

    root: str
    depth: float = 1.0
    seed: int = 0
    variables: dict[str, Tensor] = field(default_factory=dict)
    end_points: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)
        self.scopes = [self.root]

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        self.scopes.append(name)
        yield
        self.scopes.pop()

    def variable(self, name: str, *shape: int, low: float, high: float) -> Tensor:
        name = "/".join((*self.scopes, name))
        assert name not in self.variables
        drawn = torch.rand(shape, generator=self.generator) * (high - low) + low
        self.variables[name] = drawn
        return drawn

    def conv(
        self, x: Tensor, scope: str, channels: int, kernel: Kernel, how: str = "SAME"
    ) -> Tensor:
        """Convolution, batch norm without scale (epsilon 1e-3), ReLU."""
        channels = max(int(channels * self.depth), 8)
        with self.scope(scope):
            x = self.kernel(x, channels, kernel, how)
            beta = self.variable("BatchNorm/beta", channels, low=-0.2, high=0.4)
            mean = self.variable("BatchNorm/moving_mean", channels, low=-0.3, high=0.3)
            variance = self.variable("BatchNorm/moving_variance", channels, low=0.5, high=1.5)
            return F.relu(F.batch_norm(x, mean, variance, None, beta, eps=1e-3))

    def linear_conv(self, x: Tensor, scope: str, channels: int) -> Tensor:
        """1×1 convolution with bias; no batch norm, no activation."""
        with self.scope(scope):
            x = self.kernel(x, channels, 1, "SAME")
            return x + self.variable("biases", channels, low=-0.3, high=0.3)[:, None, None]

    def kernel(self, x: Tensor, channels: int, kernel: Kernel, how: str) -> Tensor:
        size = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        bound = (6.0 / (size[0] * size[1] * x.shape[1])) ** 0.5  # He uniform
        weights = self.variable("weights", *size, x.shape[1], channels, low=-bound, high=bound)
        padding, _, stride = how.partition("/")
        x = same(x, size, int(stride or 1)) if padding == "SAME" else x
        return F.conv2d(x, weights.permute(3, 2, 0, 1), stride=int(stride or 1))

    def fully_connected(self, x: Tensor, scope: str, outputs: int) -> Tensor:
        with self.scope(scope):
            weights = self.variable("weights", x.shape[1], outputs, low=-0.1, high=0.1)
            return x @ weights + self.variable("biases", outputs, low=-0.3, high=0.3)

    def branches(self, x: Tensor, *branches: Branch) -> Tensor:
        """Branches over `x`, concatenated; a list of convolutions within one forks once more."""
        outputs = []
        for index, branch in enumerate(branches):
            y = x
            with self.scope(f"Branch_{index}"):
                for layer in branch:
                    if isinstance(layer, list):
                        y = torch.cat([self.conv(y, *conv) for conv in layer], 1)
                    else:
                        y = self.conv(y, *layer) if isinstance(layer, tuple) else layer(y)
            outputs.append(y)
        return torch.cat(outputs, 1)

    def block(self, name: str, x: Tensor, *branches: Branch) -> Tensor:
        """A scope of branches that is an end point."""
        with self.scope(name):
            return self.end(name, self.branches(x, *branches))

    def layer(self, x: Tensor, scope: str, channels: int, kernel: Kernel, how: str) -> Tensor:
        """A convolution that is an end point."""
        return self.end(scope, self.conv(x, scope, channels, kernel, how))

    def end(self, name: str, x: Tensor) -> Tensor:
        self.end_points[name] = x
        return x


def inception_v1(net: Slim, x: Tensor, classes: int) -> Tensor:
    """https://github.com/tensorflow/models/blob/master/research/slim/nets/inception_v1.py"""
    x = max_pool(net.layer(x, "Conv2d_1a_7x7", 64, 7, "SAME/2"), 3, 2, "SAME")
    x = net.layer(x, "Conv2d_2b_1x1", 64, 1, "SAME")
    x = max_pool(net.layer(x, "Conv2d_2c_3x3", 192, 3, "SAME"), 3, 2, "SAME")
    for name, ones, r3, threes, r5, fives, proj in (
        ("Mixed_3b", 64, 96, 128, 16, 32, 32),
        ("Mixed_3c", 128, 128, 192, 32, 96, 64),
        ("Mixed_4b", 192, 96, 208, 16, 48, 64),
        ("Mixed_4c", 160, 112, 224, 24, 64, 64),
        ("Mixed_4d", 128, 128, 256, 24, 64, 64),
        ("Mixed_4e", 112, 144, 288, 32, 64, 64),
        ("Mixed_4f", 256, 160, 320, 32, 128, 128),
        ("Mixed_5b", 256, 160, 320, 32, 128, 128),
        ("Mixed_5c", 384, 192, 384, 48, 128, 128),
    ):
        if name == "Mixed_4b":
            x = max_pool(x, 3, 2, "SAME")
        if name == "Mixed_5b":
            x = max_pool(x, 2, 2, "SAME")
        last = "Conv2d_0a_3x3" if name == "Mixed_5b" else "Conv2d_0b_3x3"
        x = net.block(
            name,
            x,
            [("Conv2d_0a_1x1", ones, 1)],
            [("Conv2d_0a_1x1", r3, 1), ("Conv2d_0b_3x3", threes, 3)],
            [("Conv2d_0a_1x1", r5, 1), (last, fives, 3)],
            [maximum, ("Conv2d_0b_1x1", proj, 1)],
        )
    with net.scope("Logits"):
        return net.linear_conv(x.mean((2, 3), keepdim=True), "Conv2d_0c_1x1", classes)[..., 0, 0]


def v3_stem(net: Slim, x: Tensor) -> Tensor:
    """The stem that Inception v3 and Inception-ResNet-v2 share."""
    x = net.layer(x, "Conv2d_1a_3x3", 32, 3, HALVED)
    x = net.layer(x, "Conv2d_2a_3x3", 32, 3, "VALID")
    x = halving(net.layer(x, "Conv2d_2b_3x3", 64, 3, "SAME"))
    x = net.layer(x, "Conv2d_3b_1x1", 80, 1, "VALID")
    return halving(net.layer(x, "Conv2d_4a_3x3", 192, 3, "VALID"))


def inception_v3(net: Slim, x: Tensor, classes: int) -> Tensor:
    """https://github.com/tensorflow/models/blob/master/research/slim/nets/inception_v3.py"""
    x = v3_stem(net, x)
    for name, reduce5, fives, proj in (
        ("Mixed_5b", "Conv2d_0a_1x1", "Conv2d_0b_5x5", 32),
        ("Mixed_5c", "Conv2d_0b_1x1", "Conv_1_0c_5x5", 64),
        ("Mixed_5d", "Conv2d_0a_1x1", "Conv2d_0b_5x5", 64),
    ):
        x = net.block(
            name,
            x,
            [("Conv2d_0a_1x1", 64, 1)],
            [(reduce5, 48, 1), (fives, 64, 5)],
            [("Conv2d_0a_1x1", 64, 1), ("Conv2d_0b_3x3", 96, 3), ("Conv2d_0c_3x3", 96, 3)],
            [average, ("Conv2d_0b_1x1", proj, 1)],
        )
    x = net.block(
        "Mixed_6a",
        x,
        [("Conv2d_1a_1x1", 384, 3, HALVED)],
        [("Conv2d_0a_1x1", 64, 1), ("Conv2d_0b_3x3", 96, 3), ("Conv2d_1a_1x1", 96, 3, HALVED)],
        [halving],
    )
    for name, inner in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        x = net.block(
            name,
            x,
            [("Conv2d_0a_1x1", 192, 1)],
            [
                ("Conv2d_0a_1x1", inner, 1),
                ("Conv2d_0b_1x7", inner, (1, 7)),
                ("Conv2d_0c_7x1", 192, (7, 1)),
            ],
            [
                ("Conv2d_0a_1x1", inner, 1),
                ("Conv2d_0b_7x1", inner, (7, 1)),
                ("Conv2d_0c_1x7", inner, (1, 7)),
                ("Conv2d_0d_7x1", inner, (7, 1)),
                ("Conv2d_0e_1x7", 192, (1, 7)),
            ],
            [average, ("Conv2d_0b_1x1", 192, 1)],
        )
    x = net.block(
        "Mixed_7a",
        x,
        [("Conv2d_0a_1x1", 192, 1), ("Conv2d_1a_3x3", 320, 3, HALVED)],
        [
            ("Conv2d_0a_1x1", 192, 1),
            ("Conv2d_0b_1x7", 192, (1, 7)),
            ("Conv2d_0c_7x1", 192, (7, 1)),
            ("Conv2d_1a_3x3", 192, 3, HALVED),
        ],
        [halving],
    )
    for name, down in (("Mixed_7b", "Conv2d_0b_3x1"), ("Mixed_7c", "Conv2d_0c_3x1")):
        x = net.block(
            name,
            x,
            [("Conv2d_0a_1x1", 320, 1)],
            [("Conv2d_0a_1x1", 384, 1), [("Conv2d_0b_1x3", 384, (1, 3)), (down, 384, (3, 1))]],
            [
                ("Conv2d_0a_1x1", 448, 1),
                ("Conv2d_0b_3x3", 384, 3),
                [("Conv2d_0c_1x3", 384, (1, 3)), ("Conv2d_0d_3x1", 384, (3, 1))],
            ],
            [average, ("Conv2d_0b_1x1", 192, 1)],
        )
    with net.scope("Logits"):
        return net.linear_conv(x.mean((2, 3), keepdim=True), "Conv2d_1c_1x1", classes)[..., 0, 0]


def inception_v4(net: Slim, x: Tensor, classes: int) -> Tensor:
    """https://github.com/tensorflow/models/blob/master/research/slim/nets/inception_v4.py"""
    x = net.layer(x, "Conv2d_1a_3x3", 32, 3, HALVED)
    x = net.layer(x, "Conv2d_2a_3x3", 32, 3, "VALID")
    x = net.layer(x, "Conv2d_2b_3x3", 64, 3, "SAME")
    x = net.block("Mixed_3a", x, [halving], [("Conv2d_0a_3x3", 96, 3, HALVED)])
    x = net.block(
        "Mixed_4a",
        x,
        [("Conv2d_0a_1x1", 64, 1), ("Conv2d_1a_3x3", 96, 3, "VALID")],
        [
            ("Conv2d_0a_1x1", 64, 1),
            ("Conv2d_0b_1x7", 64, (1, 7)),
            ("Conv2d_0c_7x1", 64, (7, 1)),
            ("Conv2d_1a_3x3", 96, 3, "VALID"),
        ],
    )
    x = net.block("Mixed_5a", x, [("Conv2d_1a_3x3", 192, 3, HALVED)], [halving])
    for letter in "bcde":
        x = net.block(
            f"Mixed_5{letter}",
            x,
            [("Conv2d_0a_1x1", 96, 1)],
            [("Conv2d_0a_1x1", 64, 1), ("Conv2d_0b_3x3", 96, 3)],
            [("Conv2d_0a_1x1", 64, 1), ("Conv2d_0b_3x3", 96, 3), ("Conv2d_0c_3x3", 96, 3)],
            [average, ("Conv2d_0b_1x1", 96, 1)],
        )
    x = net.block(
        "Mixed_6a",
        x,
        [("Conv2d_1a_3x3", 384, 3, HALVED)],
        [("Conv2d_0a_1x1", 192, 1), ("Conv2d_0b_3x3", 224, 3), ("Conv2d_1a_3x3", 256, 3, HALVED)],
        [halving],
    )
    for letter in "bcdefgh":
        x = net.block(
            f"Mixed_6{letter}",
            x,
            [("Conv2d_0a_1x1", 384, 1)],
            [
                ("Conv2d_0a_1x1", 192, 1),
                ("Conv2d_0b_1x7", 224, (1, 7)),
                ("Conv2d_0c_7x1", 256, (7, 1)),
            ],
            [
                ("Conv2d_0a_1x1", 192, 1),
                ("Conv2d_0b_7x1", 192, (7, 1)),
                ("Conv2d_0c_1x7", 224, (1, 7)),
                ("Conv2d_0d_7x1", 224, (7, 1)),
                ("Conv2d_0e_1x7", 256, (1, 7)),
            ],
            [average, ("Conv2d_0b_1x1", 128, 1)],
        )
    x = net.block(
        "Mixed_7a",
        x,
        [("Conv2d_0a_1x1", 192, 1), ("Conv2d_1a_3x3", 192, 3, HALVED)],
        [
            ("Conv2d_0a_1x1", 256, 1),
            ("Conv2d_0b_1x7", 256, (1, 7)),
            ("Conv2d_0c_7x1", 320, (7, 1)),
            ("Conv2d_1a_3x3", 320, 3, HALVED),
        ],
        [halving],
    )
    for letter in "bcd":
        x = net.block(
            f"Mixed_7{letter}",
            x,
            [("Conv2d_0a_1x1", 256, 1)],
            [
                ("Conv2d_0a_1x1", 384, 1),
                [("Conv2d_0b_1x3", 256, (1, 3)), ("Conv2d_0c_3x1", 256, (3, 1))],
            ],
            [
                ("Conv2d_0a_1x1", 384, 1),
                ("Conv2d_0b_3x1", 448, (3, 1)),
                ("Conv2d_0c_1x3", 512, (1, 3)),
                [("Conv2d_0d_1x3", 256, (1, 3)), ("Conv2d_0e_3x1", 256, (3, 1))],
            ],
            [average, ("Conv2d_0b_1x1", 256, 1)],
        )
    with net.scope("Logits"):
        return net.fully_connected(x.mean((2, 3)), "Logits", classes)


def inception_resnet_v2(net: Slim, x: Tensor, classes: int) -> Tensor:
    """https://github.com/tensorflow/models/blob/master/research/slim/nets/inception_resnet_v2.py"""

    def residual(
        x: Tensor, name: str, scale: float, *branches: Branch, activation: bool = True
    ) -> Tensor:
        with net.scope(name):
            mixed = net.branches(x, *branches)
            x = x + scale * net.linear_conv(mixed, "Conv2d_1x1", x.shape[1])
        return net.end(name, F.relu(x) if activation else x)

    block35: tuple[Branch, ...] = (
        [("Conv2d_1x1", 32, 1)],
        [("Conv2d_0a_1x1", 32, 1), ("Conv2d_0b_3x3", 32, 3)],
        [("Conv2d_0a_1x1", 32, 1), ("Conv2d_0b_3x3", 48, 3), ("Conv2d_0c_3x3", 64, 3)],
    )
    block17: tuple[Branch, ...] = (
        [("Conv2d_1x1", 192, 1)],
        [
            ("Conv2d_0a_1x1", 128, 1),
            ("Conv2d_0b_1x7", 160, (1, 7)),
            ("Conv2d_0c_7x1", 192, (7, 1)),
        ],
    )
    block8: tuple[Branch, ...] = (
        [("Conv2d_1x1", 192, 1)],
        [
            ("Conv2d_0a_1x1", 192, 1),
            ("Conv2d_0b_1x3", 224, (1, 3)),
            ("Conv2d_0c_3x1", 256, (3, 1)),
        ],
    )
    x = net.block(
        "Mixed_5b",
        v3_stem(net, x),
        [("Conv2d_1x1", 96, 1)],
        [("Conv2d_0a_1x1", 48, 1), ("Conv2d_0b_5x5", 64, 5)],
        [("Conv2d_0a_1x1", 64, 1), ("Conv2d_0b_3x3", 96, 3), ("Conv2d_0c_3x3", 96, 3)],
        [average, ("Conv2d_0b_1x1", 64, 1)],
    )
    for index in range(1, 11):
        x = residual(x, f"Repeat/block35_{index}", 0.17, *block35)
    x = net.block(
        "Mixed_6a",
        x,
        [("Conv2d_1a_3x3", 384, 3, HALVED)],
        [("Conv2d_0a_1x1", 256, 1), ("Conv2d_0b_3x3", 256, 3), ("Conv2d_1a_3x3", 384, 3, HALVED)],
        [halving],
    )
    for index in range(1, 21):
        x = residual(x, f"Repeat_1/block17_{index}", 0.10, *block17)
    x = net.block(
        "Mixed_7a",
        x,
        [("Conv2d_0a_1x1", 256, 1), ("Conv2d_1a_3x3", 384, 3, HALVED)],
        [("Conv2d_0a_1x1", 256, 1), ("Conv2d_1a_3x3", 288, 3, HALVED)],
        [("Conv2d_0a_1x1", 256, 1), ("Conv2d_0b_3x3", 288, 3), ("Conv2d_1a_3x3", 320, 3, HALVED)],
        [halving],
    )
    for index in range(1, 10):
        x = residual(x, f"Repeat_2/block8_{index}", 0.20, *block8)
    x = residual(x, "Block8", 1.0, *block8, activation=False)
    x = net.layer(x, "Conv2d_7b_1x1", 1536, 1, "SAME")
    with net.scope("Logits"):
        return net.fully_connected(x.mean((2, 3)), "Logits", classes)
