"""Xception: arXiv 1610.02357, figure 5, in the layout timm (`legacy_xception`) and Cadene share.

Every convolution but the stem's is separable: a depthwise 3×3, then a 1×1, nothing between. The
PyTorch ports of Keras's weights run batch norm with eps 1e-5 where Keras trained with 1e-3, and pad
every pool by one on all sides where TensorFlow pads a map of even size on the right and bottom
only. At 299×299 that is block 2's (74×74). The published PyTorch accuracies are those of the ports,
so they are the default here; Keras's own files get Keras's network.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inception_deploy.networks._keras import keras_layout, xception_layers
from inception_deploy.networks._published import CADENE, INC_2_1, PTQ_CPU_2021
from inception_deploy.networks.base import (
    CheckpointLayout,
    ConvNormAct,
    InceptionNetwork,
    NetworkSpec,
    PublishedAccuracy,
    StateDict,
    own_names,
    scaled,
)
from inception_deploy.preprocess import Preprocessing

__all__ = ["NETWORKS", "Block", "SamePool", "SeparableConv", "SeparableConvNormAct", "Xception"]


class SeparableConv(nn.Module):
    """Depthwise 3×3, padding 1, then 1×1; no bias.

    (N, in_channels, H, W) → (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(
            in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False
        )
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.pointwise(self.conv1(x))
        return out


class SeparableConvNormAct(nn.Module):
    """Separable convolution → batch norm → ReLU: (N, in, H, W) → (N, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, eps: float) -> None:
        super().__init__()
        self.conv = SeparableConv(in_channels, out_channels)
        self.bn = nn.BatchNorm2d(out_channels, eps=eps)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.bn(self.conv(x)))
        return out


class Block(nn.Module):
    """`rep(x) + skip(x)`: a chain of ReLU → separable convolution → batch norm, and a way past it.

    (N, in_channels, H, W) → (N, widths[-1], H, W), halved and rounded up where it ends in a pool.

    Args:
        widths: channels after each separable convolution.
        pool: 3×3/2, ends the chain; the skip is then a 1×1/2 with batch norm, else the input.
        start_with_relu: False for an input that comes out of a ReLU.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        eps: float,
        pool: nn.Module | None = None,
        *,
        start_with_relu: bool = True,
    ) -> None:
        super().__init__()
        self.out_channels = widths[-1]
        self.skip: nn.Conv2d | None = None
        if pool is not None:
            self.skip = nn.Conv2d(in_channels, self.out_channels, 1, stride=2, bias=False)
            self.skipbn = nn.BatchNorm2d(self.out_channels, eps=eps)
        chain: list[nn.Module] = []
        for channels in widths:
            # the skip needs the input as it is: the first ReLU must not work in place
            chain.append(nn.ReLU(inplace=bool(chain)))
            chain.append(SeparableConv(in_channels, channels))
            chain.append(nn.BatchNorm2d(channels, eps=eps))
            in_channels = channels
        if pool is not None:
            chain.append(pool)
        self.rep = nn.Sequential(*(chain if start_with_relu else chain[1:]))

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.skip is None else self.skipbn(self.skip(x))
        out: Tensor = self.rep(x) + skip
        return out


class SamePool(nn.Module):
    """Max pool 3×3/2 padded as TensorFlow's SAME: (N, C, H, W) → (N, C, ⌈H / 2⌉, ⌈W / 2⌉).

    The last window ends one past the map; an odd side is therefore padded by one in front as well,
    an even one is not. Which it is, the input says; an exported graph has fixed sides and gets one
    MaxPool node with the padding of its own.
    """

    def forward(self, x: Tensor) -> Tensor:
        high, wide = (side % 2 for side in _sides(x))
        if high == wide:
            return F.max_pool2d(x, 3, stride=2, padding=high, ceil_mode=not high)
        return F.max_pool2d(F.pad(x, (wide, 1, high, 1), value=-torch.inf), 3, stride=2)


