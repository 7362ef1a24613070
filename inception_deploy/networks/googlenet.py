"""GoogLeNet (Inception v1) with batch norm: arXiv 1409.4842, Table 1, in torchvision's layout.

Module names are torchvision's, so its checkpoints load without a key map. Three things differ from
the paper and belong to the trained weights: batch norm (eps 1e-3) replaces LRN and biases, the
"5×5" branch convolves 3×3 (pytorch/vision issue 906), and the last max pool is 2×2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from inception_deploy.networks._published import (
    FBGEMM,
    INC_3_1,
    PTQ_CPU,
    PTQ_DPU,
    TORCHVISION_FACTS,
    VITIS,
)
from inception_deploy.networks._slim import googlenet_scopes, slim_layout
from inception_deploy.networks.base import (
    CheckpointLayout,
    ConvNormAct,
    InceptionNetwork,
    NetworkSpec,
    PublishedAccuracy,
    output_channels,
    scaled,
)
from inception_deploy.preprocess import Preprocessing

__all__ = ["NETWORKS", "GoogLeNet", "InceptionBlock"]


class BlockWidths(NamedTuple):
    """One row of the paper's Table 1: output channels of each convolution."""

    ones: int
    reduce3: int
    threes: int
    reduce5: int
    fives: int
    pool: int


WIDTHS = {
    "3a": BlockWidths(64, 96, 128, 16, 32, 32),
    "3b": BlockWidths(128, 128, 192, 32, 96, 64),
    "4a": BlockWidths(192, 96, 208, 16, 48, 64),
    "4b": BlockWidths(160, 112, 224, 24, 64, 64),
    "4c": BlockWidths(128, 128, 256, 24, 64, 64),
    "4d": BlockWidths(112, 144, 288, 32, 64, 64),
    "4e": BlockWidths(256, 160, 320, 32, 128, 128),
    "5a": BlockWidths(256, 160, 320, 32, 128, 128),
    "5b": BlockWidths(384, 192, 384, 48, 128, 128),
}


class InceptionBlock(nn.Module):
    """Four branches over one input, concatenated: 1×1, 1×1→3×3, 1×1→"5×5", max pool→1×1.

    (N, in_channels, H, W) → (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, widths: BlockWidths) -> None:
        super().__init__()
        self.branch1 = ConvNormAct(in_channels, widths.ones, 1)
        self.branch2 = nn.Sequential(
            ConvNormAct(in_channels, widths.reduce3, 1),
            ConvNormAct(widths.reduce3, widths.threes, 3, padding=1),
        )
        self.branch3 = nn.Sequential(
            ConvNormAct(in_channels, widths.reduce5, 1),
            ConvNormAct(widths.reduce5, widths.fives, 3, padding=1),
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1), ConvNormAct(in_channels, widths.pool, 1)
        )
        self.out_channels = output_channels(self.branch1, self.branch2, self.branch3, self.branch4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)), 1)


class GoogLeNet(InceptionNetwork):
    """GoogLeNet with batch norm; 224×224 natively, 9 Inception blocks, 1024 features.

    Args:
        same_padding: the first convolution pads two pixels before and three after an even side, as
            TensorFlow's "SAME" does, and not three on both. The pools round up, which is the same
            there; sides that are multiples of 32 are even on every grid.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        width: float = 1.0,
        dropout: float = 0.2,
        *,
        same_padding: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        stem, expanded = scaled(64, width), scaled(192, width)
        self.pad = nn.ZeroPad2d((2, 3, 2, 3)) if same_padding else nn.Identity()
        self.conv1 = ConvNormAct(3, stem, 7, stride=2, padding=0 if same_padding else 3)
        self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2 = ConvNormAct(stem, stem, 1)
        self.conv3 = ConvNormAct(stem, expanded, 3, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)

        channels = expanded

        def block(row: str) -> InceptionBlock:
            nonlocal channels
            widths = BlockWidths(*(scaled(count, width) for count in WIDTHS[row]))
            built = InceptionBlock(channels, widths)
            channels = built.out_channels
            return built

        self.inception3a = block("3a")
        self.inception3b = block("3b")
        self.maxpool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception4a = block("4a")
        self.inception4b = block("4b")
        self.inception4c = block("4c")
        self.inception4d = block("4d")
        self.inception4e = block("4e")
        self.maxpool4 = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        self.inception5a = block("5a")
        self.inception5b = block("5b")

        self.num_features = channels
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        self.reset_parameters()

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.maxpool1(self.conv1(self.pad(x)))
        x = self.maxpool2(self.conv3(self.conv2(x)))
        x = self.maxpool3(self.inception3b(self.inception3a(x)))
        x = self.inception4c(self.inception4b(self.inception4a(x)))
        x = self.maxpool4(self.inception4e(self.inception4d(x)))
        x = self.inception5b(self.inception5a(x))
        return torch.flatten(self.avgpool(x), 1)

    def classify(self, features: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.dropout(features))
        return logits

    def blocks(self) -> Iterator[tuple[str, nn.Module]]:
        for name, module in self.named_children():
            if isinstance(module, (ConvNormAct, InceptionBlock)):
                yield name, module


def _torchvision_key(key: str) -> str | None:
    return None if key.startswith(("aux1.", "aux2.")) else key


# torchvision's weights were trained with `transform_input`, which re-maps ImageNet-normalised
# pixels to mean 0.5, std 0.5; the network itself therefore wants 0.5/0.5 and no extra layer.
PREPROCESSING = Preprocessing(size=224, resize=256, interpolation="bilinear")

NETWORKS = (
    NetworkSpec(
        name="googlenet",
        title="GoogLeNet (Inception v1, batch norm)",
        paper="1409.4842",
        build=GoogLeNet,
        min_size=15,
        preprocessing=PREPROCESSING,
        params=6_624_904,
        macs=1_498_376_192,
        classifier="fc",
        layouts=(
            CheckpointLayout(
                name="torchvision",
                signature=frozenset({"conv1.conv.weight", "inception3a.branch2.0.conv.weight"}),
                rename=_torchvision_key,
                preprocessing=PREPROCESSING,
            ),
            slim_layout(
                "InceptionV1",
                googlenet_scopes(),
                logits="Logits/Conv2d_0c_1x1",
                classifier="fc",
                size=224,
                build={"same_padding": True},
            ),
        ),
        download="torchvision's googlenet-1378be20.pth",
        published=(
            PublishedAccuracy("torchvision", 69.778, TORCHVISION_FACTS, 69.826, FBGEMM),
            PublishedAccuracy("TF-slim", 69.74, INC_3_1, 70.45, PTQ_CPU),
            PublishedAccuracy("TF-slim", 69.76, VITIS, 67.94, PTQ_DPU),
        ),
    ),
)
