"""Inception v2 of "Rethinking the Inception Architecture": arXiv 1512.00567, Table 1.

Others call BN-Inception (1502.03167) "Inception v2"; that one is `bn_inception`.

Printed in the paper: the stem, layer by layer; three blocks like figure 5 at 35×35×288, five like
figure 6 at 17×17×768 with n = 7, two like figure 7 at 8×8, which end in 2048 channels; the grids
and channel counts between them; reductions that are variations of figure 10; a linear classifier.

Not printed: the widths inside the blocks, which are in a `model.txt` that the submission lacks, and
no weights were published. Chosen here: Inception v3's widths throughout, since they are the same
authors' for the same grids and meet every printed count. Where v3's inner count grows along the
17×17 blocks, from 128 to 192, all five keep 128, as the paper reports a network cheaper than v3:
this one has 1 % more multiply-adds, with v3's growth it would have 11 % more. Reductions are v3's.
Average pools exclude their padding, as in the framework the paper's network was trained in.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from inception_deploy.networks.base import (
    ConvNormAct,
    Fork,
    InceptionNetwork,
    NetworkSpec,
    own_names,
    scaled,
)
from inception_deploy.networks.inception_v3 import (
    InceptionB,
    InceptionC,
    InceptionD,
    InceptionE,
)
from inception_deploy.preprocess import Preprocessing

__all__ = ["NETWORKS", "Figure5", "InceptionV2"]

CHANNELS_7X7 = 128


class Figure5(Fork):
    """35×35: 1×1 | 1×1→3×3 | 1×1→3×3→3×3 | average pool→1×1.

    (N, in_channels, H, W) → (N, out_channels, H, W). Inception v3's first block with the 5×5 that
    the figure replaces by two 3×3s.
    """

    def __init__(self, in_channels: int, width: float, pool: nn.Module) -> None:
        c48, c64, c96 = (scaled(count, width) for count in (48, 64, 96))
        super().__init__(
            in_channels,
            branch1x1=ConvNormAct(in_channels, c64, 1),
            branch3x3=nn.Sequential(
                ConvNormAct(in_channels, c48, 1), ConvNormAct(c48, c64, 3, padding=1)
            ),
            branch3x3dbl=nn.Sequential(
                ConvNormAct(in_channels, c64, 1),
                ConvNormAct(c64, c96, 3, padding=1),
                ConvNormAct(c96, c96, 3, padding=1),
            ),
            branch_pool=nn.Sequential(pool, ConvNormAct(in_channels, c64, 1)),
        )


class InceptionV2(InceptionNetwork):
    """Inception v2; 299×299 natively, 12 Inception blocks, 2048 features."""

    def __init__(self, num_classes: int = 1000, width: float = 1.0, dropout: float = 0.2) -> None:
        super().__init__()
        self.num_classes = num_classes
        c32, c64, c80, c192, c288 = (scaled(count, width) for count in (32, 64, 80, 192, 288))
        pool = partial(nn.AvgPool2d, 3, stride=1, padding=1, count_include_pad=False)
        self.Conv2d_1a_3x3 = ConvNormAct(3, c32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvNormAct(c32, c32, 3)
        self.Conv2d_2b_3x3 = ConvNormAct(c32, c64, 3, padding=1)
        self.maxpool1 = nn.MaxPool2d(3, stride=2)
        self.Conv2d_3b_3x3 = ConvNormAct(c64, c80, 3)
        self.Conv2d_4a_3x3 = ConvNormAct(c80, c192, 3, stride=2)
        self.Conv2d_4b_3x3 = ConvNormAct(c192, c288, 3, padding=1)

        self.Mixed_5b = Figure5(c288, width, pool())
        self.Mixed_5c = Figure5(self.Mixed_5b.out_channels, width, pool())
        self.Mixed_5d = Figure5(self.Mixed_5c.out_channels, width, pool())
        self.Mixed_6a = InceptionB(self.Mixed_5d.out_channels, width)
        self.Mixed_6b = InceptionC(self.Mixed_6a.out_channels, CHANNELS_7X7, width, pool())
        self.Mixed_6c = InceptionC(self.Mixed_6b.out_channels, CHANNELS_7X7, width, pool())
        self.Mixed_6d = InceptionC(self.Mixed_6c.out_channels, CHANNELS_7X7, width, pool())
        self.Mixed_6e = InceptionC(self.Mixed_6d.out_channels, CHANNELS_7X7, width, pool())
        self.Mixed_6f = InceptionC(self.Mixed_6e.out_channels, CHANNELS_7X7, width, pool())
        self.Mixed_7a = InceptionD(self.Mixed_6f.out_channels, width)
        self.Mixed_7b = InceptionE(self.Mixed_7a.out_channels, width, pool())
        self.Mixed_7c = InceptionE(self.Mixed_7b.out_channels, width, pool())

        self.num_features = self.Mixed_7c.out_channels
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(self.num_features, num_classes)
        self.reset_parameters()

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_3x3(self.maxpool1(x)))
        x = self.Conv2d_4b_3x3(x)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))
        x = self.Mixed_6f(self.Mixed_6e(self.Mixed_6d(x)))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return torch.flatten(self.avgpool(x), 1)

    def classify(self, features: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.dropout(features))
        return logits

    def blocks(self) -> Iterator[tuple[str, nn.Module]]:
        kinds = (ConvNormAct, Figure5, InceptionB, InceptionC, InceptionD, InceptionE)
        for name, module in self.named_children():
            if isinstance(module, kinds):
                yield name, module


PREPROCESSING = Preprocessing.with_crop_pct(299, 0.875, interpolation="bicubic")

NETWORKS = (
    NetworkSpec(
        name="inception_v2",
        title='Inception v2 ("Rethinking", Table 1)',
        paper="1512.00567",
        build=InceptionV2,
        min_size=75,
        preprocessing=PREPROCESSING,
        params=23_928_904,
        macs=5_767_793_248,
        classifier="fc",
        layouts=(
            own_names(PREPROCESSING, "Conv2d_4b_3x3.conv.weight", "Mixed_6f.branch1x1.conv.weight"),
        ),
    ),
)
