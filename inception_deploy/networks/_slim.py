"""TF-slim's checkpoints: variable names of its Inception networks, and what else differs from ours.

A slim variable is called `InceptionV3/Mixed_5b/Branch_0/Conv2d_0a_1x1/weights`: root, scope, kind.
The tables here say which of our modules a scope is; the names are those of `research/slim/nets` in
tensorflow/models, misnomers included, as the released checkpoints carry them. Beyond the names:

- kernels are (height, width, in, out), ours (out, in, height, width); matrices are transposed too,
  and some classifiers are 1×1 convolutions;
- batch norms have no scale (gamma), which stands for ones; their epsilon is 1e-3;
- row 0 of the classifier is "background";
- training leaves optimiser slots, moving averages and a step counter behind.

TensorFlow's own file format is not read: convert the variables to `.npz` or `.safetensors` first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from inception_deploy.networks.base import CheckpointLayout, StateDict
from inception_deploy.preprocess import Preprocessing

__all__ = [
    "googlenet_scopes",
    "inception_resnet_v2_scopes",
    "inception_v3_scopes",
    "inception_v4_scopes",
    "slim_layout",
]

Scopes = dict[str, str]

NORMALISED = {
    "weights": "conv.weight",
    "BatchNorm/gamma": "bn.weight",
    "BatchNorm/beta": "bn.bias",
    "BatchNorm/moving_mean": "bn.running_mean",
    "BatchNorm/moving_variance": "bn.running_var",
}
PLAIN = {"weights": "weight", "biases": "bias"}


def slim_layout(
    root: str,
    scopes: Scopes,
    *,
    logits: str,
    classifier: str,
    size: int,
    build: Mapping[str, Any] | None = None,
) -> CheckpointLayout:
    """The layout of slim's network `root`.

    Args:
        root: the outermost scope, e.g. "InceptionV3".
        scopes: scope below the root → our module, of convolutions with a batch norm; those called
            `conv2d` have a bias instead.
        logits: scope of the classifier; fully connected, or a 1×1 convolution.
        classifier: our name of it.
        size: side of the input it was trained for, pixels.
        build: see `CheckpointLayout`.
    """
    ours: dict[str, str] = {}
    for scope, module in {**scopes, logits: classifier}.items():
        plain = module == classifier or module.endswith(".conv2d")
        for kind, name in (PLAIN if plain else NORMALISED).items():
            ours[f"{root}/{scope}/{kind}"] = f"{module}.{name}"

    def rename(key: str) -> str | None:
        variable = key.rpartition("/")[0]
        left_behind = variable in ours or key == "global_step"  # a slot of a variable, the counter
        if left_behind or key.startswith(f"{root}/AuxLogits/"):
            return None
        return ours.get(key, key)

    def convert(tensors: StateDict) -> StateDict:
        converted = {name: _our_axes(name, tensor) for name, tensor in tensors.items()}
        matrix = f"{root}/{logits}/weights"
        if matrix in converted and converted[matrix].shape[2:] == (1, 1):
            converted[matrix] = converted[matrix].flatten(1)
        for name, tensor in tensors.items():
            if name.endswith("/beta"):
                converted.setdefault(name.removesuffix("beta") + "gamma", torch.ones_like(tensor))
        return converted

    return CheckpointLayout(
        name="tf-slim",
        signature=frozenset({f"{root}/{next(iter(scopes))}/weights", f"{root}/{logits}/weights"}),
        rename=rename,
        # slim cuts out 0.875 of the whole image and squeezes that into a square; here the aspect
        # ratio is kept, so results agree for square images
        preprocessing=Preprocessing.with_crop_pct(size, 0.875, interpolation="bilinear"),
        background_row=True,
        convert=convert,
        build=build or {},
    )


def _our_axes(name: str, tensor: Tensor) -> Tensor:
    if not name.endswith("/weights"):
        return tensor
    return tensor.permute(3, 2, 0, 1) if tensor.ndim == 4 else tensor.t()


def _block(theirs: str, ours: str, layers: Scopes) -> Scopes:
    """One block: `1/0b_5x5` stands for `Branch_1/Conv2d_0b_5x5`."""
    found = {}
    for layer, module in layers.items():
        branch, _, name = layer.rpartition("/")
        scope = f"{theirs}/Branch_{branch}" if branch else theirs
        name = name if name.startswith("Conv") else f"Conv2d_{name}"
        found[f"{scope}/{name}"] = f"{ours}.{module}"
    return found


def googlenet_scopes() -> Scopes:
    """`InceptionV1` → `googlenet`; slim's letters run one ahead, and one layer's is odd."""
    scopes = {"Conv2d_1a_7x7": "conv1", "Conv2d_2b_1x1": "conv2", "Conv2d_2c_3x3": "conv3"}
    for row in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        layers = {
            "0/0a_1x1": "branch1",
            "1/0a_1x1": "branch2.0",
            "1/0b_3x3": "branch2.1",
            "2/0a_1x1": "branch3.0",
            "2/0a_3x3" if row == "5a" else "2/0b_3x3": "branch3.1",
            "3/0b_1x1": "branch4.1",
        }
        scopes |= _block(f"Mixed_{row[0]}{chr(ord(row[1]) + 1)}", f"inception{row}", layers)
    return scopes


V3_A = {
    "0/0a_1x1": "branch1x1",
    "1/0a_1x1": "branch5x5_1",
    "1/0b_5x5": "branch5x5_2",
    "2/0a_1x1": "branch3x3dbl_1",
    "2/0b_3x3": "branch3x3dbl_2",
    "2/0c_3x3": "branch3x3dbl_3",
    "3/0b_1x1": "branch_pool",
}
V3_5C_BRANCH_1 = {"1/0b_1x1": "branch5x5_1", "1/Conv_1_0c_5x5": "branch5x5_2"}
V3_6A = {  # two of these are 3×3s, whatever they are called
    "0/1a_1x1": "branch3x3",
    "1/0a_1x1": "branch3x3dbl_1",
    "1/0b_3x3": "branch3x3dbl_2",
    "1/1a_1x1": "branch3x3dbl_3",
}
V3_C = {
    "0/0a_1x1": "branch1x1",
    "1/0a_1x1": "branch7x7_1",
    "1/0b_1x7": "branch7x7_2",
    "1/0c_7x1": "branch7x7_3",
    "2/0a_1x1": "branch7x7dbl_1",
    "2/0b_7x1": "branch7x7dbl_2",
    "2/0c_1x7": "branch7x7dbl_3",
    "2/0d_7x1": "branch7x7dbl_4",
    "2/0e_1x7": "branch7x7dbl_5",
    "3/0b_1x1": "branch_pool",
}
V3_7A = {
    "0/0a_1x1": "branch3x3_1",
    "0/1a_3x3": "branch3x3_2",
    "1/0a_1x1": "branch7x7x3_1",
    "1/0b_1x7": "branch7x7x3_2",
    "1/0c_7x1": "branch7x7x3_3",
    "1/1a_3x3": "branch7x7x3_4",
}
V3_E = {
    "0/0a_1x1": "branch1x1",
    "1/0a_1x1": "branch3x3_1",
    "1/0b_1x3": "branch3x3_2a",
    "2/0a_1x1": "branch3x3dbl_1",
    "2/0b_3x3": "branch3x3dbl_2",
    "2/0c_1x3": "branch3x3dbl_3a",
    "2/0d_3x1": "branch3x3dbl_3b",
    "3/0b_1x1": "branch_pool",
}


def inception_v3_scopes() -> Scopes:
    """`InceptionV3` → `inception_v3`; blocks and stem have the same names."""
    stem = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
    blocks = {
        "Mixed_5b": V3_A,
        "Mixed_5c": {k: v for k, v in V3_A.items() if k[0] != "1"} | V3_5C_BRANCH_1,
        "Mixed_5d": V3_A,
        "Mixed_6a": V3_6A,
        **dict.fromkeys(("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"), V3_C),
        "Mixed_7a": V3_7A,
        "Mixed_7b": {**V3_E, "1/0b_3x1": "branch3x3_2b"},
        "Mixed_7c": {**V3_E, "1/0c_3x1": "branch3x3_2b"},
    }
    scopes = {layer: layer for layer in stem}
    for name, layers in blocks.items():
        scopes |= _block(name, name, layers)
    return scopes


V4_4A_7A = {
    "0/0a_1x1": "branch0.0",
    "0/1a_3x3": "branch0.1",
    "1/0a_1x1": "branch1.0",
    "1/0b_1x7": "branch1.1",
    "1/0c_7x1": "branch1.2",
    "1/1a_3x3": "branch1.3",
}
V4_A = {
    "0/0a_1x1": "branch0",
    "1/0a_1x1": "branch1.0",
    "1/0b_3x3": "branch1.1",
    "2/0a_1x1": "branch2.0",
    "2/0b_3x3": "branch2.1",
    "2/0c_3x3": "branch2.2",
    "3/0b_1x1": "branch3.1",
}
REDUCTION_A = {
    "0/1a_3x3": "branch0",
    "1/0a_1x1": "branch1.0",
    "1/0b_3x3": "branch1.1",
    "1/1a_3x3": "branch1.2",
}
V4_B = {
    "0/0a_1x1": "branch0",
    "1/0a_1x1": "branch1.0",
    "1/0b_1x7": "branch1.1",
    "1/0c_7x1": "branch1.2",
    "2/0a_1x1": "branch2.0",
    "2/0b_7x1": "branch2.1",
    "2/0c_1x7": "branch2.2",
    "2/0d_7x1": "branch2.3",
    "2/0e_1x7": "branch2.4",
    "3/0b_1x1": "branch3.1",
}
V4_C = {
    "0/0a_1x1": "branch0",
    "1/0a_1x1": "branch1_0",
    "1/0b_1x3": "branch1_1a",
    "1/0c_3x1": "branch1_1b",
    "2/0a_1x1": "branch2_0",
    "2/0b_3x1": "branch2_1",
    "2/0c_1x3": "branch2_2",
    "2/0d_1x3": "branch2_3a",
    "2/0e_3x1": "branch2_3b",
    "3/0b_1x1": "branch3.1",
}


def inception_v4_scopes() -> Scopes:
    """`InceptionV4` → `inception_v4`, whose blocks are numbered from the first layer on."""
    blocks: dict[str, Scopes] = {
        "Mixed_3a": {"1/0a_3x3": "conv"},
        "Mixed_4a": V4_4A_7A,
        "Mixed_5a": {"0/1a_3x3": "conv"},
        **{f"Mixed_5{letter}": V4_A for letter in "bcde"},
        "Mixed_6a": REDUCTION_A,
        **{f"Mixed_6{letter}": V4_B for letter in "bcdefgh"},
        "Mixed_7a": V4_4A_7A,
        **{f"Mixed_7{letter}": V4_C for letter in "bcd"},
    }
    stem = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3")
    scopes = {layer: f"features.{index}" for index, layer in enumerate(stem)}
    for index, (name, layers) in enumerate(blocks.items(), len(stem)):
        scopes |= _block(name, f"features.{index}", layers)
    return scopes


IR_5B = {
    "0/Conv2d_1x1": "branch0",
    "1/0a_1x1": "branch1.0",
    "1/0b_5x5": "branch1.1",
    "2/0a_1x1": "branch2.0",
    "2/0b_3x3": "branch2.1",
    "2/0c_3x3": "branch2.2",
    "3/0b_1x1": "branch3.1",
}
IR_35 = {
    "0/Conv2d_1x1": "branch0",
    "1/0a_1x1": "branch1.0",
    "1/0b_3x3": "branch1.1",
    "2/0a_1x1": "branch2.0",
    "2/0b_3x3": "branch2.1",
    "2/0c_3x3": "branch2.2",
    "Conv2d_1x1": "conv2d",
}
IR_17 = {
    "0/Conv2d_1x1": "branch0",
    "1/0a_1x1": "branch1.0",
    "1/0b_1x7": "branch1.1",
    "1/0c_7x1": "branch1.2",
    "Conv2d_1x1": "conv2d",
}
IR_7A = {
    "0/0a_1x1": "branch0.0",
    "0/1a_3x3": "branch0.1",
    "1/0a_1x1": "branch1.0",
    "1/1a_3x3": "branch1.1",
    "2/0a_1x1": "branch2.0",
    "2/0b_3x3": "branch2.1",
    "2/1a_3x3": "branch2.2",
}
IR_8 = {
    "0/Conv2d_1x1": "branch0",
    "1/0a_1x1": "branch1.0",
    "1/0b_1x3": "branch1.1",
    "1/0c_3x1": "branch1.2",
    "Conv2d_1x1": "conv2d",
}


def inception_resnet_v2_scopes() -> Scopes:
    """`InceptionResnetV2` → `inception_resnet_v2`; slim numbers residual blocks from 1."""
    scopes = {f"Conv2d_{name}": f"conv2d_{name[:2]}" for name in ("1a_3x3", "2a_3x3", "2b_3x3")}
    scopes |= {f"Conv2d_{name}": f"conv2d_{name[:2]}" for name in ("3b_1x1", "4a_3x3", "7b_1x1")}
    scopes |= _block("Mixed_5b", "mixed_5b", IR_5B)
    scopes |= _block("Mixed_6a", "mixed_6a", REDUCTION_A)
    scopes |= _block("Mixed_7a", "mixed_7a", IR_7A)
    for theirs, ours, count, layers in (
        ("Repeat/block35", "repeat", 10, IR_35),
        ("Repeat_1/block17", "repeat_1", 20, IR_17),
        ("Repeat_2/block8", "repeat_2", 9, IR_8),
    ):
        for index in range(count):
            scopes |= _block(f"{theirs}_{index + 1}", f"{ours}.{index}", layers)
    return scopes | _block("Block8", "block8", IR_8)
