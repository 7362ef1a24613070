"""Keras's Inception networks: in which order their layers stand in a file, and what differs.

A Keras file is a list of layers (see `inception_deploy.keras_files`), that of `Model.layers`: not
the order in which keras.applications builds them, nor the order of our modules, but by depth.
A layer's depth is the longest way from it to the output; the deepest come first, and of layers at
one depth those of the join's first input. Branches are therefore aligned at their ends, and read
across: of Mixed_5b's

    branch1x1                              1×1
    branch5x5                      1×1 →   5×5
    branch3x3dbl         1×1  →    3×3 →   3×3
    branch_pool                            1×1

the file has the columns, from left to right, each from top to bottom. Batch norms stand one step
behind their convolutions, so among themselves they have the same order. The tables below are the
branches in the order they are joined; `_across` reads them.

Beyond the order: kernels are (height, width, in, out), ours (out, in, height, width), depthwise
ones (height, width, channels, 1), matrices transposed; batch norms have an epsilon of 1e-3, and
those of Inception v3 and Inception-ResNet-v2 no scale (gamma), which stands for ones. There is no
background class. The softmax behind the classifier is not part of the weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from inception_deploy.networks.base import CheckpointLayout, StateDict
from inception_deploy.preprocess import Preprocessing

__all__ = [
    "inception_resnet_v2_layers",
    "inception_v3_layers",
    "keras_layout",
    "xception_layers",
]

# Keras publishes weights, but neither a resize nor a crop with them; these are TF-slim's, whose
# weights two of the three networks have.
PREPROCESSING = Preprocessing.with_crop_pct(299, 0.875, interpolation="bilinear")

KERNELS = {
    "conv2d": {"kernel": "weight", "bias": "bias"},
    "separable_conv2d": {
        "depthwise_kernel": "conv1.weight",
        "pointwise_kernel": "pointwise.weight",
    },
    "batch_normalization": {
        "gamma": "weight",
        "beta": "bias",
        "moving_mean": "running_mean",
        "moving_variance": "running_var",
    },
    "dense": {"kernel": "weight", "bias": "bias"},
}
AXES = {"kernel": (3, 2, 0, 1), "pointwise_kernel": (3, 2, 0, 1), "depthwise_kernel": (2, 3, 0, 1)}

Layers = Mapping[str, Sequence[str]]


def keras_layout(layers: Layers, build: Mapping[str, Any] | None = None) -> CheckpointLayout:
    """The layout of a network of keras.applications.

    Args:
        layers: kind of layer → our modules of that kind, in the order of Keras's list.
        build: see `CheckpointLayout`.
    """
    ours = {
        f"{kind}/{place}/{role}": f"{module}.{tensor}"
        for kind, modules in layers.items()
        for place, module in enumerate(modules)
        for role, tensor in KERNELS[kind].items()
    }

    def rename(key: str) -> str | None:
        return ours.get(key, key)

    def fits(tensors: StateDict) -> bool:
        return _places(tensors) == _places(ours)

    last = {kind: f"{kind}/{len(modules) - 1}" for kind, modules in layers.items()}
    return CheckpointLayout(
        name="keras",
        signature=frozenset({f"{last['conv2d']}/kernel", f"{last['batch_normalization']}/beta"}),
        rename=rename,
        preprocessing=PREPROCESSING,
        convert=_converted,
        build=build or {},
        fits=fits,
    )


def _places(keys: Iterable[str]) -> set[str]:
    """The layers, but for the classifier: without one, a file is still this network's."""
    return {key.rpartition("/")[0] for key in keys if not key.startswith("dense/")}


def _converted(tensors: StateDict) -> StateDict:
    converted = {}
    for name, tensor in tensors.items():
        layer, _, role = name.rpartition("/")
        if role in AXES and tensor.ndim == 4:
            tensor = tensor.permute(AXES[role])
        elif tensor.ndim == 2:
            tensor = tensor.t()
        converted[name] = tensor
        if role == "beta" and f"{layer}/gamma" not in tensors:
            converted[f"{layer}/gamma"] = torch.ones_like(tensor)
    return converted


def _across(block: str, *branches: Sequence[str]) -> list[str]:
    """The layers of joined branches, read across; a step may hold several, or be a join: none."""
    longest = max(map(len, branches))
    steps = [b[-depth] for depth in range(longest, 0, -1) for b in branches if len(b) >= depth]
    return [f"{block}.{layer}" for step in steps for layer in step.split()]


