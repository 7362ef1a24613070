"""BN-Inception: arXiv 1502.03167, figure 5, as trained in Caffe and ported by Yuanjun Xiong.

The first "Inception v2". The checkpoint's names are Caffe's flat ones (`inception_3a_3x3_reduce`,
`inception_3a_3x3_reduce_bn`); here each block is a module of its own. As in that checkpoint, every
convolution keeps a bias before its batch norm, batch norms have eps 1e-5, pools round up, and
average pools count their padding. Inputs are BGR, 0–255, minus the mean, not scaled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from inception_deploy.networks._published import CADENE, OSMR
from inception_deploy.networks.base import (
    CheckpointLayout,
    ConvNormAct,
    InceptionNetwork,
    NetworkSpec,
    PublishedAccuracy,
    output_channels,
    own_names,
    scaled,
)
from inception_deploy.preprocess import Preprocessing

__all__ = ["NETWORKS", "BNInception", "InceptionBlock", "ReductionBlock"]

conv = partial(ConvNormAct, eps=1e-5, bias=True)


class BlockWidths(NamedTuple):
    """One row of the paper's table: output channels of each convolution, 0 where there is none."""

    ones: int
    reduce3: int
    threes: int
    reduce_double: int
    doubles: int
    proj: int


WIDTHS = {
    "3a": BlockWidths(64, 64, 64, 64, 96, 32),
    "3b": BlockWidths(64, 64, 96, 64, 96, 64),
    "3c": BlockWidths(0, 128, 160, 64, 96, 0),
    "4a": BlockWidths(224, 64, 96, 96, 128, 128),
    "4b": BlockWidths(192, 96, 128, 96, 128, 128),
    "4c": BlockWidths(160, 128, 160, 128, 160, 128),
    "4d": BlockWidths(96, 128, 192, 160, 192, 128),
    "4e": BlockWidths(0, 128, 192, 192, 256, 0),
    "5a": BlockWidths(352, 192, 320, 160, 224, 128),
    "5b": BlockWidths(352, 192, 320, 192, 224, 128),
}


