"""Matching a checkpoint to a network: recognise the layout by its keys, rename, check every tensor.

Nothing is loaded loosely. Every tensor of the network must be there with the right shape and finite
values; every tensor of the file must be used, or be one that the layout drops by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor

from inception_deploy.checkpoints import Checkpoint
from inception_deploy.errors import CheckpointError
from inception_deploy.networks import NETWORKS, InceptionNetwork, NetworkSpec
from inception_deploy.networks.base import CheckpointLayout

__all__ = ["Match", "blank", "identify", "match"]

# A key that gives away where foreign weights come from; only used to word an error.
FOREIGN_KEYS = {
    "layer1.0.conv1.": "a ResNet",
    "features.denseblock1.": "a DenseNet",
    "features.0.weight": "a VGG or AlexNet",
    "blocks.0.attn.": "a vision transformer",
    "encoder.layers.encoder_layer_0.": "a vision transformer",
    "backbone.body.": "a detection network",
    "InceptionV": "a TF-slim export",
    "inception_3a/": "Caffe's GoogLeNet",
    "inception_3a_1x1.": "BN-Inception",
    "features.3.conv.conv.": "Inception v4",
    "repeat_3.0.": "facenet's Inception-ResNet-v1",
    "block1.rep.": "Xception",
    "conv2d/0/": "another Keras network",
}

COUNTER = "num_batches_tracked"
SHOWN = 3
ENOUGH_OVERLAP = 0.5


@dataclass(frozen=True)
class Match:
    """A checkpoint in the network's own names, checked.

    Args:
        layout: the layout that was recognised.
        state_dict: complete and strict, float32 (counters int64).
        num_classes: rows of the classifier, after a background row was dropped.
        dropped: names in the file that the layout leaves out (auxiliary heads).
        background_dropped: True when row 0 of a 1001-row classifier was removed.
        build: further constructor arguments of the network that the tensors fit.
    """

    layout: CheckpointLayout
    state_dict: Mapping[str, Tensor]
    num_classes: int
    dropped: tuple[str, ...]
    background_dropped: bool
    build: Mapping[str, Any]

    @property
    def detail(self) -> str:
        """One line for the terminal."""
        classes = f"{self.num_classes} classes" if self.num_classes else "no classifier"
        parts = [f"{self.layout.name} layout", classes]
        if self.background_dropped:
            parts.append("background row dropped")
        if self.dropped:
            parts.append(f"{len(self.dropped)} auxiliary tensors dropped")
        return ", ".join(parts)


def blank(
    spec: NetworkSpec,
    num_classes: int,
    width: float = 1.0,
    build: Mapping[str, Any] | None = None,
) -> InceptionNetwork:
    """The module without storage (torch's "meta" device), to be given tensors by assignment.

    Args:
        build: further constructor arguments, e.g. `repeats`.

    Raises:
        CheckpointError: for constructor arguments that the network does not take.
    """
    construct = cast(Callable[..., InceptionNetwork], spec.build)
    arguments = dict(build or {})
    try:
        with torch.device("meta"):
            return construct(num_classes=num_classes, width=width, **arguments)
    except TypeError as error:
        raise CheckpointError(
            f"{spec.name} cannot be built with {arguments} ({error}); correct the model card"
        ) from error


def identify(checkpoint: Checkpoint) -> NetworkSpec:
    """The network whose tensors these are.

    Raises:
        CheckpointError: when no network of the family is recognised.
    """
    found = _recognised(checkpoint) or _closest(checkpoint)
    if found is None:
        raise CheckpointError(
            f"{checkpoint.path}: not weights of any network here{_guess(checkpoint.tensors)}; "
            f"known: {', '.join(NETWORKS.names())}"
        )
    return found[0]


def match(
    checkpoint: Checkpoint,
    spec: NetworkSpec,
    *,
    num_classes: int | None = None,
    width: float = 1.0,
    build: Mapping[str, Any] | None = None,
) -> Match:
    """Fit `checkpoint` to the network `spec`.

    Args:
        num_classes: what was asked for; None takes what the classifier has. 1001 keeps the
            background row that some TensorFlow ports carry as row 0. A number also vouches for
            weights that would by theirs be taken for another network's with the same tensors.
        width: width multiplier of the network the weights were trained for.
        build: further constructor arguments of that network.

    Raises:
        CheckpointError: weights of another network, of an unknown layout, of another class count,
            with missing, unexpected, mis-shaped or non-finite tensors.
    """
    path = checkpoint.path
    layout = _layout(checkpoint, spec, num_classes, width)
    if layout is None:
        found = _recognised(checkpoint) or _closest(checkpoint)
        if found is None:
            known = ", ".join(layout.name for layout in spec.layouts)
            raise CheckpointError(
                f"{path}: not weights of {spec.name}{_guess(checkpoint.tensors)}; "
                f"known layouts: {known}"
            )
        other, layout = found
        if other.name != spec.name:
            raise CheckpointError(
                f"{path}: weights of {other.name} ({layout.name} layout), not of {spec.name}; "
                f"ask for {other.name}, or give weights of {spec.name}"
            )
    counted = _counted(checkpoint)
    if num_classes is None and counted is not None and counted[0].name != spec.name:
        other, theirs = counted
        raise CheckpointError(
            f"{path}: with {theirs.classes} classes these are weights of {other.name} "
            f"({theirs.name} layout), not of {spec.name}; ask for {other.name}, or confirm with "
            f"--num-classes {theirs.classes}"
        )

    renamed: dict[str, Tensor] = {}
    dropped: list[str] = []
    convert = layout.convert or dict
    for name, tensor in convert(checkpoint.tensors).items():
        ours = layout.rename(name)
        if ours is None:
            dropped.append(name)
        else:
            renamed[ours] = tensor

    background = _drop_background(renamed, spec, layout, num_classes)
    classes = _class_count(renamed, spec, layout, num_classes, checkpoint)
    build = {**layout.build, **(build or {})}
    expected = blank(spec, classes, width, build).state_dict()
    head = {f"{spec.classifier}.weight", f"{spec.classifier}.bias"}
    if head == {name for name in expected if not name.endswith(COUNTER)} - renamed.keys():
        raise CheckpointError(
            f"{path}: {spec.name}, {layout.name} layout, without the classifier, like Keras's "
            "*_notop files; give the weights with it"
        )
    state_dict = _checked(renamed, expected, f"{path}: {spec.name}, {layout.name} layout")
    return Match(layout, state_dict, classes, tuple(dropped), background, build)


def _layout(
    checkpoint: Checkpoint, spec: NetworkSpec, num_classes: int | None = None, width: float = 1.0
) -> CheckpointLayout | None:
    """The first layout with these names, and with this many classes where that matters.

    A class count that was asked for stands in for the one of the layout.
    """
    for layout in spec.layouts:
        if not layout.signature <= checkpoint.tensors.keys():
            continue
        if layout.fits is not None and width == 1.0 and not layout.fits(checkpoint.tensors):
            continue
        if layout.classes is None:
            return layout
        rows = _rows(checkpoint, spec, layout)
        if rows == layout.classes or (layout.classes and rows == num_classes):
            return layout
    return None


def _rows(checkpoint: Checkpoint, spec: NetworkSpec, layout: CheckpointLayout) -> int:
    """Rows of the classifier in the file; 0 where it has none."""
    weight = f"{spec.classifier}.weight"
    for name, tensor in checkpoint.tensors.items():
        if tensor.ndim and layout.rename(name) == weight:
            return len(tensor)
    return 0


def _counted(checkpoint: Checkpoint) -> tuple[NetworkSpec, CheckpointLayout] | None:
    """The network that the class count alone tells from others with the same tensors."""
    for spec in NETWORKS:
        layout = _layout(checkpoint, spec)
        if layout is not None and layout.classes:
            return spec, layout
    return None


def _recognised(checkpoint: Checkpoint) -> tuple[NetworkSpec, CheckpointLayout] | None:
    """The network with a layout of these names; one told by its class count goes first."""
    counted = _counted(checkpoint)
    if counted is not None:
        return counted
    for spec in NETWORKS:
        layout = _layout(checkpoint, spec)
        if layout is not None:
            return spec, layout
    return None


def _closest(checkpoint: Checkpoint) -> tuple[NetworkSpec, CheckpointLayout] | None:
    """The network and layout sharing most tensor names, if they share half of the network's."""
    best = ENOUGH_OVERLAP
    winner: tuple[NetworkSpec, CheckpointLayout] | None = None
    for spec in NETWORKS:
        expected = _own_names(spec.name)
        for layout in spec.layouts:
            names = {layout.rename(name) for name in checkpoint.tensors}
            overlap = len(names & expected) / len(expected)
            if overlap > best:
                best, winner = overlap, (spec, layout)
    return winner


@cache
def _own_names(network: str) -> frozenset[str]:
    spec = NETWORKS.get(network)
    return frozenset(blank(spec, spec.num_classes).state_dict())


def _guess(names: Iterable[str]) -> str:
    """What the names look like, as the continuation of a sentence."""
    names = list(names)
    for prefix, source in FOREIGN_KEYS.items():
        if any(name.startswith(prefix) for name in names):
            return f" (looks like {source})"
    return f" (found {_some(names)})"


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _drop_background(
    tensors: dict[str, Tensor],
    spec: NetworkSpec,
    layout: CheckpointLayout,
    num_classes: int | None,
) -> bool:
    """Remove row 0 of a 1001-row classifier in place; True if there was one."""
    weight, bias = f"{spec.classifier}.weight", f"{spec.classifier}.bias"
    rows = [len(tensors[key]) for key in (weight, bias) if key in tensors and tensors[key].ndim]
    if not layout.background_row or num_classes == 1001 or rows != [1001, 1001]:
        return False
    for key in (weight, bias):
        tensors[key] = tensors[key][1:]
    return True


def _class_count(
    tensors: Mapping[str, Tensor],
    spec: NetworkSpec,
    layout: CheckpointLayout,
    num_classes: int | None,
    checkpoint: Checkpoint,
) -> int:
    weight = tensors.get(f"{spec.classifier}.weight")
    if layout.classes == 0:
        classes = 0
    elif weight is None or weight.ndim == 0:
        return num_classes or spec.num_classes  # reported with all others, missing or mis-shaped
    else:
        classes = len(weight)
    if num_classes is not None and num_classes != classes:
        has = f"its classifier has {classes} classes" if classes else "it has no classifier"
        raise CheckpointError(
            f"{checkpoint.path}: {has}, {num_classes} were asked "
            f"for; drop --num-classes or give weights trained for {num_classes}"
        )
    return classes


def _checked(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str
) -> dict[str, Tensor]:
    """All of `expected`, in its order, from `tensors`; float32 and finite."""
    missing = [n for n in expected if n not in tensors and not n.endswith(COUNTER)]
    unexpected = [name for name in tensors if name not in expected]
    if missing or unexpected:
        wrong = [f"{len(missing)} tensors missing ({_some(missing)})"] if missing else []
        if unexpected:
            wrong.append(f"{len(unexpected)} unexpected ({_some(unexpected)})")
        raise CheckpointError(
            f"{what}: {', '.join(wrong)}; only the unchanged architecture can be loaded"
        )
    checked: dict[str, Tensor] = {}
    for name, blueprint in expected.items():
        if name.endswith(COUNTER):
            checked[name] = torch.zeros((), dtype=torch.int64)
            continue
        checked[name] = _one(name, tensors[name], blueprint, what)
    return checked


def _one(name: str, tensor: Tensor, blueprint: Tensor, what: str) -> Tensor:
    if tensor.shape != blueprint.shape:
        raise CheckpointError(
            f"{what}: '{name}' has shape {tuple(tensor.shape)}, expected "
            f"{tuple(blueprint.shape)}; only the unchanged architecture can be loaded"
        )
    if not tensor.is_floating_point():
        raise CheckpointError(f"{what}: '{name}' is {tensor.dtype}; float weights are needed")
    # a copy: aligned memory of its own, where safetensors maps the file at arbitrary offsets
    values = tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    if not torch.isfinite(values).all():
        bad = int((~torch.isfinite(values)).sum())
        raise CheckpointError(
            f"{what}: '{name}' holds {bad} NaN or infinite values; save a checkpoint from before "
            "the training diverged"
        )
    if name.endswith("running_var") and bool((values < 0).any()):
        raise CheckpointError(f"{what}: '{name}' holds a negative variance; the file is damaged")
    return values
