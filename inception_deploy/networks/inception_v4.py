"""Inception v4: arXiv 1602.07261, figures 3–9, in the layout timm and Cadene's port share.

Everything but the classifier lies in one sequence, `features`; its indices are the checkpoints'.
Where the paper's figures slip, this is the network that was trained: the last fork of the stem
(figure 3) has stride 2 on both sides, and the 17×17 block (figure 5) factorises its 7×7s into pairs
of 1×7 and 7×1 throughout. Average pools exclude their padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from inception_deploy.networks._published import CADENE, INC_3_1, PTQ_CPU, PTQ_DPU, VITIS
from inception_deploy.networks._slim import inception_v4_scopes, slim_layout
from inception_deploy.networks.base import (
    CheckpointLayout,
    ConvNormAct,
    Fork,
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
    "InceptionV4",
    "Mixed3a",
    "Mixed4a",
    "Mixed5a",
    "ReductionA",
    "ReductionB",
]

Scaler = Callable[[int], int]

conv = ConvNormAct
ACROSS_7, DOWN_7 = (0, 3), (3, 0)
ACROSS_3, DOWN_3 = (0, 1), (1, 0)


def _pool_proj(in_channels: int, out_channels: int) -> nn.Sequential:
    """Average pool, padding excluded, then 1×1."""
    return nn.Sequential(
        nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
        conv(in_channels, out_channels, 1),
    )


class Mixed3a(Fork):
    """Stem, 147×147 → 73×73: max pool/2 | 3×3/2, without padding.

    (N, in_channels, H, W) → (N, out_channels, (H - 1) // 2, (W - 1) // 2).
    """

    def __init__(self, in_channels: int, w: Scaler) -> None:
        super().__init__(
            in_channels,
            maxpool=nn.MaxPool2d(3, stride=2),
            conv=conv(in_channels, w(96), 3, stride=2),
        )


class Mixed4a(Fork):
    """Stem, 73×73 → 71×71: 1×1→3×3 | 1×1→1×7→7×1→3×3, the 3×3s without padding.

    (N, in_channels, H, W) → (N, out_channels, H - 2, W - 2).
    """

    def __init__(self, in_channels: int, w: Scaler) -> None:
        super().__init__(
            in_channels,
            branch0=nn.Sequential(conv(in_channels, w(64), 1), conv(w(64), w(96), 3)),
            branch1=nn.Sequential(
                conv(in_channels, w(64), 1),
                conv(w(64), w(64), (1, 7), padding=ACROSS_7),
                conv(w(64), w(64), (7, 1), padding=DOWN_7),
                conv(w(64), w(96), 3),
            ),
        )


class Mixed5a(Fork):
    """Stem, 71×71 → 35×35: 3×3/2 | max pool/2, without padding.

    (N, in_channels, H, W) → (N, out_channels, (H - 1) // 2, (W - 1) // 2).
    """

    def __init__(self, in_channels: int, w: Scaler) -> None:
        super().__init__(
            in_channels,
            conv=conv(in_channels, w(192), 3, stride=2),
            maxpool=nn.MaxPool2d(3, stride=2),
        )


class InceptionA(Fork):
    """35×35: 1×1 | 1×1→3×3 | 1×1→3×3→3×3 | average pool→1×1.

    (N, in_channels, H, W) → (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, w: Scaler) -> None:
        super().__init__(
            in_channels,
            branch0=conv(in_channels, w(96), 1),
            branch1=nn.Sequential(conv(in_channels, w(64), 1), conv(w(64), w(96), 3, padding=1)),
            branch2=nn.Sequential(
                conv(in_channels, w(64), 1),
                conv(w(64), w(96), 3, padding=1),
                conv(w(96), w(96), 3, padding=1),
            ),
            branch3=_pool_proj(in_channels, w(96)),
        )


class ReductionA(Fork):
    """35×35 → 17×17: 3×3/2 | 1×1→3×3→3×3/2 | max pool/2, strides without padding.

    (N, in_channels, H, W) → (N, out_channels, (H - 1) // 2, (W - 1) // 2). Table 1 of the paper
    calls the widths k, l, m, n = 192, 224, 256, 384.
    """

    def __init__(self, in_channels: int, w: Scaler) -> None:
        super().__init__(
            in_channels,
            branch0=conv(in_channels, w(384), 3, stride=2),
            branch1=nn.Sequential(
                conv(in_channels, w(192), 1),
                conv(w(192), w(224), 3, padding=1),
                conv(w(224), w(256), 3, stride=2),
            ),
            branch2=nn.MaxPool2d(3, stride=2),
        )


class InceptionB(Fork):
    """17×17: 1×1 | 1×1→1×7→7×1 | 1×1→7×1→1×7→7×1→1×7 | average pool→1×1.

    (N, in_channels, H, W) → (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, w: Scaler) -> None:
        super().__init__(
            in_channels,
            branch0=conv(in_channels, w(384), 1),
            branch1=nn.Sequential(
                conv(in_channels, w(192), 1),
                conv(w(192), w(224), (1, 7), padding=ACROSS_7),
                conv(w(224), w(256), (7, 1), padding=DOWN_7),
            ),
            branch2=nn.Sequential(
                conv(in_channels, w(192), 1),
                conv(w(192), w(192), (7, 1), padding=DOWN_7),
                conv(w(192), w(224), (1, 7), padding=ACROSS_7),
                conv(w(224), w(224), (7, 1), padding=DOWN_7),
                conv(w(224), w(256), (1, 7), padding=ACROSS_7),
            ),
            branch3=_pool_proj(in_channels, w(128)),
        )


class ReductionB(Fork):
    """17×17 → 8×8: 1×1→3×3/2 | 1×1→1×7→7×1→3×3/2 | max pool/2, strides without padding.

    (N, in_channels, H, W) → (N, out_channels, (H - 1) // 2, (W - 1) // 2).
    """

    def __init__(self, in_channels: int, w: Scaler) -> None:
        super().__init__(
            in_channels,
            branch0=nn.Sequential(conv(in_channels, w(192), 1), conv(w(192), w(192), 3, stride=2)),
            branch1=nn.Sequential(
                conv(in_channels, w(256), 1),
                conv(w(256), w(256), (1, 7), padding=ACROSS_7),
                conv(w(256), w(320), (7, 1), padding=DOWN_7),
                conv(w(320), w(320), 3, stride=2),
            ),
            branch2=nn.MaxPool2d(3, stride=2),
        )


class InceptionC(nn.Module):
    """8×8: 1×1 | 1×1→{1×3, 3×1} | 1×1→3×1→1×3→{1×3, 3×1} | average pool→1×1.

    (N, in_channels, H, W) → (N, out_channels, H, W). The pairs in braces share one input.
    """

    def __init__(self, in_channels: int, w: Scaler) -> None:
        super().__init__()
        self.branch0 = conv(in_channels, w(256), 1)
        self.branch1_0 = conv(in_channels, w(384), 1)
        self.branch1_1a = conv(w(384), w(256), (1, 3), padding=ACROSS_3)
        self.branch1_1b = conv(w(384), w(256), (3, 1), padding=DOWN_3)
        self.branch2_0 = conv(in_channels, w(384), 1)
        self.branch2_1 = conv(w(384), w(448), (3, 1), padding=DOWN_3)
        self.branch2_2 = conv(w(448), w(512), (1, 3), padding=ACROSS_3)
        self.branch2_3a = conv(w(512), w(256), (1, 3), padding=ACROSS_3)
        self.branch2_3b = conv(w(512), w(256), (3, 1), padding=DOWN_3)
        self.branch3 = _pool_proj(in_channels, w(256))
        self.out_channels = output_channels(
            self.branch0,
            self.branch1_1a,
            self.branch1_1b,
            self.branch2_3a,
            self.branch2_3b,
            self.branch3,
        )

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch1_0(x)
        triple = self.branch2_2(self.branch2_1(self.branch2_0(x)))
        branches = (
            self.branch0(x),
            self.branch1_1a(single),
            self.branch1_1b(single),
            self.branch2_3a(triple),
            self.branch2_3b(triple),
            self.branch3(x),
        )
        return torch.cat(branches, 1)


SEQUENCE: tuple[Callable[[int, Scaler], Fork | InceptionC], ...] = (
    *(Mixed3a, Mixed4a, Mixed5a),
    *([InceptionA] * 4),
    ReductionA,
    *([InceptionB] * 7),
    ReductionB,
    *([InceptionC] * 3),
)


class InceptionV4(InceptionNetwork):
    """Inception v4; 299×299 natively, 1536 features."""

    def __init__(self, num_classes: int = 1000, width: float = 1.0, dropout: float = 0.2) -> None:
        super().__init__()
        self.num_classes = num_classes
        w: Scaler = partial(scaled, width=width)
        self.features = nn.Sequential(
            conv(3, w(32), 3, stride=2),
            conv(w(32), w(32), 3),
            conv(w(32), w(64), 3, padding=1),
        )
        channels = w(64)
        for block in SEQUENCE:
            built = block(channels, w)
            self.features.append(built)
            channels = built.out_channels

        self.num_features = channels
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.last_linear = nn.Linear(channels, num_classes)
        self.reset_parameters()

    def forward_features(self, x: Tensor) -> Tensor:
        return torch.flatten(self.avgpool(self.features(x)), 1)

    def classify(self, features: Tensor) -> Tensor:
        logits: Tensor = self.last_linear(self.dropout(features))
        return logits

    def blocks(self) -> Iterator[tuple[str, nn.Module]]:
        for index, block in enumerate(self.features):
            yield f"features.{index}", block


def _key(key: str) -> str | None:
    return key


PREPROCESSING = Preprocessing.with_crop_pct(299, 0.875, interpolation="bicubic")
SOURCE = "timm results-imagenet.csv, 2025-10"

NETWORKS = (
    NetworkSpec(
        name="inception_v4",
        title="Inception v4",
        paper="1602.07261",
        build=InceptionV4,
        min_size=75,
        preprocessing=PREPROCESSING,
        params=42_679_816,
        macs=12_253_974_624,
        classifier="last_linear",
        layouts=(
            # Cadene's inceptionv4 has the same names, and 1001 rows with the background first.
            CheckpointLayout(
                name="timm",
                signature=frozenset({"features.3.conv.conv.weight", "last_linear.weight"}),
                rename=_key,
                preprocessing=PREPROCESSING,
                background_row=True,
            ),
            slim_layout(
                "InceptionV4",
                inception_v4_scopes(),
                logits="Logits/Logits",
                classifier="last_linear",
                size=299,
            ),
        ),
        pretrained=(PretrainedWeights("tf_in1k", "timm/inception_v4.tf_in1k", 80.144, SOURCE),),
        published=(
            PublishedAccuracy("TF-slim", 80.27, INC_3_1, 80.13, PTQ_CPU),
            PublishedAccuracy("TF-slim", 80.18, VITIS, 79.28, PTQ_DPU),
            PublishedAccuracy("Cadene", 80.062, CADENE),
        ),
    ),
)
