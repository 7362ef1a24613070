"""Inception-ResNet-v1 for faces: arXiv 1602.07261's network as FaceNet (1503.03832) came to use it.

Module names are facenet-pytorch's. The network ends in a bottleneck of 512 values, a linear layer
without bias and its batch norm. `--head features` gives the embedding, the bottleneck scaled to
unit length, whose distances compare faces; `--head logits` classifies the unscaled bottleneck, as
these weights were trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from inception_deploy.networks._published import OSMR
from inception_deploy.networks.base import (
    CheckpointLayout,
    ConvNormAct,
    Fork,
    InceptionNetwork,
    NetworkSpec,
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
    "InceptionResNetV1",
    "Mixed6a",
    "Mixed7a",
]

Scaler = Callable[[int], int]

conv = ConvNormAct


class Residual(nn.Module):
    """`relu(x + scale · up(branches))`, where `up` (named `conv2d`) is a 1×1 convolution with bias.

    (N, channels, H, W) → the same shape. A linear block leaves the ReLU out.
    """

    def __init__(
        self, channels: int, scale: float, *, linear: bool = False, **branches: nn.Module
    ) -> None:
        super().__init__()
        self.scale, self.scaled = scale, scale != 1.0
        self.branches = tuple(branches)
        for name, branch in branches.items():
            self.add_module(name, branch)
        self.conv2d = nn.Conv2d(output_channels(*branches.values()), channels, 1)
        self.relu = None if linear else nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.get_submodule(name)(x) for name in self.branches], 1)
        out: Tensor = self.conv2d(joined)
        # a scale of exactly 1 needs no multiplication: one node less
        out = x + self.scale * out if self.scaled else x + out
        return out if self.relu is None else self.relu(out)


class Block35(Residual):
    """Residual block at 35×35 for 299 pixels, 17×17 for 160: 1×1 | 1×1→3×3 | 1×1→3×3→3×3."""

    def __init__(self, channels: int, w: Scaler) -> None:
        super().__init__(
            channels,
            scale=0.17,
            branch0=conv(channels, w(32), 1),
            branch1=nn.Sequential(conv(channels, w(32), 1), conv(w(32), w(32), 3, padding=1)),
            branch2=nn.Sequential(
                conv(channels, w(32), 1),
                conv(w(32), w(32), 3, padding=1),
                conv(w(32), w(32), 3, padding=1),
            ),
        )


class Block17(Residual):
    """Residual block at 17×17 for 299 pixels, 8×8 for 160: 1×1 | 1×1→1×7→7×1."""

    def __init__(self, channels: int, w: Scaler) -> None:
        super().__init__(
            channels,
            scale=0.10,
            branch0=conv(channels, w(128), 1),
            branch1=nn.Sequential(
                conv(channels, w(128), 1),
                conv(w(128), w(128), (1, 7), padding=(0, 3)),
                conv(w(128), w(128), (7, 1), padding=(3, 0)),
            ),
        )


class Block8(Residual):
    """Residual block at 8×8 for 299 pixels, 3×3 for 160: 1×1 | 1×1→1×3→3×1.

    The network's last one is linear, with scale 1.
    """

    def __init__(
        self, channels: int, w: Scaler, scale: float = 0.20, *, linear: bool = False
    ) -> None:
        super().__init__(
            channels,
            scale=scale,
            linear=linear,
            branch0=conv(channels, w(192), 1),
            branch1=nn.Sequential(
                conv(channels, w(192), 1),
                conv(w(192), w(192), (1, 3), padding=(0, 1)),
                conv(w(192), w(192), (3, 1), padding=(1, 0)),
            ),
        )


class Mixed6a(Fork):
    """First reduction: 3×3/2 | 1×1→3×3→3×3/2 | max pool/2, strides without padding.

    (N, in_channels, H, W) → (N, out_channels, (H - 1) // 2, (W - 1) // 2). Table 1 of the paper
    calls the widths k, l, m, n = 192, 192, 256, 384.
    """

    def __init__(self, in_channels: int, w: Scaler) -> None:
        super().__init__(
            in_channels,
            branch0=conv(in_channels, w(384), 3, stride=2),
            branch1=nn.Sequential(
                conv(in_channels, w(192), 1),
                conv(w(192), w(192), 3, padding=1),
                conv(w(192), w(256), 3, stride=2),
            ),
            branch2=nn.MaxPool2d(3, stride=2),
        )


class Mixed7a(Fork):
    """Second reduction: three branches ending in 3×3/2 | max pool/2, strides without padding.

    (N, in_channels, H, W) → (N, out_channels, (H - 1) // 2, (W - 1) // 2).
    """

    def __init__(self, in_channels: int, w: Scaler) -> None:
        super().__init__(
            in_channels,
            branch0=nn.Sequential(conv(in_channels, w(256), 1), conv(w(256), w(384), 3, stride=2)),
            branch1=nn.Sequential(conv(in_channels, w(256), 1), conv(w(256), w(256), 3, stride=2)),
            branch2=nn.Sequential(
                conv(in_channels, w(256), 1),
                conv(w(256), w(256), 3, padding=1),
                conv(w(256), w(256), 3, stride=2),
            ),
            branch3=nn.MaxPool2d(3, stride=2),
        )


class InceptionResNetV1(InceptionNetwork):
    """Inception-ResNet-v1; 160×160 faces natively, 512 features.

    Args:
        num_classes: 0 leaves the classifier out, for weights that end in the embedding.
        repeats: residual blocks of each kind (of the last without the final linear one).
    """

    def __init__(
        self,
        num_classes: int = 1000,
        width: float = 1.0,
        dropout: float = 0.6,
        repeats: tuple[int, int, int] = (5, 10, 5),
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        w: Scaler = partial(scaled, width=width)
        self.conv2d_1a = conv(3, w(32), 3, stride=2)
        self.conv2d_2a = conv(w(32), w(32), 3)
        self.conv2d_2b = conv(w(32), w(64), 3, padding=1)
        self.maxpool_3a = nn.MaxPool2d(3, stride=2)
        self.conv2d_3b = conv(w(64), w(80), 1)
        self.conv2d_4a = conv(w(80), w(192), 3)
        self.conv2d_4b = conv(w(192), w(256), 3, stride=2)

        channels = self.conv2d_4b.out_channels
        self.repeat_1 = nn.Sequential(*(Block35(channels, w) for _ in range(repeats[0])))
        self.mixed_6a = Mixed6a(channels, w)
        channels = self.mixed_6a.out_channels
        self.repeat_2 = nn.Sequential(*(Block17(channels, w) for _ in range(repeats[1])))
        self.mixed_7a = Mixed7a(channels, w)
        channels = self.mixed_7a.out_channels
        self.repeat_3 = nn.Sequential(*(Block8(channels, w) for _ in range(repeats[2])))
        self.block8 = Block8(channels, w, scale=1.0, linear=True)

        self.num_features = w(512)
        self.avgpool_1a = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.last_linear = nn.Linear(channels, self.num_features, bias=False)
        self.last_bn = nn.BatchNorm1d(self.num_features, eps=1e-3)
        self.logits = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        self.reset_parameters()

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x)))
        x = self.conv2d_4b(self.conv2d_4a(self.conv2d_3b(self.maxpool_3a(x))))
        x = self.mixed_6a(self.repeat_1(x))
        x = self.mixed_7a(self.repeat_2(x))
        x = self.block8(self.repeat_3(x))
        x = torch.flatten(self.avgpool_1a(x), 1)
        bottleneck: Tensor = self.last_bn(self.last_linear(self.dropout(x)))
        return bottleneck

    def embed(self, features: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True)
        return features / length.clamp_min(1e-12)

    def classify(self, features: Tensor) -> Tensor:
        logits: Tensor = self.logits(features)
        return logits

    def blocks(self) -> Iterator[tuple[str, nn.Module]]:
        single = (ConvNormAct, Mixed6a, Mixed7a, Block8)
        for name, module in self.named_children():
            if isinstance(module, nn.Sequential):
                yield from ((f"{name}.{index}", block) for index, block in enumerate(module))
            elif isinstance(module, single) or name == "last_bn":
                yield name, module


def _key(key: str) -> str | None:
    return key


# facenet's "fixed image standardisation"; the 160-pixel crops come from a face detector, so there
# is nothing left to crop. Older models of that project standardised each image by itself.
PREPROCESSING = Preprocessing(
    size=160,
    resize=160,
    interpolation="bilinear",
    mean=(127.5, 127.5, 127.5),
    std=(128.0, 128.0, 128.0),
    pixel_max=255.0,
)

NAMES = {"conv2d_4b.conv.weight", "repeat_3.0.branch0.conv.weight", "last_bn.weight"}

NETWORKS = (
    NetworkSpec(
        name="inception_resnet_v1",
        title="Inception-ResNet-v1 (facenet)",
        paper="1602.07261",
        build=InceptionResNetV1,
        min_size=75,
        preprocessing=PREPROCESSING,
        params=23_995_624,
        macs=1_418_174_304,
        classifier="logits",
        layouts=(
            CheckpointLayout(
                name="facenet-pytorch",
                signature=frozenset({*NAMES, "logits.weight"}),
                rename=_key,
                preprocessing=PREPROCESSING,
            ),
            CheckpointLayout(
                name="facenet-pytorch",
                signature=frozenset(NAMES),
                rename=_key,
                preprocessing=PREPROCESSING,
                classes=0,
            ),
        ),
        download="facenet-pytorch's 20180402-114759-vggface2.pt",
        published=(PublishedAccuracy("osmr inceptionresnetv1-0480", 80.37, OSMR),),
    ),
)