class InceptionBlock(nn.Module):
    """Four branches over one input, concatenated: 1×1, 1×1→3×3, 1×1→3×3→3×3, pool→1×1.

    (N, in_channels, H, W) → (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, widths: BlockWidths, pool: nn.Module) -> None:
        super().__init__()
        self.conv_1x1 = conv(in_channels, widths.ones, 1)
        self.conv_3x3_reduce = conv(in_channels, widths.reduce3, 1)
        self.conv_3x3 = conv(widths.reduce3, widths.threes, 3, padding=1)
        self.double_3x3_reduce = conv(in_channels, widths.reduce_double, 1)
        self.double_3x3_1 = conv(widths.reduce_double, widths.doubles, 3, padding=1)
        self.double_3x3_2 = conv(widths.doubles, widths.doubles, 3, padding=1)
        self.pool = pool
        self.pool_proj = conv(in_channels, widths.proj, 1)
        self.out_channels = output_channels(
            self.conv_1x1, self.conv_3x3, self.double_3x3_2, self.pool_proj
        )

    def forward(self, x: Tensor) -> Tensor:
        branches = (
            self.conv_1x1(x),
            self.conv_3x3(self.conv_3x3_reduce(x)),
            self.double_3x3_2(self.double_3x3_1(self.double_3x3_reduce(x))),
            self.pool_proj(self.pool(x)),
        )
        return torch.cat(branches, 1)


class ReductionBlock(nn.Module):
    """Halves the grid: 1×1→3×3/2 | 1×1→3×3→3×3/2 | max pool/2.

    (N, in_channels, H, W) → (N, out_channels, H / 2, W / 2). The convolutions pad and the pool
    rounds up, which agree for even H and W only.
    """

    def __init__(self, in_channels: int, widths: BlockWidths) -> None:
        super().__init__()
        self.conv_3x3_reduce = conv(in_channels, widths.reduce3, 1)
        self.conv_3x3 = conv(widths.reduce3, widths.threes, 3, stride=2, padding=1)
        self.double_3x3_reduce = conv(in_channels, widths.reduce_double, 1)
        self.double_3x3_1 = conv(widths.reduce_double, widths.doubles, 3, padding=1)
        self.double_3x3_2 = conv(widths.doubles, widths.doubles, 3, stride=2, padding=1)
        self.pool = _halving_pool()
        self.out_channels = output_channels(self.conv_3x3, self.double_3x3_2) + in_channels

    def forward(self, x: Tensor) -> Tensor:
        branches = (
            self.conv_3x3(self.conv_3x3_reduce(x)),
            self.double_3x3_2(self.double_3x3_1(self.double_3x3_reduce(x))),
            self.pool(x),
        )
        return torch.cat(branches, 1)


def _halving_pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)


def _average_pool() -> nn.AvgPool2d:
    return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=True)


class BNInception(InceptionNetwork):
    """BN-Inception; 224×224 natively, 10 Inception blocks, 1024 features."""

    def __init__(self, num_classes: int = 1000, width: float = 1.0) -> None:
        super().__init__()
        self.num_classes = num_classes
        stem, expanded = scaled(64, width), scaled(192, width)
        self.conv1_7x7_s2 = conv(3, stem, 7, stride=2, padding=3)
        self.pool1_3x3_s2 = _halving_pool()
        self.conv2_3x3_reduce = conv(stem, stem, 1)
        self.conv2_3x3 = conv(stem, expanded, 3, padding=1)
        self.pool2_3x3_s2 = _halving_pool()

        channels = expanded

        def widths(row: str) -> BlockWidths:
            return BlockWidths(*(scaled(count, width) for count in WIDTHS[row]))

        def block(row: str, pool: Callable[[], nn.Module] = _average_pool) -> InceptionBlock:
            nonlocal channels
            built = InceptionBlock(channels, widths(row), pool())
            channels = built.out_channels
            return built

        def reduction(row: str) -> ReductionBlock:
            nonlocal channels
            built = ReductionBlock(channels, widths(row))
            channels = built.out_channels
            return built

        self.inception_3a = block("3a")
        self.inception_3b = block("3b")
        self.inception_3c = reduction("3c")
        self.inception_4a = block("4a")
        self.inception_4b = block("4b")
        self.inception_4c = block("4c")
        self.inception_4d = block("4d")
        self.inception_4e = reduction("4e")
        self.inception_5a = block("5a")
        self.inception_5b = block("5b", pool=partial(nn.MaxPool2d, 3, stride=1, padding=1))

        self.num_features = channels
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.last_linear = nn.Linear(channels, num_classes)
        self.reset_parameters()

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.pool1_3x3_s2(self.conv1_7x7_s2(x))
        x = self.pool2_3x3_s2(self.conv2_3x3(self.conv2_3x3_reduce(x)))
        x = self.inception_3c(self.inception_3b(self.inception_3a(x)))
        x = self.inception_4c(self.inception_4b(self.inception_4a(x)))
        x = self.inception_4e(self.inception_4d(x))
        x = self.inception_5b(self.inception_5a(x))
        return torch.flatten(self.global_pool(x), 1)

    def classify(self, features: Tensor) -> Tensor:
        logits: Tensor = self.last_linear(features)
        return logits

    def blocks(self) -> Iterator[tuple[str, nn.Module]]:
        for name, module in self.named_children():
            if isinstance(module, (ConvNormAct, InceptionBlock, ReductionBlock)):
                yield name, module


def _caffe_key(key: str) -> str | None:
    """`inception_3a_3x3_reduce_bn.bias` → `inception_3a.conv_3x3_reduce.bn.bias`."""
    layer, _, tensor = key.rpartition(".")
    if layer == "last_linear":
        return key
    part = "bn" if layer.endswith("_bn") else "conv"
    name = re.sub(r"^(inception_\d[a-e])_", r"\1.", layer.removesuffix("_bn"))
    name = re.sub(r"\.(?=\d)", ".conv_", name)
    return f"{name}.{part}.{tensor}"


PREPROCESSING = Preprocessing(
    size=224,
    resize=256,
    interpolation="bilinear",
    mean=(104.0, 117.0, 128.0),
    std=(1.0, 1.0, 1.0),
    channel_order="BGR",
    pixel_max=255.0,
)

NETWORKS = (
    NetworkSpec(
        name="bn_inception",
        title="BN-Inception",
        paper="1502.03167",
        build=BNInception,
        min_size=32,
        size_step=32,
        preprocessing=PREPROCESSING,
        params=11_295_240,
        macs=2_032_600_064,
        classifier="last_linear",
        layouts=(
            CheckpointLayout(
                name="cadene",
                signature=frozenset({"inception_3a_1x1.weight", "inception_5b_pool_proj_bn.bias"}),
                rename=_caffe_key,
                preprocessing=PREPROCESSING,
            ),
            own_names(
                PREPROCESSING, "inception_3a.conv_1x1.conv.weight", "inception_5b.pool_proj.bn.bias"
            ),
        ),
        download="Cadene's bn_inception-52deb4733.pth",
        published=(
            PublishedAccuracy("Cadene", 73.524, CADENE),
            PublishedAccuracy("osmr", 74.63, OSMR),
        ),
    ),
)
