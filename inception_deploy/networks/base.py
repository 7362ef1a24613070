"""What every network of the family shares: the module interface, its facts, checkpoint layouts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from inception_deploy.preprocess import Preprocessing

__all__ = [
    "CheckpointLayout",
    "ConvNormAct",
    "Fork",
    "Head",
    "InceptionNetwork",
    "NetworkBuilder",
    "NetworkSpec",
    "PretrainedWeights",
    "PublishedAccuracy",
    "StateDict",
    "calibrate_batch_norm",
    "output_channels",
    "own_names",
    "scaled",
]

Head: TypeAlias = Literal["logits", "probabilities", "features"]
StateDict: TypeAlias = Mapping[str, Tensor]
KeyMap: TypeAlias = Callable[[str], str | None]


def scaled(channels: int, width: float, minimum: int = 8) -> int:
    """`channels` times the width multiplier, at least `minimum` (TF-slim's `depth_multiplier`).

    A width of 1 leaves every count as published.
    """
    return max(int(channels * width), minimum) if width != 1.0 else channels


def output_channels(*branches: nn.Module) -> int:
    """Channels of the branches' concatenation: those of each one's last convolution, summed.

    A branch without convolutions (a pool) passes its input through; add that count yourself.
    """
    convolutions = ([m for m in b.modules() if isinstance(m, nn.Conv2d)] for b in branches)
    return sum(found[-1].out_channels for found in convolutions)


class ConvNormAct(nn.Module):
    """Convolution → batch norm → ReLU, named `conv` and `bn` as in most checkpoints.

    A bias before a batch norm is redundant; `bias` is for checkpoints that carry one all the same.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
        eps: float = 1e-3,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=bias
        )
        self.bn = nn.BatchNorm2d(out_channels, eps=eps)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.bn(self.conv(x)))
        return out

    @property
    def out_channels(self) -> int:
        """Channels of the output."""
        return self.conv.out_channels


class Fork(nn.Module):
    """Named branches over one input, their outputs concatenated in the order they are given.

    (N, in_channels, H, W) → (N, out_channels, …); a branch without convolutions, a pool, passes its
    input's channels through.
    """

    def __init__(self, in_channels: int, **branches: nn.Module) -> None:
        super().__init__()
        self.out_channels = 0
        for name, branch in branches.items():
            self.add_module(name, branch)
            convolves = any(isinstance(m, nn.Conv2d) for m in branch.modules())
            self.out_channels += output_channels(branch) if convolves else in_channels

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.children()], 1)


class InceptionNetwork(nn.Module, ABC):
    """A classifier of the family.

    `head` selects what `forward` returns: "logits" (N, num_classes), "probabilities"
    (N, num_classes, softmax) or "features" (N, num_features, what `embed` makes of the features
    that are classified). Auxiliary classifiers exist for training only and are not part of
    `forward` in evaluation mode.
    """

    head: Head = "logits"
    num_classes: int
    num_features: int
    wrapper: str = ""
    """Name of the one child that holds everything, left out of the graph's names; usually none."""
    memory_format: torch.memory_format = torch.channels_last
    """How images are best laid out: on a CPU, PyTorch is 1.3 to 2.4 times as fast with the channels
    of a pixel side by side, and what it computes differs by 1e-6."""

    @abstractmethod
    def forward_features(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W), already preprocessed → what is classified (N, num_features)."""

    @abstractmethod
    def classify(self, features: Tensor) -> Tensor:
        """Features (N, num_features) → logits (N, num_classes)."""

    @property
    def parameter_count(self) -> int:
        """Trained numbers, without buffers."""
        return sum(parameter.numel() for parameter in self.parameters())

    def embed(self, features: Tensor) -> Tensor:
        """Features → what the head "features" puts out, the same shape; usually as they are."""
        return features

    @abstractmethod
    def blocks(self) -> Iterator[tuple[str, nn.Module]]:
        """The architecture's blocks in processing order: (dotted module name, module).

        Each one's output is a tensor that parity can speak about (`Mixed_6c`, `repeat_1.4`, …):
        (N, C, H, W), or (N, C) after pooling. Together they hold all weights but the classifier's,
        and those of a linear layer that the batch norm of the next block is folded into.
        """

    def reset_parameters(self) -> None:
        """Draw fresh weights from torch's global generator; every constructor ends here.

        Convolutions: He normal over the fan-in (arXiv 1502.01852, eq. 10), zero bias. Batch norm:
        the identity. Linear: normal with standard deviation 0.01, zero bias.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.reset_parameters()
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
            if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        features = self.forward_features(x)
        if self.head == "features":
            return self.embed(features)
        logits = self.classify(features)
        return torch.softmax(logits, dim=1) if self.head == "probabilities" else logits


class NetworkBuilder(Protocol):
    """Builds a network with random weights; `width` 1.0 is the published one."""

    def __call__(self, num_classes: int = 1000, width: float = 1.0) -> InceptionNetwork: ...


