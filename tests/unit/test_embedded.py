"""The shipped networks are what their cards and the documentation say."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from inception_deploy.dataset import batches, open_dataset
from inception_deploy.embedded import EMBEDDED_DIR
from inception_deploy.networks import NETWORKS
from inception_deploy.preprocess import Preprocessing
from inception_deploy.shapes import CLASS_NAMES

CARDS = {path.stem: json.loads(path.read_text()) for path in sorted(EMBEDDED_DIR.glob("*.json"))}
DOCUMENT = Path(__file__).parents[2] / "docs" / "embedded.md"
SAMPLE = 240

every_network = pytest.mark.parametrize("name", CARDS)


def test_both_topologies_are_shipped() -> None:
    assert set(CARDS) == {"googlenet", "inception_resnet_v2"}
    assert {path.stem for path in EMBEDDED_DIR.glob("*.safetensors")} == set(CARDS)


@every_network
def test_the_file_is_the_one_that_was_trained(name: str) -> None:
    data = (EMBEDDED_DIR / f"{name}.safetensors").read_bytes()
    assert hashlib.sha256(data).hexdigest() == CARDS[name]["sha256"]
    assert len(data) == CARDS[name]["bytes"] <= 4_000_000


@every_network
def test_the_card_describes_the_task(name: str) -> None:
    card = CARDS[name]
    assert card["network"] == name
    assert card["data"] == "shapes"
    assert tuple(card["class_names"]) == CLASS_NAMES
    assert card["num_classes"] == len(CLASS_NAMES)
    assert Preprocessing.from_dict(card["preprocessing"]).size == card["image_size"]
    assert 90 <= card["top1"] <= 99
    assert card["val_images"] >= 5_000


def rebuilt(card: dict[str, Any]) -> torch.nn.Module:
    network = NETWORKS.get(card["network"]).build(
        num_classes=card["num_classes"], width=card["width"], **card["build"]
    )
    tensors = safetensors.torch.load_file(EMBEDDED_DIR / f"{card['network']}.safetensors")
    network.load_state_dict(tensors, strict=True)
    assert sum(p.numel() for p in network.parameters()) == card["parameters"]
    return network.eval()


@every_network
def test_the_stated_accuracy_holds(name: str) -> None:
    """On the first images of the val split, within three standard errors of the stated top-1."""
    card = CARDS[name]
    network = rebuilt(card)
    dataset = open_dataset(
        "shapes", seed=card["data_seed"], size=SAMPLE, image_size=card["image_size"]
    )
    hits = 0
    with torch.inference_mode():
        for batch in batches(dataset, Preprocessing.from_dict(card["preprocessing"]), 60):
            predicted = network(torch.from_numpy(batch.inputs)).argmax(1).numpy()
            hits += int(np.count_nonzero(predicted == batch.labels))
    stated = card["top1"] / 100
    assert abs(hits / SAMPLE - stated) <= 3 * math.sqrt(stated * (1 - stated) / SAMPLE)


@every_network
def test_trained_weights_are_finite_single_precision(name: str) -> None:
    for key, tensor in safetensors.torch.load_file(EMBEDDED_DIR / f"{name}.safetensors").items():
        counter = key.endswith("num_batches_tracked")
        assert tensor.dtype == (torch.int64 if counter else torch.float32), key
        assert bool(torch.isfinite(tensor).all()), key


def test_residual_blocks_of_every_kind_are_present() -> None:
    names = {key for key, _ in rebuilt(CARDS["inception_resnet_v2"]).named_children()}
    assert {"repeat", "repeat_1", "repeat_2", "block8"} <= names
    assert all(count >= 2 for count in CARDS["inception_resnet_v2"]["build"]["repeats"])


def row(card: dict[str, Any]) -> str:
    """The card's line in the table of docs/embedded.md."""
    training = card["training"]
    return (
        f"| `{card['network']}` | {card['width']:g} | {card['parameters']:,} "
        f"| {card['bytes'] / 1e6:.2f} MB | {card['top1']:.2f} % of {card['val_images']:,} "
        f"| {training['images']:,} × {training['epochs']} | {training['minutes']:.0f} min |"
    )


@every_network
def test_the_documentation_shows_the_figures_of_the_card(name: str) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert row(CARDS[name]) in text
    assert CARDS[name]["sha256"][:16] in text
    assert CARDS[name]["training"]["hardware"] in text


def test_the_documentation_shows_no_other_networks() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(CARDS)
