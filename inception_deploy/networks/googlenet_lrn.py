"""GoogLeNet as its paper and Caffe have it: arXiv 1409.4842, Table 1, with LRN and real 5×5s.

No batch norm: every convolution has a bias, and local response normalisation stands after the first
pool and before the second one. Layers are called what Caffe's `bvlc_googlenet` calls them, grouped
into blocks. Pools round up, and all of them are 3×3. Inputs are BGR, 0–255, minus the mean, not
scaled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inception_deploy.networks._published import BVLC, INC_3_1, NNCF, NNCF_TESTS, PTQ_ORT
from inception_deploy.networks.base import (
    CheckpointLayout,
    InceptionNetwork,
    NetworkSpec,
    PublishedAccuracy,
    output_channels,
    own_names,
    scaled,
)
from inception_deploy.preprocess import Preprocessing

__all__ = ["LRN", "NETWORKS", "ConvAct", "GoogLeNetLRN", "InceptionBlock"]


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


class ConvAct(nn.Module):
    """Convolution with bias → ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride=stride, padding=padding
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.conv(x))
        return out


class LRN(nn.Module):
    """Local response normalisation across channels (arXiv 1409.4842 after AlexNet, section 3.3).

    `x / (k + alpha / size · Σ x²)^beta`, the sum over the `size` channels around each one, those
    outside counting as zero. Dividing alpha by the size is Caffe's convention, and also ONNX's,
    OpenVINO's and PyTorch's; TensorFlow's `lrn` takes alpha as the factor of the sum itself.
    It exports as one ONNX `LRN` node, which engines have a kernel for; the exporter's own way with
    `nn.LocalResponseNorm` is a subgraph with an `If`.
    """

    def __init__(
        self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
    ) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:
        arguments = (x, self.size, self.alpha, self.beta, self.k)
        if torch.onnx.is_in_onnx_export():
            exported: Tensor = _NativeLRN.apply(*arguments)  # type: ignore[no-untyped-call]
            return exported
        return _normalised(*arguments)