@torch.no_grad()
def calibrate_batch_norm(module: nn.Module, images: Tensor) -> None:
    """Set every batch norm's running statistics to those of one batch, in place.

    Random weights with the initial statistics (mean 0, variance 1) let activations drift over the
    depth of a network; afterwards each normalised channel has mean 0 and variance 1 on `images`
    (N, 3, H, W), so that half precision and parity have something realistic to work on. One pass in
    evaluation mode; the module's mode is as before on return.
    """

    def measure(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d))
        assert norm.running_mean is not None
        assert norm.running_var is not None
        all_but_channels = (0, *range(2, inputs[0].ndim))
        norm.running_mean.copy_(inputs[0].mean(all_but_channels))
        norm.running_var.copy_(inputs[0].var(all_but_channels, correction=0))

    kinds = (nn.BatchNorm1d, nn.BatchNorm2d)
    norms = [layer for layer in module.modules() if isinstance(layer, kinds)]
    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    was_training = module.training
    try:
        module.eval()(images)
    finally:
        module.train(was_training)
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True)
class CheckpointLayout:
    """One way in which the world names this network's tensors.

    Args:
        name: "torchvision", "timm", "cadene", …; printed when a checkpoint is recognised.
        signature: keys that, all present, identify the layout (chosen to exclude its siblings).
        rename: their key → our key; None drops the tensor (auxiliary heads, counters).
        preprocessing: what weights of this layout expect unless a config says otherwise.
        background_row: True where a 1001-row classifier carries "background" as row 0.
        classes: rows of the classifier, where they too are needed to identify the layout; 0 for
            one without a classifier.
        convert: applied to the file's tensors before they are renamed, where names are not the only
            difference: axes in another order, tensors that are implied. It keeps whatever it does
            not know, and does not judge shapes; the network does.
        build: constructor arguments of the network these weights were trained in, where it is a
            variant: another padding, another epsilon.
        fits: tells networks apart that share tensor names but not sizes or depths; asked of
            full-width weights only. None where the signature says it all.
    """

    name: str
    signature: frozenset[str]
    rename: KeyMap
    preprocessing: Preprocessing
    background_row: bool = False
    classes: int | None = None
    convert: Callable[[StateDict], StateDict] | None = None
    build: Mapping[str, Any] = field(default_factory=dict)
    fits: Callable[[StateDict], bool] | None = None


def own_names(
    preprocessing: Preprocessing, *signature: str, fits: Callable[[StateDict], bool] | None = None
) -> CheckpointLayout:
    """The layout of weights that were saved from the module here, where no other source has it."""
    return CheckpointLayout(
        "inception-deploy", frozenset(signature), _same_name, preprocessing, fits=fits
    )


def _same_name(key: str) -> str | None:
    return key


@dataclass(frozen=True)
class PretrainedWeights:
    """Published weights on the hub: repository `repo` holds `model.safetensors` and `config.json`.

    Args:
        tag: timm's tag, e.g. "tv_in1k"; the first of a network's list is the default.
        repo: e.g. "timm/inception_v3.tv_in1k".
        top1: published ImageNet top-1 in percent, and where it was published.
    """

    tag: str
    repo: str
    top1: float
    source: str


@dataclass(frozen=True)
class PublishedAccuracy:
    """ImageNet top-1 of one set of weights, as somebody measured and printed it.

    Args:
        weights: whose they are.
        fp32: top-1 in percent, before quantisation.
        source: where it is printed.
        int8: top-1 in percent, of the same weights quantised by `method`; None where only the
            first is printed.
        method: how they were quantised, and for what.
    """

    weights: str
    fp32: float
    source: str
    int8: float | None = None
    method: str = ""


@dataclass(frozen=True)
class NetworkSpec:
    """The facts of one network.

    Args:
        name: what the command line calls it.
        title: what people call it.
        paper: arXiv identifier.
        build: builds the module.
        min_size: smallest side of a square input that survives every stride and valid padding.
        preprocessing: of the native input size; the default when weights bring none.
        params: parameters without auxiliary heads, `num_classes` classes.
        macs: multiply-adds of convolutions and linear layers, batch 1, native size, as many
            classes.
        classifier: dotted name of the final linear layer.
        layouts: recognised checkpoint layouts, most specific first.
        pretrained: weights on the hub; empty where the network has none.
        download: the published weights file to fetch by hand where the hub has none; None where
            nobody has published any.
        num_classes: of the published weights.
        published: accuracies that were published of these and of other weights, those to quote
            first; a hub's are in `pretrained`.
        size_step: sides must be multiples of it, for networks whose strides do not fit all sizes.
    """

    name: str
    title: str
    paper: str
    build: NetworkBuilder
    min_size: int
    preprocessing: Preprocessing
    params: int
    macs: int
    classifier: str
    layouts: tuple[CheckpointLayout, ...]
    pretrained: tuple[PretrainedWeights, ...] = ()
    download: str | None = None
    num_classes: int = 1000
    size_step: int = 1
    published: tuple[PublishedAccuracy, ...] = ()

    @property
    def input_size(self) -> int:
        """Side of the native square input, pixels."""
        return self.preprocessing.size
