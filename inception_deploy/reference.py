"""The reference: the FP32 PyTorch network everything else is compared with, and where it came from.

`weights` is one of `embedded`, `pretrained[:TAG]`, `random[:SEED]`, or a path. Random weights are
never a fallback: a source that cannot be served is an error that names the next best option.
"""

from __future__ import annotations

import difflib
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from inception_deploy.checkpoints import Checkpoint, read_checkpoint
from inception_deploy.embedded import EMBEDDED_DIR
from inception_deploy.errors import CheckpointError, RecipeError, UnknownName
from inception_deploy.matching import Match, blank, identify, match
from inception_deploy.model_card import ModelCard
from inception_deploy.networks import NETWORKS, InceptionNetwork, NetworkSpec
from inception_deploy.networks.base import Head, PretrainedWeights
from inception_deploy.preprocess import Interpolation, Preprocessing
from inception_deploy.random_weights import random_network

__all__ = [
    "DEFAULT_NETWORK",
    "Reference",
    "WeightsInfo",
    "embedded_networks",
    "load_reference",
    "overridden",
]

DEFAULT_NETWORK = "googlenet"

KINDS = ("embedded", "pretrained", "random")

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class WeightsInfo:
    """Where the weights came from; goes into the bundle's manifest.

    Args:
        source: "embedded", "pretrained:TAG", "random:SEED" or the file's name.
        layout: the recognised checkpoint layout; None for random weights.
        sha256: of the weights file, hexadecimal; None for random weights.
        num_classes: rows of the classifier.
        trained: False for random weights, whatever else is said about them.
        detail: one line for the terminal.
    """

    source: str
    layout: str | None
    sha256: str | None
    num_classes: int
    trained: bool
    detail: str


@dataclass(frozen=True)
class Reference:
    """A network ready to be exported and compared with.

    Args:
        spec: the network's facts; None for one that is not of the registry.
        module: in evaluation mode, float32, on the CPU, without gradients, its head selected.
        preprocessing: what its inputs go through; `preprocessing.size` is the input size.
        class_names: in the classifier's order; None where the weights bring none.
        weights: provenance.
        default_data: the built-in data set the weights were trained on, None for other data.
        called: what a network without a spec is called.
        framework: what runs it: "pytorch", or "onnx" for a file of the user's own.
    """

    spec: NetworkSpec | None
    module: InceptionNetwork
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None
    weights: WeightsInfo
    default_data: str | None = None
    called: str = ""
    framework: Literal["pytorch", "onnx"] = "pytorch"

    @property
    def name(self) -> str:
        """What the bundle calls the network."""
        return self.spec.name if self.spec else self.called

    @property
    def title(self) -> str:
        """What people call it."""
        return self.spec.title if self.spec else self.called


def embedded_networks() -> tuple[str, ...]:
    """Names of the networks whose trained weights ship with the package."""
    return tuple(sorted(path.stem for path in EMBEDDED_DIR.glob("*.safetensors")))


def load_reference(
    network: str | None,
    weights: str,
    *,
    num_classes: int | None = None,
    image_size: int | None = None,
    head: Head = "logits",
    mean: Triple | None = None,
    std: Triple | None = None,
    crop_pct: float | None = None,
    interpolation: Interpolation | None = None,
    width: float | None = None,
) -> Reference:
    """Build the reference network.

    Args:
        network: its name; None takes the default, or for a path whatever the file holds.
        weights: `embedded`, `pretrained[:TAG]`, `random[:SEED]`, or a path to a weights
            file (docs/checkpoints.md) or a folder with timm's `config.json`.
        num_classes: checked against the classifier of trained weights; random ones have as many
            classes as the published ones.
        image_size: side of the square input, pixels; None keeps that of the weights.
        head: what the network returns.
        mean: overrides the preprocessing's mean, RGB, pixels in 0-1.
        std: overrides the preprocessing's standard deviation, RGB, pixels in 0-1.
        crop_pct: overrides the ratio of the crop to the resized image.
        interpolation: overrides the resampling filter.
        width: width multiplier of a random network; trained weights know theirs.

    Raises:
        UnknownName: no such network.
        RecipeError: options that cannot be served together, an image below the minimum size.
        CheckpointError: weights that cannot be found, read, trusted or matched.
    """
    if head not in get_args(Head):
        raise UnknownName("head", head, get_args(Head))
    if num_classes is not None and num_classes < 1:
        raise RecipeError(f"the number of classes must be at least 1, not {num_classes}")
    kind, _, argument = weights.partition(":")
    if width is not None and kind != "random":
        raise RecipeError("a width can be chosen for random weights only; trained ones have theirs")
    named = None if network is None else NETWORKS.get(network)
    spec = named or NETWORKS.get(DEFAULT_NETWORK)
    if named is not None or kind in KINDS:
        _check_size(spec, image_size)  # before anything is downloaded, read or computed

    if weights == "embedded":
        reference = _embedded(spec, num_classes)
    elif kind == "pretrained":
        reference = _pretrained(spec, argument, num_classes)
    elif kind == "random":
        size = image_size or spec.input_size
        classes = num_classes or spec.num_classes
        reference = _random(spec, argument, classes, width or 1.0, size)
    else:
        reference = _from_path(named, Path(weights).expanduser(), num_classes)

    assert reference.spec is not None, "every source above names a registered network"
    _check_size(reference.spec, image_size)
    if head != "features" and not reference.module.num_classes:
        raise RecipeError(
            f"{reference.weights.source} has no classifier, its weights end in the features; "
            "ask for --head features"
        )
    reference.module.head = head
    preprocessing = overridden(
        reference.preprocessing,
        image_size=image_size,
        mean=mean,
        std=std,
        crop_pct=crop_pct,
        interpolation=interpolation,
    )
    return replace(reference, preprocessing=preprocessing)