def _sides(x: Tensor) -> tuple[int, int]:
    """Height and width as numbers, in a trace too, which warns that they become constants."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        return int(x.shape[2]), int(x.shape[3])


class Xception(InceptionNetwork):
    """Xception; 299×299 natively, 12 blocks, 2048 features.

    Args:
        eps: of every batch norm; Keras's is 1e-3.
        same_pools: pools pad as TensorFlow's SAME instead of by one on all sides. Keras's network
            is `eps=1e-3, same_pools=True`.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        width: float = 1.0,
        dropout: float = 0.0,
        *,
        eps: float = 1e-5,
        same_pools: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        w = partial(scaled, width=width)
        self.conv1 = ConvNormAct(3, w(32), 3, stride=2, eps=eps)
        self.conv2 = ConvNormAct(w(32), w(64), 3, eps=eps)

        channels = w(64)

        def block(*widths: int, halve: bool = False, start_with_relu: bool = True) -> Block:
            nonlocal channels
            pool: nn.Module | None = None
            if halve:
                pool = SamePool() if same_pools else nn.MaxPool2d(3, stride=2, padding=1)
            built = Block(
                channels, [w(c) for c in widths], eps, pool, start_with_relu=start_with_relu
            )
            channels = built.out_channels
            return built

        self.block1 = block(128, 128, halve=True, start_with_relu=False)
        self.block2 = block(256, 256, halve=True)
        self.block3 = block(728, 728, halve=True)
        self.block4 = block(728, 728, 728)
        self.block5 = block(728, 728, 728)
        self.block6 = block(728, 728, 728)
        self.block7 = block(728, 728, 728)
        self.block8 = block(728, 728, 728)
        self.block9 = block(728, 728, 728)
        self.block10 = block(728, 728, 728)
        self.block11 = block(728, 728, 728)
        self.block12 = block(728, 1024, halve=True)

        self.conv3 = SeparableConvNormAct(channels, w(1536), eps)
        self.num_features = w(2048)
        self.conv4 = SeparableConvNormAct(w(1536), self.num_features, eps)
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(self.num_features, num_classes)
        self.reset_parameters()

    def forward_features(self, x: Tensor) -> Tensor:
        for _, block in self.blocks():
            x = block(x)
        return torch.flatten(self.global_pool(x), 1)

    def classify(self, features: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.dropout(features))
        return logits

    def blocks(self) -> Iterator[tuple[str, nn.Module]]:
        for name, module in self.named_children():
            if isinstance(module, (ConvNormAct, Block, SeparableConvNormAct)):
                yield name, module


def _timm_key(key: str) -> str | None:
    """`conv3.pointwise.weight`, `bn3.bias` → `conv3.conv.pointwise.weight`, `conv3.bn.bias`."""
    return re.sub(r"^bn(\d)\.", r"conv\1.bn.", re.sub(r"^conv(\d)\.", r"conv\1.conv.", key))


def _cadene_key(key: str) -> str | None:
    return _timm_key(key.replace("last_linear.", "fc.", 1))


def _flat_pointwise(tensors: StateDict) -> StateDict:
    """The oldest file keeps 1×1 weights as matrices: (out, in) → (out, in, 1, 1)."""
    return {
        key: tensor[:, :, None, None] if ".pointwise." in key and tensor.ndim == 2 else tensor
        for key, tensor in tensors.items()
    }


PREPROCESSING = Preprocessing.with_crop_pct(299, 0.8975, interpolation="bicubic")

NETWORKS = (
    NetworkSpec(
        name="xception",
        title="Xception",
        paper="1610.02357",
        build=Xception,
        min_size=7,
        preprocessing=PREPROCESSING,
        params=22_855_952,
        macs=8_357_403_496,
        classifier="fc",
        layouts=(
            CheckpointLayout(
                name="timm",
                signature=frozenset({"block1.rep.0.conv1.weight", "bn1.weight", "fc.weight"}),
                rename=_timm_key,
                preprocessing=PREPROCESSING,
                convert=_flat_pointwise,
            ),
            # Cadene's own files say `fc`; its module, and so what was saved from it, `last_linear`.
            CheckpointLayout(
                name="cadene",
                signature=frozenset(
                    {"block1.rep.0.conv1.weight", "bn1.weight", "last_linear.weight"}
                ),
                rename=_cadene_key,
                preprocessing=PREPROCESSING,
                convert=_flat_pointwise,
            ),
            keras_layout(xception_layers(), build={"eps": 1e-3, "same_pools": True}),
            own_names(PREPROCESSING, "block1.rep.0.conv1.weight", "conv4.conv.pointwise.weight"),
        ),
        download=(
            "Cadene's xception-43020ad28.pth or Keras's "
            "xception_weights_tf_dim_ordering_tf_kernels.h5"
        ),
        published=(
            PublishedAccuracy("Keras", 78.94, INC_2_1, 78.43, PTQ_CPU_2021),
            PublishedAccuracy("Cadene", 78.888, CADENE),
            PublishedAccuracy("Cadene", 79.058, "timm results-imagenet.csv, 2025-10"),
        ),
    ),
)
