"""Modified aligned Xception 41, 65 and 71: arXiv 1802.02611, section 3.2, in timm's layout.

DeepLab's Xception: strides lie in depthwise convolutions instead of pools, and a batch norm follows
the depthwise convolution too. The number counts convolutions along the depth, a separable one as
one. The variants ending in "p" are timm's: pre-activation, with batch norm and ReLU before each
separable convolution, the skip taken after the first of them, and no other norm.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from inception_deploy.networks.base import (
    CheckpointLayout,
    ConvNormAct,
    InceptionNetwork,
    NetworkBuilder,
    NetworkSpec,
    PretrainedWeights,
    own_names,
    scaled,
)
from inception_deploy.preprocess import Preprocessing

__all__ = [
    "NETWORKS",
    "PreActBlock",
    "PreActSeparableConv",
    "SeparableConv",
    "Shortcut",
    "XceptionAligned",
    "XceptionBlock",
]


class Row(NamedTuple):
    """One block: channels after each of its separable convolutions, stride of the last one."""

    widths: tuple[int, ...]
    stride: int = 1


def _depthwise(channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False)


class Shortcut(nn.Module):
    """1×1 → batch norm: (N, in, H, W) → (N, out, ceil(H / stride), ceil(W / stride))."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, eps: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(self.conv(x))
        return out


class SeparableConv(nn.Module):
    """Depthwise 3×3 → batch norm → 1×1 → batch norm, with or without a ReLU after each norm.

    (N, in_channels, H, W) → (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, eps: float, *, relu: bool
    ) -> None:
        super().__init__()
        self.conv_dw = _depthwise(in_channels, stride)
        self.bn_dw = nn.BatchNorm2d(in_channels, eps=eps)
        self.conv_pw = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn_pw = nn.BatchNorm2d(out_channels, eps=eps)
        self.act_dw = nn.ReLU(inplace=True) if relu else None
        self.act_pw = nn.ReLU(inplace=True) if relu else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn_dw(self.conv_dw(x))
        if self.act_dw is not None:
            x = self.act_dw(x)
        x = self.bn_pw(self.conv_pw(x))
        return x if self.act_pw is None else self.act_pw(x)


class XceptionBlock(nn.Module):
    """Three separable convolutions beside a skip: `stack(x) + shortcut(x)`.

    (N, in_channels, H, W) → (N, row.widths[-1], ceil(H / row.stride), ceil(W / row.stride)).

    A ReLU precedes each separable convolution. The network's last block has no skip, and its ReLUs
    follow every batch norm instead.
    """

    def __init__(self, in_channels: int, row: Row, eps: float, *, last: bool) -> None:
        super().__init__()
        self.last = last
        self.out_channels = row.widths[-1]
        self.shortcut: Shortcut | None = None
        if not last and (in_channels != self.out_channels or row.stride != 1):
            self.shortcut = Shortcut(in_channels, self.out_channels, row.stride, eps)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, channels in enumerate(row.widths, start=1):
            if not last:
                # the skip needs the input as it is: the first ReLU must not work in place
                layers[f"act{number}"] = nn.ReLU(inplace=number > 1)
            stride = row.stride if number == 3 else 1
            layers[f"conv{number}"] = SeparableConv(in_channels, channels, stride, eps, relu=last)
            in_channels = channels
        self.stack = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.stack(x)
        if self.last:
            return out
        skip: Tensor = x if self.shortcut is None else self.shortcut(x)
        return out + skip


class PreActSeparableConv(nn.Module):
    """[Batch norm → ReLU →] depthwise 3×3 → 1×1.

    (N, in_channels, H, W) → (N, out_channels, ceil(H / stride), ceil(W / stride)); `norm` is False
    for the first of a block, which does it before the skip.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, eps: float, *, norm: bool
    ) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels, eps=eps) if norm else None
        self.relu = nn.ReLU(inplace=True) if norm else None
        self.conv_dw = _depthwise(in_channels, stride)
        self.conv_pw = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.norm is not None and self.relu is not None:
            x = self.relu(self.norm(x))
        out: Tensor = self.conv_pw(self.conv_dw(x))
        return out


