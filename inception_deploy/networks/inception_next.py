"""InceptionNeXt: arXiv 2303.16900, in the layout timm and the authors (sail-sg) share.

ConvNeXt's block with its large depthwise convolution taken apart like an Inception block: most
channels pass through, three small groups get a 3×3, a 1×k and a k×1. The checkpoints' layer scale
`gamma` is kept here as (C, 1, 1), so that it multiplies maps without a reshape in the graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from inception_deploy.networks.base import (
    CheckpointLayout,
    InceptionNetwork,
    NetworkBuilder,
    NetworkSpec,
    PretrainedWeights,
    StateDict,
    own_names,
    scaled,
)
from inception_deploy.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

__all__ = ["NETWORKS", "ConvMlp", "InceptionNeXt", "MetaNeXtBlock", "Stage", "TokenMixer"]


class TokenMixer(nn.Module):
    """Depthwise convolutions over channels split [identity, 3×3, 1×band, band×1], joined again.

    (N, channels, H, W) → the same shape. Each convolution gets `int(channels · ratio)` channels,
    the identity, first, gets the rest (algorithm 1 of the paper).
    """

    def __init__(self, channels: int, band: int, ratio: float) -> None:
        super().__init__()
        group = int(channels * ratio)
        depthwise = partial(nn.Conv2d, group, group, groups=group)
        self.dwconv_hw = depthwise(kernel_size=3, padding=1)
        self.dwconv_w = depthwise(kernel_size=(1, band), padding=(0, band // 2))
        self.dwconv_h = depthwise(kernel_size=(band, 1), padding=(band // 2, 0))
        self.split = [channels - 3 * group, group, group, group]

    def forward(self, x: Tensor) -> Tensor:
        same, square, wide, high = torch.split(x, self.split, dim=1)
        branches = (same, self.dwconv_hw(square), self.dwconv_w(wide), self.dwconv_h(high))
        return torch.cat(branches, 1)


class ConvMlp(nn.Module):
    """1×1 to `ratio` times the channels → GELU → 1×1 back: (N, channels, H, W) → the same shape."""

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, ratio * channels, 1)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(ratio * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class MetaNeXtBlock(nn.Module):
    """`x + gamma · mlp(norm(token_mixer(x)))`: (N, channels, H, W) → the same shape."""

    def __init__(self, channels: int, band: int, ratio: float, mlp_ratio: int) -> None:
        super().__init__()
        self.token_mixer = TokenMixer(channels, band, ratio)
        self.norm = nn.BatchNorm2d(channels)
        self.mlp = ConvMlp(channels, mlp_ratio)
        self.gamma = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.mlp(self.norm(self.token_mixer(x)))
        return x + out * self.gamma


class Stage(nn.Module):
    """Blocks of one resolution, before them batch norm → 2×2/2 in all stages but the first.

    (N, in_channels, H, W) → (N, channels, H // 2, W // 2); the first stage keeps the shape.
    """

    def __init__(
        self, in_channels: int | None, channels: int, blocks: int, block: partial[MetaNeXtBlock]
    ) -> None:
        super().__init__()
        self.downsample: nn.Sequential | None = None
        if in_channels is not None:
            self.downsample = nn.Sequential(
                nn.BatchNorm2d(in_channels), nn.Conv2d(in_channels, channels, 2, stride=2)
            )
        self.blocks = nn.Sequential(*(block(channels) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        if self.downsample is not None:
            x = self.downsample(x)
        out: Tensor = self.blocks(x)
        return out


class InceptionNeXt(InceptionNetwork):
    """InceptionNeXt; 224×224 natively, four stages, an MLP as head.

    Its features are the head's hidden layer, three times as wide as the last stage.

    Args:
        depths: blocks of each stage.
        channels: of each stage.
        band: length of the band kernels.
        ratio: share of the channels that each depthwise convolution gets.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        width: float = 1.0,
        dropout: float = 0.0,
        *,
        depths: tuple[int, ...] = (3, 3, 9, 3),
        channels: tuple[int, ...] = (96, 192, 384, 768),
        band: int = 11,
        ratio: float = 0.125,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        counts = [scaled(count, width) for count in channels]
        mlp_ratios = (*[4] * (len(depths) - 1), 3)
        self.stem = nn.Sequential(nn.Conv2d(3, counts[0], 4, stride=4), nn.BatchNorm2d(counts[0]))
        self.stages = nn.Sequential(
            *(
                Stage(
                    counts[index - 1] if index else None,
                    counts[index],
                    depth,
                    partial(MetaNeXtBlock, band=band, ratio=ratio, mlp_ratio=mlp_ratios[index]),
                )
                for index, depth in enumerate(depths)
            )
        )
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.num_features = 3 * counts[-1]
        self.fc1 = nn.Linear(counts[-1], self.num_features)
        self.act = nn.GELU()
        self.norm = nn.LayerNorm(self.num_features, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(self.num_features, num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As everywhere, but `fc1`, a hidden layer, is drawn like a convolution.

        `gamma` stays 1. Training starts it at 1e-6, as ConvNeXt does (arXiv 2201.03545, appendix
        A.1); every block is the identity then, and a random network would show nothing.
        """
        super().reset_parameters()
        nn.init.kaiming_normal_(self.fc1.weight, mode="fan_in", nonlinearity="relu")

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.stages(self.stem(x))
        x = torch.flatten(self.global_pool(x), 1)
        features: Tensor = self.norm(self.act(self.fc1(x)))
        return features

    def classify(self, features: Tensor) -> Tensor:
        logits: Tensor = self.fc2(self.dropout(features))
        return logits

    def blocks(self) -> Iterator[tuple[str, nn.Module]]:
        yield "stem", self.stem
        for index, stage in enumerate(self.stages):
            assert isinstance(stage, Stage)
            if stage.downsample is not None:
                yield f"stages.{index}.downsample", stage.downsample
            for number, block in enumerate(stage.blocks):
                yield f"stages.{index}.blocks.{number}", block
        yield "fc1", self.fc1
        yield "norm", self.norm


def _timm_key(key: str) -> str | None:
    return key.removeprefix("head.")


def _gamma_as_map(tensors: StateDict) -> StateDict:
    """`gamma` (C,) → (C, 1, 1)."""
    return {
        key: tensor[:, None, None] if key.endswith(".gamma") and tensor.ndim == 1 else tensor
        for key, tensor in tensors.items()
    }


def _spec(
    size: str,
    build: NetworkBuilder,
    *,
    params: int,
    macs: int,
    stem: int,
    last_block: int,
    crop_pct: float = 0.875,
    top1: Mapping[str, float],
) -> NetworkSpec:
    """The facts of one size: `stem` channels, `last_block` the third stage's last one.

    The four share tensor names, so it takes both to tell their weights apart.
    """

    def fits(tensors: StateDict) -> bool:
        deeper = f"stages.2.blocks.{last_block + 1}.gamma"
        return deeper not in tensors and len(tensors["stem.0.weight"]) == stem

    preprocessing = Preprocessing.with_crop_pct(
        224, crop_pct, interpolation="bicubic", mean=IMAGENET_MEAN, std=IMAGENET_STD
    )
    name = f"inception_next_{size}"
    return NetworkSpec(
        name=name,
        title=f"InceptionNeXt-{size.capitalize()}",
        paper="2303.16900",
        build=build,
        min_size=32,
        preprocessing=preprocessing,
        params=params,
        macs=macs,
        classifier="fc2",
        layouts=(
            CheckpointLayout(
                name="timm",
                signature=frozenset(
                    {f"stages.2.blocks.{last_block}.gamma", "head.fc2.weight", "stem.0.weight"}
                ),
                rename=_timm_key,
                preprocessing=preprocessing,
                convert=_gamma_as_map,
                fits=fits,
            ),
            own_names(
                preprocessing,
                f"stages.2.blocks.{last_block}.gamma",
                "fc2.weight",
                "stem.0.weight",
                fits=fits,
            ),
        ),
        pretrained=tuple(
            PretrainedWeights(tag, f"timm/{name}.{tag}", percent, SOURCE)
            for tag, percent in top1.items()
        ),
    )


SOURCE = "timm results-imagenet.csv, 2025-10"

NETWORKS = (
    _spec(
        "atto",
        partial(
            InceptionNeXt,
            depths=(2, 2, 6, 2),
            channels=(40, 80, 160, 320),
            band=9,
            ratio=0.25,
        ),
        params=4_156_520,
        macs=503_035_040,
        stem=40,
        last_block=5,
        top1={"sail_in1k": 75.348},
    ),
    _spec(
        "tiny",
        InceptionNeXt,
        params=28_055_680,
        macs=4_188_634_272,
        stem=96,
        last_block=8,
        top1={"sail_in1k": 82.508},
    ),
    _spec(
        "small",
        partial(InceptionNeXt, depths=(3, 3, 27, 3)),
        params=49_374_016,
        macs=8_355_682_080,
        stem=96,
        last_block=26,
        top1={"sail_in1k": 83.584},
    ),
    _spec(
        "base",
        partial(InceptionNeXt, depths=(3, 3, 27, 3), channels=(128, 256, 512, 1024)),
        params=86_672_136,
        macs=14_841_072_000,
        stem=128,
        last_block=26,
        crop_pct=0.95,
        top1={"sail_in1k": 84.098, "sail_in1k_384": 85.202},
    ),
)
