from __future__ import annotations

from pathlib import Path

import pytest

from inception_deploy.errors import RecipeError
from inception_deploy.recipe import BatchProfile, Recipe


def test_round_trip_through_toml(tmp_path: Path) -> None:
    recipe = Recipe(
        network="inception_v3",
        weights="random:3",
        mean=(0.1, 0.2, 0.3),
        batch=BatchProfile(1, 4, 16),
        precision="fp16",
        max_drop=0.5,
    )
    path = tmp_path / "recipe.toml"
    recipe.save(path)
    assert Recipe.load(path) == recipe


def test_weights_default_to_embedded_only_without_a_network() -> None:
    assert Recipe().weights_source == "embedded"
    assert Recipe(network="inception_v3").weights_source == "pretrained"
    assert Recipe(network="inception_v3", weights="x.pth").weights_source == "x.pth"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("8", BatchProfile(8, 8, 8)), ("1:8:32", BatchProfile(1, 8, 32))],
)
def test_batch_profile(text: str, expected: BatchProfile) -> None:
    assert BatchProfile.parse(text) == expected
    assert BatchProfile.parse(str(expected)) == expected


@pytest.mark.parametrize("text", ["", "0", "8:1:32", "1:2", "a:b:c", "1:8:-3", "1.5"])
def test_bad_batch_profiles_are_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="MIN:OPT:MAX"):
        BatchProfile.parse(text)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"precision": "fp17"}, "precision must be one of"),
        ({"target": "abacus"}, "target must be one of"),
        ({"head": "tail"}, "head must be one of"),
        ({"weight_rounding": "down"}, "weight_rounding must be one of gptq, nearest"),
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"max_drop": -1.0}, "max_drop must be 0 to 100"),
        ({"max_drop": 1.0, "head": "features"}, "cannot be asked of --head features"),
        ({"seconds": -1.0}, "seconds must not be negative"),
        ({"colour": "red"}, "unknown recipe field 'colour'"),
    ],
)
def test_bad_fields_are_refused_by_name(fields: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.from_dict(fields)


def test_unreadable_recipe_files(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot read recipe"):
        Recipe.load(tmp_path / "missing.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("network = ?\n")
    with pytest.raises(RecipeError, match=r"not valid TOML.*line 1"):
        Recipe.load(broken)
