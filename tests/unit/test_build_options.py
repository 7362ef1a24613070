"""Options of the build: what they refuse, and that a recipe gives them back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inception_deploy.build_options import SMS, BatchProfile, BuildOptions, unsupported
from inception_deploy.errors import RecipeError
from inception_deploy.recipe import Recipe

EVERYTHING = BuildOptions(
    profiles=(BatchProfile(1, 1, 1), BatchProfile(8, 16, 32)),
    builder_level=5,
    workspace=512,
    aux_streams=0,
    tf32=True,
    timing_cache="timings",
    timing_cache_sha256="0" * 64,
    version_compatible=True,
    hardware_compatible="ampere+",
    stripped=True,
)


def test_defaults_leave_no_trace() -> None:
    assert BuildOptions().to_dict() == {}
    assert "build" not in Recipe().to_dict()
    assert Recipe.from_dict(Recipe().to_dict()).build == BuildOptions()


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(target="tensorrt", build=EVERYTHING),
        Recipe(target="tensorrt-rtx", precision="fp8", build=BuildOptions(sm=(89, 120))),
        Recipe(target="tensorrt-rtx", precision="bf16", build=BuildOptions(sm=SMS[1:])),
    ],
)
def test_a_recipe_gives_them_back(recipe: Recipe, tmp_path: Path) -> None:
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    recipe.save(tmp_path / "recipe.toml")
    assert Recipe.load(tmp_path / "recipe.toml") == recipe


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sm": (90,)}, "sm must be some of 75, 80, 86, 89, 120, 121, not 90"),
        ({"sm": (89, 80, 89)}, "names 89 twice"),
        ({"builder_level": 6}, "0 to 5, not 6"),
        ({"workspace": 0}, "at least 1 MiB"),
        ({"aux_streams": -1}, "not be negative"),
        ({"hardware_compatible": "all"}, "none, ampere\\+, same, not 'all'"),
        ({"timing_cache": "t", "timing_cache_sha256": "abc"}, "64 hexadecimal digits"),
        ({"timing_cache_sha256": "0" * 64}, "pins a file"),
    ],
)
def test_values_that_cannot_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        BuildOptions(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (3, "a table of options, not 3"),
        ({"level": 3}, "unknown build option 'level'; known: .*builder_level"),
        ({"builder_level": "3"}, "builder_level has a value of the wrong type: '3'"),
        ({"builder_level": True}, "wrong type: True"),
        ({"tf32": 1}, "wrong type: 1"),
        ({"sm": [89, "120"]}, "wrong type"),
        ({"profiles": ["8:1"]}, "MIN:OPT:MAX"),
        ({"timing_cache": 3}, "wrong type: 3"),
    ],
)
def test_tables_that_cannot_be_read(values: object, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        BuildOptions.from_dict(values)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"build": BuildOptions(tf32=True)}, "tf32 is for tensorrt and tensorrt-rtx"),
        ({"target": "openvino", "precision": "bf16"}, "bf16 is for tensorrt"),
        ({"target": "tensorrt", "build": BuildOptions(sm=(89,))}, "for the GPU it runs on"),
        (
            {"target": "tensorrt-rtx", "precision": "fp8", "build": BuildOptions(sm=(86, 89))},
            "FP8 needs compute capability 8.9; SM86 has none; leave out 86",
        ),
        (
            {"target": "tensorrt-rtx", "precision": "bf16", "build": BuildOptions(sm=(75,))},
            "BF16 needs compute capability 8; SM75 has none",
        ),
    ],
)
def test_requests_that_contradict_themselves(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe(**fields)


def test_what_gpus_have() -> None:
    assert unsupported("int8", 75) is None
    assert unsupported("fp8", 89) is None
    assert unsupported("fp8", 86) is not None
