"""Inception v3: arXiv 1512.00567, section 6, in the layout torchvision and timm share.

The five block kinds keep the letters of the TF-slim lineage: A at 35×35, B reduces to 17×17, C
factorises 7×7 into 1×7 and 7×1, D reduces to 8×8, E splits its 3×3s into 1×3 and 3×1. Average
pools count their padding, as these checkpoints expect; TF-slim's and Keras's exclude it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from inception_deploy.networks._keras import inception_v3_layers, keras_layout
from inception_deploy.networks._published import (
    FBGEMM,
    INC_2_1,
    INC_3_1,
    NNCF,
    NNCF_TESTS,
    PTQ_CPU,
    PTQ_CPU_2021,
    PTQ_DPU,
    TORCHVISION_FACTS,
    VITIS,
)
from inception_deploy.networks._slim import inception_v3_scopes, slim_layout
from inception_deploy.networks.base import (
    CheckpointLayout,
    ConvNormAct,
    InceptionNetwork,
    NetworkSpec,
    PretrainedWeights,
    PublishedAccuracy,
    output_channels,
    scaled,
)
from inception_deploy.preprocess import Preprocessing

__all__ = [
    "NETWORKS",
    "InceptionA",
    "InceptionB",
    "InceptionC",
    "InceptionD",
    "InceptionE",
    "InceptionV3",
]


class InceptionA(nn.Module):
    """35×35: 1×1 | 1×1→5×5 | 1×1→3×3→3×3 | pool→1×1.

    (N, in_channels, H, W) → (N, out_channels, H, W); `pool_features` is the pool branch's count.
    """

    def __init__(self, in_channels: int, pool_features: int, width: float, pool: nn.Module) -> None:
        super().__init__()
        c48, c64, c96 = (scaled(count, width) for count in (48, 64, 96))
        self.branch1x1 = ConvNormAct(in_channels, c64, 1)
        self.branch5x5_1 = ConvNormAct(in_channels, c48, 1)
        self.branch5x5_2 = ConvNormAct(c48, c64, 5, padding=2)
        self.branch3x3dbl_1 = ConvNormAct(in_channels, c64, 1)
        self.branch3x3dbl_2 = ConvNormAct(c64, c96, 3, padding=1)
        self.branch3x3dbl_3 = ConvNormAct(c96, c96, 3, padding=1)
        self.pool = pool
        self.branch_pool = ConvNormAct(in_channels, scaled(pool_features, width), 1)
        self.out_channels = output_channels(
            self.branch1x1, self.branch5x5_2, self.branch3x3dbl_3, self.branch_pool
        )

    def forward(self, x: Tensor) -> Tensor:
        branches = (
            self.branch1x1(x),
            self.branch5x5_2(self.branch5x5_1(x)),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            self.branch_pool(self.pool(x)),
        )
        return torch.cat(branches, 1)


class InceptionB(nn.Module):
    """35×35 → 17×17: 3×3/2 | 1×1→3×3→3×3/2 | max pool/2, all without padding.

    (N, in_channels, H, W) → (N, out_channels, (H - 1) // 2, (W - 1) // 2).
    """

    def __init__(self, in_channels: int, width: float) -> None:
        super().__init__()
        c64, c96, c384 = (scaled(count, width) for count in (64, 96, 384))
        self.branch3x3 = ConvNormAct(in_channels, c384, 3, stride=2)
        self.branch3x3dbl_1 = ConvNormAct(in_channels, c64, 1)
        self.branch3x3dbl_2 = ConvNormAct(c64, c96, 3, padding=1)
        self.branch3x3dbl_3 = ConvNormAct(c96, c96, 3, stride=2)
        self.pool = nn.MaxPool2d(3, stride=2)
        self.out_channels = output_channels(self.branch3x3, self.branch3x3dbl_3) + in_channels

    def forward(self, x: Tensor) -> Tensor:
        branches = (
            self.branch3x3(x),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            self.pool(x),
        )
        return torch.cat(branches, 1)


class InceptionC(nn.Module):
    """17×17: 1×1 | 1×1→1×7→7×1 | 1×1→7×1→1×7→7×1→1×7 | pool→1×1.

    (N, in_channels, H, W) → (N, out_channels, H, W); `channels_7x7` is the inner count, which grows
    from 128 to 192 along the stage.
    """

    def __init__(self, in_channels: int, channels_7x7: int, width: float, pool: nn.Module) -> None:
        super().__init__()
        c7, c192 = scaled(channels_7x7, width), scaled(192, width)
        across, down = (0, 3), (3, 0)
        self.branch1x1 = ConvNormAct(in_channels, c192, 1)
        self.branch7x7_1 = ConvNormAct(in_channels, c7, 1)
        self.branch7x7_2 = ConvNormAct(c7, c7, (1, 7), padding=across)
        self.branch7x7_3 = ConvNormAct(c7, c192, (7, 1), padding=down)
        self.branch7x7dbl_1 = ConvNormAct(in_channels, c7, 1)
        self.branch7x7dbl_2 = ConvNormAct(c7, c7, (7, 1), padding=down)
        self.branch7x7dbl_3 = ConvNormAct(c7, c7, (1, 7), padding=across)
        self.branch7x7dbl_4 = ConvNormAct(c7, c7, (7, 1), padding=down)
        self.branch7x7dbl_5 = ConvNormAct(c7, c192, (1, 7), padding=across)
        self.pool = pool
        self.branch_pool = ConvNormAct(in_channels, c192, 1)
        self.out_channels = output_channels(
            self.branch1x1, self.branch7x7_3, self.branch7x7dbl_5, self.branch_pool
        )

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        branches = (
            self.branch1x1(x),
            self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x))),
            self.branch7x7dbl_5(self.branch7x7dbl_4(double)),
            self.branch_pool(self.pool(x)),
        )
        return torch.cat(branches, 1)


class InceptionD(nn.Module):
    """17×17 → 8×8: 1×1→3×3/2 | 1×1→1×7→7×1→3×3/2 | max pool/2, strides without padding.

    (N, in_channels, H, W) → (N, out_channels, (H - 1) // 2, (W - 1) // 2).
    """

    def __init__(self, in_channels: int, width: float) -> None:
        super().__init__()
        c192, c320 = scaled(192, width), scaled(320, width)
        self.branch3x3_1 = ConvNormAct(in_channels, c192, 1)
        self.branch3x3_2 = ConvNormAct(c192, c320, 3, stride=2)
        self.branch7x7x3_1 = ConvNormAct(in_channels, c192, 1)
        self.branch7x7x3_2 = ConvNormAct(c192, c192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = ConvNormAct(c192, c192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = ConvNormAct(c192, c192, 3, stride=2)
        self.pool = nn.MaxPool2d(3, stride=2)
        self.out_channels = output_channels(self.branch3x3_2, self.branch7x7x3_4) + in_channels

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        branches = (
            self.branch3x3_2(self.branch3x3_1(x)),
            self.branch7x7x3_4(seven),
            self.pool(x),
        )
        return torch.cat(branches, 1)


class InceptionE(nn.Module):
    """8×8: 1×1 | 1×1→{1×3, 3×1} | 1×1→3×3→{1×3, 3×1} | pool→1×1.

    (N, in_channels, H, W) → (N, out_channels, H, W). The pairs in braces share one input.
    """

    def __init__(self, in_channels: int, width: float, pool: nn.Module) -> None:
        super().__init__()
        c192, c320, c384, c448 = (scaled(count, width) for count in (192, 320, 384, 448))
        across, down = (0, 1), (1, 0)
        self.branch1x1 = ConvNormAct(in_channels, c320, 1)
        self.branch3x3_1 = ConvNormAct(in_channels, c384, 1)
        self.branch3x3_2a = ConvNormAct(c384, c384, (1, 3), padding=across)
        self.branch3x3_2b = ConvNormAct(c384, c384, (3, 1), padding=down)
        self.branch3x3dbl_1 = ConvNormAct(in_channels, c448, 1)
        self.branch3x3dbl_2 = ConvNormAct(c448, c384, 3, padding=1)
        self.branch3x3dbl_3a = ConvNormAct(c384, c384, (1, 3), padding=across)
        self.branch3x3dbl_3b = ConvNormAct(c384, c384, (3, 1), padding=down)
        self.pool = pool
        self.branch_pool = ConvNormAct(in_channels, c192, 1)
        self.out_channels = output_channels(
            self.branch1x1,
            self.branch3x3_2a,
            self.branch3x3_2b,
            self.branch3x3dbl_3a,
            self.branch3x3dbl_3b,
            self.branch_pool,
        )

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        branches = (
            self.branch1x1(x),
            self.branch3x3_2a(single),
            self.branch3x3_2b(single),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(self.pool(x)),
        )
        return torch.cat(branches, 1)


BLOCK_TYPES = (ConvNormAct, InceptionA, InceptionB, InceptionC, InceptionD, InceptionE)


class InceptionV3(InceptionNetwork):
    """Inception v3; 299×299 natively, 11 Inception blocks, 2048 features.

    Args:
        count_include_pad: average pools count their padding; about a ninth of a 35×35 map changes.
        max_pool_7c: the last block's pool takes the maximum instead.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        width: float = 1.0,
        dropout: float = 0.5,
        *,
        count_include_pad: bool = True,
        max_pool_7c: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        average = partial(nn.AvgPool2d, 3, stride=1, padding=1, count_include_pad=count_include_pad)
        last_pool = nn.MaxPool2d(3, stride=1, padding=1) if max_pool_7c else average()
        c32, c64, c80, c192 = (scaled(count, width) for count in (32, 64, 80, 192))
        self.Conv2d_1a_3x3 = ConvNormAct(3, c32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvNormAct(c32, c32, 3)
        self.Conv2d_2b_3x3 = ConvNormAct(c32, c64, 3, padding=1)
        self.maxpool1 = nn.MaxPool2d(3, stride=2)
        self.Conv2d_3b_1x1 = ConvNormAct(c64, c80, 1)
        self.Conv2d_4a_3x3 = ConvNormAct(c80, c192, 3)
        self.maxpool2 = nn.MaxPool2d(3, stride=2)

        self.Mixed_5b = InceptionA(c192, 32, width, average())
        self.Mixed_5c = InceptionA(self.Mixed_5b.out_channels, 64, width, average())
        self.Mixed_5d = InceptionA(self.Mixed_5c.out_channels, 64, width, average())
        self.Mixed_6a = InceptionB(self.Mixed_5d.out_channels, width)
        self.Mixed_6b = InceptionC(self.Mixed_6a.out_channels, 128, width, average())
        self.Mixed_6c = InceptionC(self.Mixed_6b.out_channels, 160, width, average())
        self.Mixed_6d = InceptionC(self.Mixed_6c.out_channels, 160, width, average())
        self.Mixed_6e = InceptionC(self.Mixed_6d.out_channels, 192, width, average())
        self.Mixed_7a = InceptionD(self.Mixed_6e.out_channels, width)
        self.Mixed_7b = InceptionE(self.Mixed_7a.out_channels, width, average())
        self.Mixed_7c = InceptionE(self.Mixed_7b.out_channels, width, last_pool)

        self.num_features = self.Mixed_7c.out_channels
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(self.num_features, num_classes)
        self.reset_parameters()

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(self.maxpool1(x)))
        x = self.maxpool2(x)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6a(x)
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return torch.flatten(self.avgpool(x), 1)

    def classify(self, features: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.dropout(features))
        return logits

    def blocks(self) -> Iterator[tuple[str, nn.Module]]:
        for name, module in self.named_children():
            if isinstance(module, BLOCK_TYPES):
                yield name, module


def _key(key: str) -> str | None:
    return None if key.startswith("AuxLogits.") else key


# torchvision's preset resizes to 342; its `transform_input` makes ImageNet statistics 0.5/0.5.
TORCHVISION = Preprocessing(size=299, resize=342, interpolation="bilinear")
TIMM = Preprocessing.with_crop_pct(299, 0.875, interpolation="bicubic")
SOURCE = "timm results-imagenet.csv, 2025-10"

NETWORKS = (
    NetworkSpec(
        name="inception_v3",
        title="Inception v3",
        paper="1512.00567",
        build=InceptionV3,
        min_size=75,
        preprocessing=TIMM,
        params=23_834_568,
        macs=5_713_216_096,
        classifier="fc",
        layouts=(
            # Same names; torchvision's files carry the auxiliary head, timm's on the hub do not.
            # The TensorFlow ports among timm's release files have 1001 rows, background first.
            CheckpointLayout(
                name="torchvision",
                signature=frozenset({"Mixed_5b.branch5x5_1.conv.weight", "AuxLogits.fc.weight"}),
                rename=_key,
                preprocessing=TORCHVISION,
                background_row=True,
            ),
            CheckpointLayout(
                name="timm",
                signature=frozenset({"Mixed_5b.branch5x5_1.conv.weight"}),
                rename=_key,
                preprocessing=TIMM,
                background_row=True,
            ),
            slim_layout(
                "InceptionV3",
                inception_v3_scopes(),
                logits="Logits/Conv2d_1c_1x1",
                classifier="fc",
                size=299,
                build={"count_include_pad": False},
            ),
            keras_layout(inception_v3_layers(), build={"count_include_pad": False}),
        ),
        pretrained=(
            PretrainedWeights("tv_in1k", "timm/inception_v3.tv_in1k", 77.472, SOURCE),
            PretrainedWeights("tf_in1k", "timm/inception_v3.tf_in1k", 77.866, SOURCE),
            PretrainedWeights("tf_adv_in1k", "timm/inception_v3.tf_adv_in1k", 77.598, SOURCE),
            PretrainedWeights("gluon_in1k", "timm/inception_v3.gluon_in1k", 78.806, SOURCE),
        ),
        published=(
            PublishedAccuracy("torchvision", 77.294, TORCHVISION_FACTS, 77.176, FBGEMM),
            PublishedAccuracy("TF-slim", 76.75, INC_3_1, 76.72, PTQ_CPU),
            PublishedAccuracy("Keras", 77.83, INC_2_1, 77.73, PTQ_CPU_2021),
            PublishedAccuracy("timm tf_in1k", 77.860, NNCF_TESTS, 77.748, NNCF),
            PublishedAccuracy("TF-slim", 77.98, VITIS, 77.35, PTQ_DPU),
        ),
    ),
)