V3_A = (
    ("branch1x1",),
    ("branch5x5_1", "branch5x5_2"),
    ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
    ("branch_pool",),
)
V3_B = (("branch3x3",), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"))
V3_C = (
    ("branch1x1",),
    ("branch7x7_1", "branch7x7_2", "branch7x7_3"),
    tuple(f"branch7x7dbl_{step}" for step in range(1, 6)),
    ("branch_pool",),
)
V3_D = (
    ("branch3x3_1", "branch3x3_2"),
    ("branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3", "branch7x7x3_4"),
)
V3_E = (  # the pairs are joined by themselves first: one step more
    ("branch1x1",),
    ("branch3x3_1", "branch3x3_2a branch3x3_2b", ""),
    ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3a branch3x3dbl_3b", ""),
    ("branch_pool",),
)


def inception_v3_layers() -> Layers:
    """`keras.applications.InceptionV3` → `inception_v3`: 94 convolutions, as many norms."""
    stem = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
    order = list(stem)
    for blocks, branches in (("5b 5c 5d", V3_A), ("6a", V3_B), ("6b 6c 6d 6e", V3_C),
                             ("7a", V3_D), ("7b 7c", V3_E)):  # fmt: skip
        for block in blocks.split():
            order += _across(f"Mixed_{block}", *branches)
    return _normalised(order, "fc")


IR_5B = (
    ("branch0",),
    ("branch1.0", "branch1.1"),
    ("branch2.0", "branch2.1", "branch2.2"),
    ("branch3.1",),
)
IR_35 = (("branch0",), ("branch1.0", "branch1.1"), ("branch2.0", "branch2.1", "branch2.2"))
IR_6A = (("branch0",), ("branch1.0", "branch1.1", "branch1.2"))
IR_17_8 = IR_6A
IR_7A = (
    ("branch0.0", "branch0.1"),
    ("branch1.0", "branch1.1"),
    ("branch2.0", "branch2.1", "branch2.2"),
)


def inception_resnet_v2_layers() -> Layers:
    """`keras.applications.InceptionResNetV2`: 244 convolutions, 40 of them with a bias, no norm."""

    def residual(block: str, branches: Sequence[Sequence[str]]) -> list[str]:
        return [*_across(block, *branches), f"{block}.conv2d"]

    order = [f"conv2d_{layer}" for layer in ("1a", "2a", "2b", "3b", "4a")]
    order += _across("mixed_5b", *IR_5B)
    for index in range(10):
        order += residual(f"repeat.{index}", IR_35)
    order += _across("mixed_6a", *IR_6A)
    for index in range(20):
        order += residual(f"repeat_1.{index}", IR_17_8)
    order += _across("mixed_7a", *IR_7A)
    for index in range(9):
        order += residual(f"repeat_2.{index}", IR_17_8)
    order += [*residual("block8", IR_17_8), "conv2d_7b"]
    return _normalised(order, "classif")


def _normalised(order: Sequence[str], classifier: str) -> Layers:
    """Convolutions with their norms, but for the residual blocks' `conv2d`, which have none."""
    plain = {block for block in order if block.endswith(".conv2d")}
    return {
        "conv2d": [block if block in plain else f"{block}.conv" for block in order],
        "batch_normalization": [f"{block}.bn" for block in order if block not in plain],
        "dense": [classifier],
    }


def xception_layers() -> Layers:
    """`keras.applications.Xception`: separable convolutions in a row, and four skips.

    Keras numbers blocks from the stem on, so that its block2 is our block1. In a halving block the
    skip's convolution stands beside the pool, its norm after it: behind all others of the block.
    """
    separable, norms, skips = [], ["conv1.bn", "conv2.bn"], []
    for number in range(1, 13):
        block, halving = f"block{number}", number in (1, 2, 3, 12)
        first = 0 if number == 1 else 1  # no ReLU in front
        for index in range(first, first + (6 if halving else 9), 3):
            separable.append(f"{block}.rep.{index}")
            norms.append(f"{block}.rep.{index + 1}")
        if halving:
            skips.append(f"{block}.skip")
            norms.append(f"{block}.skipbn")
    return {
        "conv2d": ["conv1.conv", "conv2.conv", *skips],
        "separable_conv2d": [*separable, "conv3.conv", "conv4.conv"],
        "batch_normalization": [*norms, "conv3.bn", "conv4.bn"],
        "dense": ["fc"],
    }