class PreActBlock(nn.Module):
    """`stack(y) + shortcut(y)` with `y = relu(norm(x))`; the network's last block has no skip.

    (N, in_channels, H, W) → (N, row.widths[-1], ceil(H / row.stride), ceil(W / row.stride)). The
    first block takes `y` itself, from the stem.
    """

    def __init__(
        self, in_channels: int, row: Row, eps: float, *, first: bool = False, last: bool = False
    ) -> None:
        super().__init__()
        self.last = last
        self.out_channels = row.widths[-1]
        self.shortcut: nn.Conv2d | None = None
        if not last and (in_channels != self.out_channels or row.stride != 1):
            self.shortcut = nn.Conv2d(
                in_channels, self.out_channels, 1, stride=row.stride, bias=False
            )
        self.norm = None if first else nn.BatchNorm2d(in_channels, eps=eps)
        self.relu = None if first else nn.ReLU(inplace=True)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, channels in enumerate(row.widths, start=1):
            stride = row.stride if number == 3 else 1
            layers[f"conv{number}"] = PreActSeparableConv(
                in_channels, channels, stride, eps, norm=number > 1
            )
            in_channels = channels
        self.stack = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        if self.norm is not None and self.relu is not None:
            x = self.relu(self.norm(x))
        out: Tensor = self.stack(x)
        if self.last:
            return out
        skip: Tensor = x if self.shortcut is None else self.shortcut(x)
        return out + skip


ENTRY = tuple(Row((c, c, c), 2) for c in (128, 256, 728))
ENTRY_71 = tuple(
    Row((c, c, c), stride) for c, stride in ((128, 2), (256, 1), (256, 2), (728, 1), (728, 2))
)
MIDDLE = Row((728, 728, 728))
RESIDUAL_STRENGTH = 0.25
EXIT = (Row((728, 1024, 1024), 2), Row((1536, 1536, 2048)))


class XceptionAligned(InceptionNetwork):
    """Modified aligned Xception; 299×299 natively, 2048 features.

    Args:
        entry: the blocks before the middle flow.
        middle: how many blocks of 728 channels the middle flow has.
        preact: batch norm and ReLU before the separable convolutions instead of between.
        eps: of every batch norm.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        width: float = 1.0,
        dropout: float = 0.0,
        *,
        entry: tuple[Row, ...] = ENTRY,
        middle: int = 8,
        preact: bool = False,
        eps: float = 1e-3,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        w = partial(scaled, width=width)
        channels = w(64)
        self.stem = nn.Sequential(
            ConvNormAct(3, w(32), 3, stride=2, padding=1, eps=eps),
            ConvNormAct(w(32), channels, 3, padding=1, eps=eps),
        )
        self.block = nn.Sequential()
        published = (*entry, *[MIDDLE] * middle, *EXIT)
        rows = [Row(tuple(map(w, row.widths)), row.stride) for row in published]
        for index, row in enumerate(rows):
            last = index == len(rows) - 1
            built = (
                PreActBlock(channels, row, eps, first=index == 0, last=last)
                if preact
                else XceptionBlock(channels, row, eps, last=last)
            )
            self.block.append(built)
            channels = built.out_channels

        self.act = nn.ReLU() if preact else None
        self.num_features = channels
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As everywhere, but residual branches start at a quarter of their strength.

        At full strength a random network of this depth is chaotic: rounding its weights to float16
        moves the features of `xception41p` by 6 %, so by 0.2 % (measured at 96 pixels). It is also
        how residual networks are best started (arXiv 1706.02677, section 5.1, where it is zero).
        """
        super().reset_parameters()
        for block in self.block:
            last = block.get_submodule("stack.conv3")
            if isinstance(block, XceptionBlock) and not block.last:
                nn.init.constant_(last.get_parameter("bn_pw.weight"), RESIDUAL_STRENGTH)
            elif isinstance(block, PreActBlock) and not block.last:
                with torch.no_grad():
                    last.get_parameter("conv_pw.weight").mul_(RESIDUAL_STRENGTH)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.block(self.stem(x))
        if self.act is not None:
            x = self.act(x)
        return torch.flatten(self.global_pool(x), 1)

    def classify(self, features: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.dropout(features))
        return logits

    def blocks(self) -> Iterator[tuple[str, nn.Module]]:
        for name, sequence in (("stem", self.stem), ("block", self.block)):
            yield from ((f"{name}.{index}", module) for index, module in enumerate(sequence))


