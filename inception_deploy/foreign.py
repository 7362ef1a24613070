"""References from outside the registry: an ONNX file, or a PyTorch module of the user's own.

They bring no preprocessing, and none is guessed: it comes from the options, from a network of the
registry named beside them, or from the metadata of a file that this tool has written.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import nn

from inception_deploy.errors import RecipeError
from inception_deploy.graphs import METADATA_PREFIX
from inception_deploy.networks import NETWORKS
from inception_deploy.onnx_file import OnnxNetwork, recorded
from inception_deploy.preprocess import Preprocessing
from inception_deploy.recipe import Recipe
from inception_deploy.reference import Reference, WeightsInfo, overridden
from inception_deploy.user_module import UserNetwork

__all__ = ["module_reference", "onnx_reference"]


def onnx_reference(recipe: Recipe) -> Reference:
    """The file `recipe.onnx` as the reference.

    Raises:
        CheckpointError: no usable FP32 graph.
        RecipeError: nothing says how images become its inputs, or options do not fit it.
    """
    assert recipe.onnx is not None
    path = Path(recipe.onnx).expanduser()
    hint = _of_network(recipe)
    network = OnnxNetwork(path, recipe.image_size or (hint.size if hint else None))
    written = recorded(network.model, METADATA_PREFIX + "preprocessing")
    if isinstance(written, dict):
        hint = Preprocessing.from_dict(written)
    preprocessing = _preprocessing(recipe, hint, network.side, str(path))
    names = recorded(network.model, METADATA_PREFIX + "class_names")
    network.head = recipe.head
    _check_classes(recipe, network.num_classes, str(path))
    info = WeightsInfo(
        source=path.name,
        layout="onnx",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        num_classes=network.num_classes,
        trained=True,
        detail=f"ONNX file, {network.num_classes} outputs, {len(network.model.graph.node)} nodes",
    )
    return Reference(
        None,
        network,
        preprocessing,
        tuple(map(str, names)) if isinstance(names, list) and names else None,
        info,
        called=path.stem,
        framework="onnx",
    )


def module_reference(recipe: Recipe, module: nn.Module) -> Reference:
    """`module` as the reference; see `UserNetwork` for what it must be like.

    Raises:
        RecipeError: as `UserNetwork`; or nothing says how images become its inputs.
    """
    if recipe.weights is not None or recipe.onnx is not None:
        raise RecipeError("a module brings its own weights; leave weights and onnx unset")
    called = type(module).__name__
    hint = _of_network(recipe)
    side = recipe.image_size or (hint.size if hint else None)
    if side is None:
        raise RecipeError(f"say which image size {called} takes: Recipe(image_size=…)")
    network = UserNetwork(module, torch.zeros(2, 3, side, side))
    network.head = recipe.head
    preprocessing = _preprocessing(recipe, hint, side, called)
    _check_classes(recipe, network.num_classes, called)
    info = WeightsInfo(
        source=f"module:{called}",
        layout=None,
        sha256=None,
        num_classes=network.num_classes,
        trained=True,
        detail=f"module in memory, {network.num_classes} outputs",
    )
    network.requires_grad_(False)
    return Reference(None, network, preprocessing, None, info, called=called)


def _of_network(recipe: Recipe) -> Preprocessing | None:
    """The preprocessing of the registered network that is named as an example."""
    return None if recipe.network is None else NETWORKS.get(recipe.network).preprocessing


def _preprocessing(
    recipe: Recipe, hint: Preprocessing | None, side: int, what: str
) -> Preprocessing:
    if hint is None and (recipe.mean is None or recipe.std is None):
        raise RecipeError(
            f"{what} does not say how images become its inputs; give --mean and --std, or name a "
            "NETWORK that is preprocessed alike"
        )
    base = hint or Preprocessing.with_crop_pct(side, 0.875)
    return overridden(
        base,
        image_size=side,
        mean=recipe.mean,
        std=recipe.std,
        crop_pct=recipe.crop_pct,
        interpolation=recipe.interpolation,
    )


def _check_classes(recipe: Recipe, found: int, what: str) -> None:
    if recipe.num_classes not in (None, found):
        raise RecipeError(
            f"{what} has {found} outputs, {recipe.num_classes} classes were asked for"
        )