def _check_size(spec: NetworkSpec, image_size: int | None) -> None:
    if image_size is None:
        return
    if image_size < spec.min_size:
        raise RecipeError(
            f"image size {image_size} is below the {spec.min_size} pixels that {spec.name} needs; "
            f"ask for {spec.min_size} or more (native: {spec.input_size})"
        )
    if image_size % spec.size_step:
        below = image_size // spec.size_step * spec.size_step
        raise RecipeError(
            f"image size {image_size} is no multiple of {spec.size_step}, as the strides of "
            f"{spec.name} need; ask for {below} or {below + spec.size_step}"
        )


def overridden(
    base: Preprocessing,
    *,
    image_size: int | None,
    mean: Triple | None,
    std: Triple | None,
    crop_pct: float | None,
    interpolation: Interpolation | None,
) -> Preprocessing:
    """`base` with what was asked for in place of its own values.

    Args:
        mean: RGB, for pixels in 0–1; turned into the order and scale of `base`.
        std: likewise.
    """
    if image_size is not None and image_size != base.size:
        base = base.with_size(image_size)
    fields: dict[str, Any] = {}
    if crop_pct is not None:
        fields["resize"] = Preprocessing.with_crop_pct(base.size, crop_pct).resize
    if interpolation is not None:
        fields["interpolation"] = interpolation
    for name, triple in (("mean", mean), ("std", std)):
        if triple is not None:
            ordered = triple if base.channel_order == "RGB" else triple[::-1]
            fields[name] = tuple(value * base.pixel_max for value in ordered)
    return replace(base, **fields)


def _embedded(spec: NetworkSpec, num_classes: int | None) -> Reference:
    path = EMBEDDED_DIR / f"{spec.name}.safetensors"
    if spec.name not in embedded_networks():
        have = ", ".join(embedded_networks()) or "none"
        raise CheckpointError(
            f"no weights of {spec.name} are embedded (embedded: {have}); "
            "use --weights pretrained or --weights PATH"
        )
    card = ModelCard.beside(path)
    if card is None:
        raise CheckpointError(f"{path} lacks its card {path.stem}.json; reinstall the package")
    return _described("embedded", read_checkpoint(path), card, spec, num_classes)


def _pretrained(spec: NetworkSpec, tag: str, num_classes: int | None) -> Reference:
    if not spec.pretrained and spec.download is None:
        raise CheckpointError(
            f"nobody has published weights of {spec.name}; give your own with --weights PATH, or "
            "measure an untrained network with --weights random"
        )
    if not spec.pretrained:
        raise CheckpointError(
            f"{spec.name} has no weights on the hub; download {spec.download} "
            "and give it with --weights PATH"
        )
    by_tag = {weights.tag: weights for weights in spec.pretrained}
    if tag and tag not in by_tag:
        raise UnknownName(f"pretrained tag of {spec.name}", tag, by_tag)
    published = by_tag[tag] if tag else spec.pretrained[0]
    reference = _matched(
        f"pretrained:{published.tag}", read_checkpoint(_fetched(published)), spec, num_classes
    )
    detail = f"{reference.weights.detail}, published top-1 {published.top1} % ({published.source})"
    return replace(reference, weights=replace(reference.weights, detail=detail))