def _timm_key(key: str) -> str | None:
    """`blocks.3.stack…`, `head.fc.bias` → `block.3.stack…`, `fc.bias`.

    In the pre-activation networks the stem's second convolution is bare and the first block begins
    with its norm; here they are together.
    """
    for theirs, ours in (
        ("stem.1.weight", "stem.1.conv.weight"),
        ("blocks.0.norm.", "stem.1.bn."),
        ("blocks.", "block."),
        ("head.", ""),
    ):
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return key


def _spec(
    number: str,
    build: NetworkBuilder,
    *,
    params: int,
    macs: int,
    shortcut: str,
    crop_pct: float,
    top1: Mapping[str, float],
) -> NetworkSpec:
    """The facts of one depth.

    Args:
        shortcut: that of the exit flow, below `blocks`; at this index no other depth has one.
        crop_pct: of the first of the tags in `top1`.
    """
    preprocessing = Preprocessing.with_crop_pct(299, crop_pct, interpolation="bicubic")
    name = f"xception{number}"
    return NetworkSpec(
        name=name,
        title=f"Xception-{number} (modified aligned)",
        paper="1802.02611",
        build=build,
        min_size=1,
        preprocessing=preprocessing,
        params=params,
        macs=macs,
        classifier="fc",
        layouts=(
            CheckpointLayout(
                name="timm",
                signature=frozenset({f"blocks.{shortcut}.weight"}),
                rename=_timm_key,
                preprocessing=preprocessing,
            ),
            own_names(preprocessing, f"block.{shortcut}.weight"),
        ),
        pretrained=tuple(
            PretrainedWeights(tag, f"timm/{name}.{tag}", percent, SOURCE)
            for tag, percent in top1.items()
        ),
    )


SOURCE = "timm results-imagenet.csv, 2025-10"

NETWORKS = (
    _spec(
        "41",
        XceptionAligned,
        params=26_969_560,
        macs=9_204_134_312,
        shortcut="11.shortcut.conv",
        crop_pct=0.903,
        top1={"tf_in1k": 78.550},
    ),
    # Two trainings with the same tensors; a file without a config gets the crop of the better one.
    _spec(
        "65",
        partial(XceptionAligned, middle=16),
        params=39_916_312,
        macs=13_852_682_216,
        shortcut="19.shortcut.conv",
        crop_pct=0.94,
        top1={"ra3_in1k": 83.186, "tf_in1k": 79.558},
    ),
    _spec(
        "71",
        partial(XceptionAligned, middle=16, entry=ENTRY_71),
        params=42_338_736,
        macs=17_946_553_928,
        shortcut="21.shortcut.conv",
        crop_pct=0.903,
        top1={"tf_in1k": 79.920},
    ),
    _spec(
        "41p",
        partial(XceptionAligned, preact=True, eps=1e-5),
        params=26_907_752,
        macs=9_204_134_312,
        shortcut="11.shortcut",
        crop_pct=0.94,
        top1={"ra3_in1k": 81.978},
    ),
    _spec(
        "65p",
        partial(XceptionAligned, middle=16, preact=True),
        params=39_819_560,
        macs=13_852_682_216,
        shortcut="19.shortcut",
        crop_pct=0.94,
        top1={"ra3_in1k": 83.160},
    ),
)
