"""The card beside a weights file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inception_deploy.errors import CheckpointError
from inception_deploy.model_card import ModelCard
from inception_deploy.preprocess import Preprocessing

CARD = ModelCard(
    network="inception_resnet_v2",
    width=0.25,
    num_classes=2,
    class_names=("circle", "square"),
    image_size=96,
    preprocessing=Preprocessing(size=96, resize=110),
    sha256="ab" * 32,
    build={"repeats": [1, 2, 1]},
    data="shapes",
    top1=96.5,
    training={"seed": 0},
)


def write(folder: Path, content: str, weights: str = "net.safetensors") -> Path:
    (folder / "net.json").write_text(content)
    return folder / weights


def test_it_survives_json(tmp_path: Path) -> None:
    assert ModelCard.beside(write(tmp_path, json.dumps(CARD.to_dict()))) == CARD


def test_the_last_four_fields_are_optional(tmp_path: Path) -> None:
    content = CARD.to_dict()
    for name in ("build", "data", "top1", "training"):
        del content[name]
    card = ModelCard.beside(write(tmp_path, json.dumps(content)))
    assert card is not None
    assert (card.build, card.data, card.top1, card.training) == ({}, None, None, {})


def test_no_card(tmp_path: Path) -> None:
    assert ModelCard.beside(tmp_path / "net.safetensors") is None
    assert ModelCard.beside(write(tmp_path, "{}", "net.pth")) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": None}, "not a usable model card"),
        ({"width": "wide"}, "wide"),
        ({"class_names": ["circle"]}, "1 class names for 2 classes"),
        ({"image_size": 64}, "image_size 64, but a preprocessing to 96"),
        ({"preprocessing": {"size": 96}}, "not a preprocessing"),
        ({"preprocessing": 3}, "not a usable model card"),
    ],
)
def test_cards_that_cannot_be_used(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    weights = write(tmp_path, json.dumps(CARD.to_dict() | change))
    with pytest.raises(CheckpointError, match=words) as caught:
        ModelCard.beside(weights)
    assert "net.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["network", "width", "class_names", "preprocessing", "sha256"])
def test_missing_fields_are_named(tmp_path: Path, field: str) -> None:
    content = CARD.to_dict()
    del content[field]
    with pytest.raises(CheckpointError, match=f"lacks '{field}'"):
        ModelCard.beside(write(tmp_path, json.dumps(content)))


@pytest.mark.parametrize("content", ["", "{", "[]", "3"])
def test_files_that_are_no_card(tmp_path: Path, content: str) -> None:
    with pytest.raises(CheckpointError, match="not a usable model card"):
        ModelCard.beside(write(tmp_path, content))
