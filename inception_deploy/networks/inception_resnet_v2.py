"""Inception-ResNet-v2: arXiv 1602.07261, in the layout timm and Cadene's port share.

What the world calls Inception-ResNet-v2 is TF-slim's network, not the paper's figures: a stem like
Inception v3's, Mixed_5b with 320 channels, and 10/20/10 residual blocks. Every residual is
`x + scale · up(branches)`, where `up` (named `conv2d`) is a 1×1 convolution with bias and without
normalisation; the scale keeps training stable (section 3.3) and is folded into `up` for deployment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from inception_deploy.networks._keras import inception_resnet_v2_layers, keras_layout
from inception_deploy.networks._published import (
    CADENE,
    INC_2_1,
    INC_3_1,
    NNCF,
    NNCF_TESTS,
    PTQ_CPU,
    PTQ_CPU_2021,
    PTQ_DPU,
    VITIS,
)
from inception_deploy.networks._slim import inception_resnet_v2_scopes, slim_layout
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
    "Block8",
    "Block17",
    "Block35",
    "InceptionResNetV2",
    "Mixed5b",
    "Mixed6a",
    "Mixed7a",
]

Scaler = Callable[[int], int]


class Mixed5b(nn.Module):
    """The stem's end at 35×35: 1×1 | 1×1→5×5 | 1×1→3×3→3×3 | average pool→1×1.

    (N, in_channels, H, W) → (N, out_channels, H, W). The pool excludes its padding.
    """

    def __init__(self, in_channels: int, w: Scaler) -> None:
        super().__init__()
        self.branch0 = ConvNormAct(in_channels, w(96), 1)
        self.branch1 = nn.Sequential(
            ConvNormAct(in_channels, w(48), 1), ConvNormAct(w(48), w(64), 5, padding=2)
        )
        self.branch2 = nn.Sequential(
            ConvNormAct(in_channels, w(64), 1),
            ConvNormAct(w(64), w(96), 3, padding=1),
            ConvNormAct(w(96), w(96), 3, padding=1),
        )
        self.branch3 = nn.Sequential(
            nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
            ConvNormAct(in_channels, w(64), 1),
        )
        self.out_channels = output_channels(self.branch0, self.branch1, self.branch2, self.branch3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.branch0(x), self.branch1(x), self.branch2(x), self.branch3(x)), 1)


class Mixed6a(nn.Module):
    """Reduction 35×35 → 17×17: 3×3/2 | 1×1→3×3→3×3/2 | max pool/2, strides without padding.

    (N, in_channels, H, W) → (N, out_channels, (H - 1) // 2, (W - 1) // 2).
    """

    def __init__(self, in_channels: int, w: Scaler) -> None:
        super().__init__()
        self.branch0 = ConvNormAct(in_channels, w(384), 3, stride=2)
        self.branch1 = nn.Sequential(
            ConvNormAct(in_channels, w(256), 1),
            ConvNormAct(w(256), w(256), 3, padding=1),
            ConvNormAct(w(256), w(384), 3, stride=2),
        )
        self.branch2 = nn.MaxPool2d(3, stride=2)
        self.out_channels = output_channels(self.branch0, self.branch1) + in_channels

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.branch0(x), self.branch1(x), self.branch2(x)), 1)


class Mixed7a(nn.Module):
    """Reduction 17×17 → 8×8: three branches ending in 3×3/2 | max pool/2, strides without padding.

    (N, in_channels, H, W) → (N, out_channels, (H - 1) // 2, (W - 1) // 2).
    """

    def __init__(self, in_channels: int, w: Scaler) -> None:
        super().__init__()
        self.branch0 = nn.Sequential(
            ConvNormAct(in_channels, w(256), 1), ConvNormAct(w(256), w(384), 3, stride=2)
        )
        self.branch1 = nn.Sequential(
            ConvNormAct(in_channels, w(256), 1), ConvNormAct(w(256), w(288), 3, stride=2)
        )
        self.branch2 = nn.Sequential(
            ConvNormAct(in_channels, w(256), 1),
            ConvNormAct(w(256), w(288), 3, padding=1),
            ConvNormAct(w(288), w(320), 3, stride=2),
        )
        self.branch3 = nn.MaxPool2d(3, stride=2)
        self.out_channels = output_channels(self.branch0, self.branch1, self.branch2) + in_channels

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.branch0(x), self.branch1(x), self.branch2(x), self.branch3(x)), 1)


class Block35(nn.Module):
    """Residual block at 35×35: `relu(x + scale · up(1×1 | 1×1→3×3 | 1×1→3×3→3×3))`.

    (N, channels, H, W) → the same shape.
    """

    def __init__(self, channels: int, w: Scaler, scale: float = 0.17) -> None:
        super().__init__()
        self.scale = scale
        self.branch0 = ConvNormAct(channels, w(32), 1)
        self.branch1 = nn.Sequential(
            ConvNormAct(channels, w(32), 1), ConvNormAct(w(32), w(32), 3, padding=1)
        )
        self.branch2 = nn.Sequential(
            ConvNormAct(channels, w(32), 1),
            ConvNormAct(w(32), w(48), 3, padding=1),
            ConvNormAct(w(48), w(64), 3, padding=1),
        )
        joined = output_channels(self.branch0, self.branch1, self.branch2)
        self.conv2d = nn.Conv2d(joined, channels, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat((self.branch0(x), self.branch1(x), self.branch2(x)), 1)
        out: Tensor = self.relu(x + self.scale * self.conv2d(joined))
        return out


class Block17(nn.Module):
    """Residual block at 17×17: `relu(x + scale · up(1×1 | 1×1→1×7→7×1))`.

    (N, channels, H, W) → the same shape.
    """

    def __init__(self, channels: int, w: Scaler, scale: float = 0.10) -> None:
        super().__init__()
        self.scale = scale
        self.branch0 = ConvNormAct(channels, w(192), 1)
        self.branch1 = nn.Sequential(
            ConvNormAct(channels, w(128), 1),
            ConvNormAct(w(128), w(160), (1, 7), padding=(0, 3)),
            ConvNormAct(w(160), w(192), (7, 1), padding=(3, 0)),
        )
        self.conv2d = nn.Conv2d(output_channels(self.branch0, self.branch1), channels, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat((self.branch0(x), self.branch1(x)), 1)
        out: Tensor = self.relu(x + self.scale * self.conv2d(joined))
        return out


class Block8(nn.Module):
    """Residual block at 8×8: `relu(x + scale · up(1×1 | 1×1→1×3→3×1))`.

    (N, channels, H, W) → the same shape. The network's last one is linear, with scale 1.
    """

    def __init__(
        self, channels: int, w: Scaler, scale: float = 0.20, *, linear: bool = False
    ) -> None:
        super().__init__()
        self.scale, self.scaled = scale, scale != 1.0
        self.branch0 = ConvNormAct(channels, w(192), 1)
        self.branch1 = nn.Sequential(
            ConvNormAct(channels, w(192), 1),
            ConvNormAct(w(192), w(224), (1, 3), padding=(0, 1)),
            ConvNormAct(w(224), w(256), (3, 1), padding=(1, 0)),
        )
        self.conv2d = nn.Conv2d(output_channels(self.branch0, self.branch1), channels, 1)
        self.relu = None if linear else nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat((self.branch0(x), self.branch1(x)), 1)
        out: Tensor = self.conv2d(joined)
        # the linear block's scale is exactly 1: a multiplication would be one more node
        out = x + self.scale * out if self.scaled else x + out
        return out if self.relu is None else self.relu(out)


class InceptionResNetV2(InceptionNetwork):
    """Inception-ResNet-v2; 299×299 natively, 1536 features.

    Args:
        repeats: residual blocks at 35×35, 17×17 and 8×8 (there without the final linear one).
    """

    def __init__(
        self,
        num_classes: int = 1000,
        width: float = 1.0,
        dropout: float = 0.2,
        repeats: tuple[int, int, int] = (10, 20, 9),
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        w: Scaler = partial(scaled, width=width)
        self.conv2d_1a = ConvNormAct(3, w(32), 3, stride=2)
        self.conv2d_2a = ConvNormAct(w(32), w(32), 3)
        self.conv2d_2b = ConvNormAct(w(32), w(64), 3, padding=1)
        self.maxpool_3a = nn.MaxPool2d(3, stride=2)
        self.conv2d_3b = ConvNormAct(w(64), w(80), 1)
        self.conv2d_4a = ConvNormAct(w(80), w(192), 3)
        self.maxpool_5a = nn.MaxPool2d(3, stride=2)

        self.mixed_5b = Mixed5b(w(192), w)
        channels = self.mixed_5b.out_channels
        self.repeat = nn.Sequential(*(Block35(channels, w) for _ in range(repeats[0])))
        self.mixed_6a = Mixed6a(channels, w)
        channels = self.mixed_6a.out_channels
        self.repeat_1 = nn.Sequential(*(Block17(channels, w) for _ in range(repeats[1])))
        self.mixed_7a = Mixed7a(channels, w)
        channels = self.mixed_7a.out_channels
        self.repeat_2 = nn.Sequential(*(Block8(channels, w) for _ in range(repeats[2])))
        self.block8 = Block8(channels, w, scale=1.0, linear=True)
        self.conv2d_7b = ConvNormAct(channels, w(1536), 1)

        self.num_features = self.conv2d_7b.out_channels
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.classif = nn.Linear(self.num_features, num_classes)
        self.reset_parameters()

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x)))
        x = self.conv2d_4a(self.conv2d_3b(self.maxpool_3a(x)))
        x = self.repeat(self.mixed_5b(self.maxpool_5a(x)))
        x = self.repeat_1(self.mixed_6a(x))
        x = self.block8(self.repeat_2(self.mixed_7a(x)))
        return torch.flatten(self.avgpool(self.conv2d_7b(x)), 1)

    def classify(self, features: Tensor) -> Tensor:
        logits: Tensor = self.classif(self.dropout(features))
        return logits

    def blocks(self) -> Iterator[tuple[str, nn.Module]]:
        for name, module in self.named_children():
            if isinstance(module, nn.Sequential):
                yield from ((f"{name}.{index}", block) for index, block in enumerate(module))
            elif isinstance(module, (ConvNormAct, Mixed5b, Mixed6a, Mixed7a, Block8)):
                yield name, module


def _timm_key(key: str) -> str | None:
    return key


def _cadene_key(key: str) -> str | None:
    return key.replace("last_linear.", "classif.", 1)


PREPROCESSING = Preprocessing.with_crop_pct(299, 0.8975, interpolation="bicubic")
SOURCE = "timm results-imagenet.csv, 2025-10"

NETWORKS = (
    NetworkSpec(
        name="inception_resnet_v2",
        title="Inception-ResNet-v2",
        paper="1602.07261",
        build=InceptionResNetV2,
        min_size=75,
        preprocessing=PREPROCESSING,
        params=55_843_464,
        macs=13_155_794_016,
        classifier="classif",
        layouts=(
            CheckpointLayout(
                name="timm",
                signature=frozenset({"mixed_5b.branch1.0.conv.weight", "classif.weight"}),
                rename=_timm_key,
                preprocessing=PREPROCESSING,
                background_row=True,
            ),
            CheckpointLayout(
                name="cadene",
                signature=frozenset({"mixed_5b.branch1.0.conv.weight", "last_linear.weight"}),
                rename=_cadene_key,
                preprocessing=PREPROCESSING,
                background_row=True,
            ),
            slim_layout(
                "InceptionResnetV2",
                inception_resnet_v2_scopes(),
                logits="Logits/Logits",
                classifier="classif",
                size=299,
            ),
            keras_layout(inception_resnet_v2_layers()),
        ),
        pretrained=(
            PretrainedWeights("tf_in1k", "timm/inception_resnet_v2.tf_in1k", 80.434, SOURCE),
            PretrainedWeights(
                "tf_ens_adv_in1k", "timm/inception_resnet_v2.tf_ens_adv_in1k", 79.998, SOURCE
            ),
        ),
        published=(
            PublishedAccuracy("TF-slim", 80.40, INC_3_1, 80.25, PTQ_CPU),
            PublishedAccuracy("Keras", 80.40, INC_2_1, 80.35, PTQ_CPU_2021),
            PublishedAccuracy("timm tf_in1k", 80.448, NNCF_TESTS, 80.422, NNCF),
            PublishedAccuracy("TF-slim", 80.37, VITIS, 79.46, PTQ_DPU),
            PublishedAccuracy("Cadene", 80.170, CADENE),
        ),
    ),
)