def _normalised(x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    window = (size, 1, 1)  # over channels, which stand as depth; the mean divides by `size`
    squares = F.avg_pool3d(x.square()[:, None], window, stride=1, padding=(size // 2, 0, 0))[:, 0]
    return x / (k + alpha * squares).pow(beta)


class _NativeLRN(torch.autograd.Function):
    """`_normalised` for the exporter, which asks `symbolic` for the node; it has no gradient."""

    @staticmethod
    def forward(_context: Any, x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
        return _normalised(x, size, alpha, beta, k)

    @staticmethod
    def symbolic(graph: Any, x: Any, size: int, alpha: float, beta: float, k: float) -> Any:
        node = graph.op("LRN", x, size_i=size, alpha_f=alpha, beta_f=beta, bias_f=k)
        return node.setType(x.type())


class InceptionBlock(nn.Module):
    """Four branches over one input, concatenated: 1×1, 1×1→3×3, 1×1→5×5, max pool→1×1.

    (N, in_channels, H, W) → (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, widths: BlockWidths) -> None:
        super().__init__()
        self.conv_1x1 = ConvAct(in_channels, widths.ones, 1)
        self.conv_3x3_reduce = ConvAct(in_channels, widths.reduce3, 1)
        self.conv_3x3 = ConvAct(widths.reduce3, widths.threes, 3, padding=1)
        self.conv_5x5_reduce = ConvAct(in_channels, widths.reduce5, 1)
        self.conv_5x5 = ConvAct(widths.reduce5, widths.fives, 5, padding=2)
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)
        self.pool_proj = ConvAct(in_channels, widths.pool, 1)
        self.out_channels = output_channels(
            self.conv_1x1, self.conv_3x3, self.conv_5x5, self.pool_proj
        )

    def forward(self, x: Tensor) -> Tensor:
        branches = (
            self.conv_1x1(x),
            self.conv_3x3(self.conv_3x3_reduce(x)),
            self.conv_5x5(self.conv_5x5_reduce(x)),
            self.pool_proj(self.pool(x)),
        )
        return torch.cat(branches, 1)


def _halving_pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)


class GoogLeNetLRN(InceptionNetwork):
    """GoogLeNet of the paper; 224×224 natively, 9 Inception blocks, 1024 features."""

    def __init__(self, num_classes: int = 1000, width: float = 1.0, dropout: float = 0.4) -> None:
        super().__init__()
        self.num_classes = num_classes
        stem, expanded = scaled(64, width), scaled(192, width)
        self.conv1_7x7_s2 = ConvAct(3, stem, 7, stride=2, padding=3)
        self.pool1_3x3_s2 = _halving_pool()
        self.pool1_norm1 = LRN()
        self.conv2_3x3_reduce = ConvAct(stem, stem, 1)
        self.conv2_3x3 = ConvAct(stem, expanded, 3, padding=1)
        self.conv2_norm2 = LRN()
        self.pool2_3x3_s2 = _halving_pool()

        channels = expanded

        def block(row: str) -> InceptionBlock:
            nonlocal channels
            widths = BlockWidths(*(scaled(count, width) for count in WIDTHS[row]))
            built = InceptionBlock(channels, widths)
            channels = built.out_channels
            return built

        self.inception_3a = block("3a")
        self.inception_3b = block("3b")
        self.pool3_3x3_s2 = _halving_pool()
        self.inception_4a = block("4a")
        self.inception_4b = block("4b")
        self.inception_4c = block("4c")
        self.inception_4d = block("4d")
        self.inception_4e = block("4e")
        self.pool4_3x3_s2 = _halving_pool()
        self.inception_5a = block("5a")
        self.inception_5b = block("5b")

        self.num_features = channels
        self.pool5 = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.loss3_classifier = nn.Linear(channels, num_classes)
        self.reset_parameters()

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.pool1_norm1(self.pool1_3x3_s2(self.conv1_7x7_s2(x)))
        x = self.conv2_norm2(self.conv2_3x3(self.conv2_3x3_reduce(x)))
        x = self.inception_3b(self.inception_3a(self.pool2_3x3_s2(x)))
        x = self.inception_4b(self.inception_4a(self.pool3_3x3_s2(x)))
        x = self.inception_4e(self.inception_4d(self.inception_4c(x)))
        x = self.inception_5b(self.inception_5a(self.pool4_3x3_s2(x)))
        return torch.flatten(self.pool5(x), 1)

    def classify(self, features: Tensor) -> Tensor:
        logits: Tensor = self.loss3_classifier(self.dropout(features))
        return logits

    def blocks(self) -> Iterator[tuple[str, nn.Module]]:
        for name, module in self.named_children():
            if isinstance(module, (ConvAct, LRN, InceptionBlock)):
                yield name, module


def _caffe_key(key: str) -> str | None:
    """`inception_3a/3x3_reduce.weight` → `inception_3a.conv_3x3_reduce.conv.weight`."""
    layer, _, tensor = key.rpartition(".")
    if layer.startswith(("loss1/", "loss2/")):
        return None  # the auxiliary classifiers
    if layer == "loss3/classifier":
        return f"loss3_classifier.{tensor}"
    block, _, name = layer.partition("/")
    if not block.startswith("inception_"):
        return f"{block}_{name}.conv.{tensor}"
    name = re.sub(r"^(?=\d)", "conv_", name)
    return f"{block}.{name}.conv.{tensor}"


def _caffe2_key(key: str) -> str | None:
    """As `_caffe_key`, for ONNX's model zoo, whose initialisers end in `_w_0` and `_b_0`."""
    renamed = re.sub(r"_([wb])_0$", lambda m: ".weight" if m[1] == "w" else ".bias", key)
    return _caffe_key(renamed) if renamed != key else None


PREPROCESSING = Preprocessing(
    size=224,
    resize=256,
    interpolation="bilinear",
    mean=(104.0, 117.0, 123.0),
    std=(1.0, 1.0, 1.0),
    channel_order="BGR",
    pixel_max=255.0,
)

NETWORKS = (
    NetworkSpec(
        name="googlenet_lrn",
        title="GoogLeNet (Inception v1, LRN)",
        paper="1409.4842",
        build=GoogLeNetLRN,
        min_size=31,
        preprocessing=PREPROCESSING,
        params=6_998_552,
        macs=1_582_671_872,
        classifier="loss3_classifier",
        layouts=(
            CheckpointLayout(
                name="caffe",
                signature=frozenset({"conv1/7x7_s2.weight", "loss3/classifier.weight"}),
                rename=_caffe_key,
                preprocessing=PREPROCESSING,
            ),
            CheckpointLayout(
                name="onnx model zoo",
                signature=frozenset({"conv1/7x7_s2_w_0", "loss3/classifier_w_0"}),
                rename=_caffe2_key,
                preprocessing=PREPROCESSING,
            ),
            own_names(
                PREPROCESSING, "inception_3a.conv_5x5.conv.weight", "conv1_7x7_s2.conv.weight"
            ),
        ),
        download="BVLC's bvlc_googlenet.caffemodel",
        published=(
            PublishedAccuracy("ONNX model zoo googlenet-12", 67.79, INC_3_1, 67.69, PTQ_ORT),
            PublishedAccuracy("ONNX model zoo inception-v1-12", 67.24, INC_3_1, 67.23, PTQ_ORT),
            PublishedAccuracy("ONNX model zoo googlenet-12", 66.67, NNCF_TESTS, 66.36, NNCF),
            PublishedAccuracy("BVLC", 68.7, BVLC),
        ),
    ),
)
