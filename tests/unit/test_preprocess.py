"""The preprocessing contract: its arithmetic, its sources and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inception_deploy.errors import RecipeError
from inception_deploy.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing


def test_crop_pct_follows_timms_rule() -> None:
    assert Preprocessing.with_crop_pct(299, 0.875).resize == 341
    assert Preprocessing.with_crop_pct(299, 0.8975).resize == 333
    assert Preprocessing.with_crop_pct(224, 0.875).resize == 256
    assert Preprocessing.with_crop_pct(96, 1.0).resize == 96


def test_another_size_keeps_the_ratio_exactly() -> None:
    native = Preprocessing(224, 256, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    assert native.with_size(112) == Preprocessing(112, 128, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    # 49 × (1 / 49) is 0.999… in floating point; the ratio of integers is exact
    assert Preprocessing(49, 49).with_size(107).resize == 107
    for size in range(1, 400):
        resize = Preprocessing(299, 341).with_size(size).resize
        assert resize * 299 <= size * 341 < (resize + 1) * 299


def test_geometry_of_the_crop() -> None:
    # a picture whose red channel counts columns and whose green channel counts rows
    columns, rows = np.meshgrid(np.arange(40, dtype=np.uint8), np.arange(20, dtype=np.uint8))
    image = Image.fromarray(np.stack([columns, rows, rows], -1))
    crop = np.asarray(Preprocessing(10, 20).crop(image))
    assert crop.shape == (10, 10, 3)
    np.testing.assert_array_equal(crop[0, :, 0], np.arange(15, 25))
    np.testing.assert_array_equal(crop[:, 0, 1], np.arange(5, 15))


def test_values_and_channel_order() -> None:
    image = Image.new("RGB", (4, 4), (255, 51, 0))
    plain = Preprocessing(4, 4)(image)
    assert plain.shape == (3, 4, 4)
    assert plain.dtype == np.float32
    assert plain.flags.c_contiguous
    np.testing.assert_allclose(plain[:, 0, 0], [1.0, -0.6, -1.0], atol=1e-6)
    caffe = Preprocessing(
        4, 4, mean=(104.0, 117.0, 123.0), std=(1.0, 1.0, 1.0), channel_order="BGR", pixel_max=255.0
    )
    np.testing.assert_array_equal(caffe(image)[:, 0, 0], [-104.0, -66.0, 132.0])


def test_a_batch_is_normalised_like_its_images() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 5, 3), np.uint8)
    preprocessing = Preprocessing(5, 5, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    together = preprocessing.normalise(pixels)
    assert together.shape == (3, 3, 5, 5)
    for row, image in zip(together, pixels, strict=True):
        np.testing.assert_array_equal(row, preprocessing(Image.fromarray(image)))


def test_normalise_leaves_its_argument_alone() -> None:
    pixels = np.full((2, 2, 3), 7, np.uint8)
    Preprocessing(2, 2, channel_order="BGR").normalise(pixels)
    assert (pixels == 7).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 0, "resize": 0}, "resize 0 must be at least"),
        ({"size": 96, "resize": 95}, "resize 95 must be at least the input size 96"),
        ({"interpolation": "cubic"}, "unknown interpolation 'cubic'; known: nearest, bilinear"),
        ({"channel_order": "RBG"}, "must be RGB or BGR, not 'RBG'"),
        ({"mean": (0.5,)}, "three numbers each"),
        ({"std": (0.5, 0.5, 0.5, 0.5)}, "three numbers each"),
        ({"mean": (0.5, float("nan"), 0.5)}, "mean must be finite"),
        ({"std": (0.5, 0.0, 0.5)}, "std must be finite and positive"),
        ({"std": (0.5, float("inf"), 0.5)}, "std must be finite and positive"),
        ({"pixel_max": 0.0}, "pixel_max must be finite and positive"),
    ],
)
def test_impossible_values_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Preprocessing(**{"size": 96, "resize": 96, **fields})


@pytest.mark.parametrize("crop_pct", [0.0, -1.0, 1.01, float("nan")])
def test_impossible_crop_pct(crop_pct: float) -> None:
    with pytest.raises(RecipeError, match=r"crop_pct must be in \(0, 1\]"):
        Preprocessing.with_crop_pct(299, crop_pct)


TIMM_CONFIG = {
    "input_size": [3, 299, 299],
    "crop_pct": 0.8975,
    "crop_mode": "center",
    "interpolation": "bicubic",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}


def test_from_timm_config() -> None:
    assert Preprocessing.from_timm_config(TIMM_CONFIG) == Preprocessing(299, 333)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_size": None}, "lacks a usable input_size"),
        ({"mean": None}, "lacks a usable input_size, mean or std"),
        ({"input_size": [3, 299, 320]}, "only square inputs"),
        ({"crop_mode": "squash"}, "crop_mode 'squash' is not supported"),
    ],
)
def test_unusable_timm_configs(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Preprocessing.from_timm_config({**TIMM_CONFIG, **changes})


@pytest.mark.parametrize(
    "fields",
    [
        {"resize": 96},
        {"size": 96, "resize": 96, "colour": "RGB"},
        {"size": "96", "resize": 96},
        {"size": 96, "resize": 96, "mean": 0.5},
    ],
)
def test_dictionaries_that_are_no_preprocessing(fields: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="not a preprocessing"):
        Preprocessing.from_dict(fields)


def test_json_is_one_sorted_line() -> None:
    text = Preprocessing(299, 341).to_json()
    assert "\n" not in text
    assert list(json.loads(text)) == sorted(json.loads(text))
    assert Preprocessing.from_dict(json.loads(text)) == Preprocessing(299, 341)
