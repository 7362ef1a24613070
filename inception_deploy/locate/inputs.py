"""What comes before the network: preprocessing and labels, compared with what was recorded."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import onnx
from numpy.typing import NDArray

from inception_deploy.artifact import FloatArray, Golden
from inception_deploy.bundle import Bundle
from inception_deploy.errors import DataError, InceptionDeployError
from inception_deploy.graphs import METADATA_PREFIX, metadata
from inception_deploy.images import GOLDEN_IMAGES, UNLABELLED_IMAGES, ImageSet, choose_images
from inception_deploy.locate.findings import Finding, Place, Transition
from inception_deploy.preprocess import Interpolation, Preprocessing
from inception_deploy.recipe import Recipe

__all__ = ["check_labels_of", "check_preprocessing", "images_of"]

_SAME = 1e-5
"""Largest difference of two normalised images that are the same, relative to the largest value."""

_INPUT = Place("input", "input", "input", "input")
_LABELS = Place("labels", "labels", "labels", "labels")

_SIGMAS = 4.0
"""How far accuracy may be below the recorded one, in standard deviations, to count as chance."""


def images_of(bundle: Bundle, data: str | None, count: int | None = None) -> ImageSet:
    """The images that a bundle was compared on, or others that are named.

    Raises:
        DataError: they cannot be read.
    """
    recipe = Recipe.from_dict(dict(bundle.manifest["recipe"]))
    source = data or bundle.manifest["data"]
    number = recipe.data_size if source else min(recipe.data_size, UNLABELLED_IMAGES)
    classes = None if bundle.head == "features" else int(bundle.manifest["weights"]["num_classes"])
    return choose_images(
        source,
        bundle.preprocessing,
        count=count or number,
        seed=recipe.seed,
        skip_bad=recipe.skip_bad_images,
        class_names=bundle.class_names,
        num_classes=classes,
    )


def check_preprocessing(
    bundle: Bundle, golden: Golden, trained: Preprocessing | None = None
) -> tuple[Transition, tuple[Finding, ...]]:
    """The golden inputs made again from the images they were made of.

    Args:
        trained: what the network was trained with, where it is known.
    """
    between = "images → golden.npz"
    findings = [*_metadata(bundle), *_foreign(bundle, trained)]
    try:
        images = images_of(bundle, None)
        recorded = (bundle.read_json("parity.json") or {}).get("data", {}).get("digest")
        if recorded is not None and recorded != images.dataset.digest:
            raise DataError("the images are others by now")
        (batch,) = images.spread(GOLDEN_IMAGES).batches(GOLDEN_IMAGES)
    except InceptionDeployError as error:
        return Transition("preprocessing", between, 0, str(error)), tuple(findings)
    off = _distance(batch.inputs[: len(golden.inputs)], golden.inputs)
    if off > _SAME:
        said = f"the manifest's preprocessing gives other inputs, off by {off:.3g} of the largest"
        causes = tuple(_explained(images, golden.inputs))
        measured = off if math.isfinite(off) else None
        found = Finding("preprocessing", _INPUT, "input", said, causes, measured, _SAME)
        findings = [replace(found, causes=(*causes, *(f.said for f in findings)))]
    return Transition("preprocessing", between, 1), tuple(findings)


def _metadata(bundle: Bundle) -> Iterator[Finding]:
    """Where the graphs say another preprocessing than the manifest."""
    for file in (bundle.reference, bundle.model):
        entries = metadata(onnx.load(file, load_external_data=False))
        said = entries.get(f"{METADATA_PREFIX}preprocessing")
        if said is None:
            continue
        try:
            theirs = Preprocessing.from_dict(json.loads(said))
        except (ValueError, InceptionDeployError):
            continue
        ours = bundle.preprocessing
        if theirs != ours:
            names = ", ".join(_differing(theirs, ours))
            text = f"{file.name} was made for another preprocessing than the manifest's: {names}"
            yield Finding("preprocessing", _INPUT, "input", text, (names,))
            return


def _foreign(bundle: Bundle, trained: Preprocessing | None) -> Iterator[Finding]:
    """Where the bundle prepares images in another way than its network was trained with."""
    if trained is not None and trained != bundle.preprocessing:
        names = ", ".join(
            f"{name} is {ours}, the network's {theirs}"
            for name, ours, theirs in _apart(bundle.preprocessing, trained)
        )
        text = f"the manifest's preprocessing is not what the network was trained with: {names}"
        yield Finding("preprocessing", _INPUT, "input", text, (names,))


def _apart(ours: Preprocessing, theirs: Preprocessing) -> Iterator[tuple[str, Any, Any]]:
    """Name and both values of what differs."""
    here, there = ours.to_dict(), theirs.to_dict()
    return ((name, here[name], there[name]) for name in here if here[name] != there[name])


def _differing(theirs: Preprocessing, ours: Preprocessing) -> Iterator[str]:
    for name, here, there in _apart(ours, theirs):
        yield f"{name} is {here}, the graph's {there}"


def _distance(have: FloatArray, want: FloatArray) -> float:
    if have.shape != want.shape:
        return math.inf
    return float(np.abs(have - want).max()) / max(float(np.abs(want).max()), 1e-30)


def _explained(images: ImageSet, want: FloatArray) -> Iterator[str]:
    """Preprocessings that give the recorded inputs after all."""
    ours = images.preprocessing
    for what, variant in _variants(ours):
        changed = replace(images, preprocessing=variant)
        (batch,) = changed.spread(GOLDEN_IMAGES).batches(GOLDEN_IMAGES)
        if _distance(batch.inputs[: len(want)], want) <= _SAME:
            yield what


def _variants(ours: Preprocessing) -> Iterator[tuple[str, Preprocessing]]:
    """Others that are easily mistaken for `ours`."""
    order: Literal["RGB", "BGR"] = "BGR" if ours.channel_order == "RGB" else "RGB"
    flipped = replace(ours, channel_order=order, mean=ours.mean[::-1], std=ours.std[::-1])
    yield f"channels in {order} order", replace(ours, channel_order=order)
    yield f"channels, mean and std in {order} order", flipped
    yield "mean and std in reverse order", replace(ours, mean=ours.mean[::-1], std=ours.std[::-1])
    if all(value > 0 for value in ours.mean):
        yield "mean and std swapped", replace(ours, mean=ours.std, std=ours.mean)
    for name in get_args(Interpolation):
        if name != ours.interpolation:
            yield f"resized with {name}", replace(ours, interpolation=name)
    if ours.resize != ours.size:
        yield "no margin around the crop", replace(ours, resize=ours.size)
    for percent in (0.875, 0.8975, 0.9, 0.95, 1.0):
        resize = math.floor(ours.size / percent)
        if resize != ours.resize:
            yield f"resized to {resize} before the crop", replace(ours, resize=resize)
    scale = 255.0 if ours.pixel_max == 1.0 else 1 / 255.0
    other = replace(
        ours,
        pixel_max=ours.pixel_max * scale,
        mean=_times(ours.mean, scale),
        std=_times(ours.std, scale),
    )
    yield f"pixels in 0–{other.pixel_max:g}", other
    yield (
        f"pixels in 0–{other.pixel_max:g} with this mean and std",
        replace(ours, pixel_max=other.pixel_max),
    )


def _times(values: tuple[float, float, float], factor: float) -> tuple[float, float, float]:
    first, second, third = values
    return first * factor, second * factor, third * factor


def check_labels_of(
    bundle: Bundle, outputs: NDArray[Any], labels: NDArray[np.int64] | None
) -> tuple[Transition, tuple[Finding, ...]]:
    """Whether the labels are those that the recorded accuracy was measured with.

    Args:
        outputs: of the network before any rewrite, (N, K).
        labels: (N,), or None.
    """
    between = "labels → outputs"
    recorded = bundle.manifest["parity"].get("top1_reference")
    if labels is None or recorded is None or bundle.head == "features":
        return Transition("labels", between, 0, "no labels, or none at export"), ()
    count = len(labels)
    top = outputs.argmax(1)
    right = float((top == labels).mean())
    expected = recorded / 100
    deviation = math.sqrt(max(expected * (1 - expected), 1 / count) / count)
    if right >= expected - _SIGMAS * deviation:
        return Transition("labels", between, 1), ()
    why = []
    for shift in (-1, 1):
        shifted = (labels + shift) % outputs.shape[1]
        if float((top == shifted).mean()) >= expected - _SIGMAS * deviation:
            why.append(f"labels are off by one: with {shift:+d} they fit (a background class?)")
    said = (
        f"the network before any rewrite is right on {right:.1%} of {count} images, "
        f"at export it was on {expected:.1%}"
    )
    return Transition("labels", between, 1), (
        Finding("labels", _LABELS, "labels", said, tuple(why or ["other labels, or other images"])),
    )