def _fetched(published: PretrainedWeights) -> Path:
    """The local folder with the repository's weights and config, from the cache or the hub."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    from huggingface_hub.utils import logging as hub_logging

    verbosity = hub_logging.get_verbosity()
    hub_logging.set_verbosity(
        logging.ERROR
    )  # each retry would be a line; the error below says it once
    try:
        hf_hub_download(published.repo, "config.json")
        return Path(hf_hub_download(published.repo, "model.safetensors")).parent
    except (EntryNotFoundError, OSError) as error:  # the hub's errors and its HTTP client's
        if constants.HF_HUB_OFFLINE:
            reason = "HF_HUB_OFFLINE is set and the cache lacks it"
        elif isinstance(error, LocalEntryNotFoundError):
            reason = "no connection, and the cache lacks it"
        else:
            reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"cannot fetch {published.repo} ({reason}); "
            "give its model.safetensors with --weights PATH"
        ) from error
    finally:
        hub_logging.set_verbosity(verbosity)


def _random(
    spec: NetworkSpec, argument: str, num_classes: int, width: float, image_size: int
) -> Reference:
    if argument and not (argument.isascii() and argument.isdigit()):
        raise RecipeError(f"random:SEED needs a whole number of at least 0, not '{argument}'")
    seed = int(argument or 0)
    module = random_network(spec, seed, num_classes=num_classes, width=width, image_size=image_size)
    info = WeightsInfo(
        source=f"random:{seed}",
        layout=None,
        sha256=None,
        num_classes=module.num_classes,
        trained=False,
        detail=f"NOT TRAINED: random weights, seed {seed}, {module.num_classes} classes",
    )
    return Reference(spec, module.requires_grad_(False), spec.preprocessing, None, info)


def _from_path(spec: NetworkSpec | None, path: Path, num_classes: int | None) -> Reference:
    if not path.exists():
        near = difflib.get_close_matches(str(path).partition(":")[0], KINDS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"or use one of {', '.join(KINDS)}"
        raise CheckpointError(f"no such weights file: {path}; {hint}")
    card = ModelCard.beside(path)
    checkpoint = read_checkpoint(path)
    if card is not None:
        named = NETWORKS.get(card.network)
        return _described(path.name, checkpoint, card, spec or named, num_classes)
    return _matched(path.name, checkpoint, spec or identify(checkpoint), num_classes)


def _described(
    source: str,
    checkpoint: Checkpoint,
    card: ModelCard,
    spec: NetworkSpec,
    num_classes: int | None,
) -> Reference:
    """Weights with a card of ours beside them."""
    if card.network != spec.name:
        raise CheckpointError(
            f"{checkpoint.path}: weights of {card.network} by its card, not of {spec.name}"
        )
    if card.sha256 != checkpoint.sha256:
        raise CheckpointError(
            f"{checkpoint.path} does not match its card (sha256 {checkpoint.sha256[:12]}…, card "
            f"{card.sha256[:12]}…); restore both files"
        )
    asked = card.num_classes if num_classes is None else num_classes
    fitted = match(checkpoint, spec, num_classes=asked, width=card.width, build=card.build)
    module = blank(spec, fitted.num_classes, card.width, fitted.build)
    detail = [fitted.detail, f"width {card.width:g}"]
    if card.data is not None:
        detail.append(f"trained on {card.data}")
    if card.top1 is not None:
        detail.append(f"validation top-1 {card.top1:.2f} %")
    info = _info(source, checkpoint, fitted, ", ".join(detail))
    return Reference(
        spec,
        _filled(module, fitted),
        card.preprocessing,
        card.class_names,
        info,
        default_data=card.data,
    )


def _matched(
    source: str, checkpoint: Checkpoint, spec: NetworkSpec, num_classes: int | None
) -> Reference:
    """Weights of the published width, with timm's config or nothing beside them."""
    fitted = match(checkpoint, spec, num_classes=num_classes)
    preprocessing, class_names = fitted.layout.preprocessing, None
    if checkpoint.config is not None:
        inner = checkpoint.config.get("pretrained_cfg", checkpoint.config)
        preprocessing = Preprocessing.from_timm_config(inner)
        class_names = _class_names(checkpoint, fitted.num_classes)
    module = _filled(blank(spec, fitted.num_classes, build=fitted.build), fitted)
    info = _info(source, checkpoint, fitted, fitted.detail)
    return Reference(spec, module, preprocessing, class_names, info)


def _class_names(checkpoint: Checkpoint, num_classes: int) -> tuple[str, ...] | None:
    """timm's `label_names`, at the top of config.json or in its `pretrained_cfg`."""
    config = checkpoint.config or {}
    names = config.get("label_names") or config.get("pretrained_cfg", {}).get("label_names")
    if names is None:
        return None
    if not isinstance(names, list) or len(names) != num_classes:
        raise CheckpointError(
            f"{checkpoint.path.parent / 'config.json'}: label_names must be a list of "
            f"{num_classes} names, as many as the classifier has classes"
        )
    return tuple(map(str, names))


def _filled(module: InceptionNetwork, fitted: Match) -> InceptionNetwork:
    module.load_state_dict(fitted.state_dict, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def _info(source: str, checkpoint: Checkpoint, fitted: Match, detail: str) -> WeightsInfo:
    return WeightsInfo(
        source=source,
        layout=fitted.layout.name,
        sha256=checkpoint.sha256,
        num_classes=fitted.num_classes,
        trained=True,
        detail=detail,
    )
