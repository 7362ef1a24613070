"""For any image and settings, preprocessing is torchvision's evaluation transform, bit for bit."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import timm.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from inception_deploy.preprocess import Interpolation, Preprocessing

MODES: dict[Interpolation, InterpolationMode] = {
    "nearest": InterpolationMode.NEAREST,
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "lanczos": InterpolationMode.LANCZOS,
}

channel = st.tuples(*[st.floats(0.0, 1.0, width=32)] * 3)
spread = st.tuples(*[st.floats(0.125, 2.0, width=32)] * 3)


@st.composite
def preprocessings(draw: st.DrawFn) -> Preprocessing:
    size = draw(st.integers(1, 60))
    return Preprocessing(
        size=size,
        resize=draw(st.integers(size, 2 * size)),
        interpolation=draw(st.sampled_from(list(MODES))),
        mean=draw(channel),
        std=draw(spread),
        channel_order=draw(st.sampled_from(["RGB", "BGR"])),
        pixel_max=draw(st.sampled_from([1.0, 255.0])),
    )


@st.composite
def images(draw: st.DrawFn) -> Image.Image:
    width, height = draw(st.integers(1, 120)), draw(st.integers(1, 120))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


@given(images(), preprocessings())
@settings(deadline=None, max_examples=200)
def test_equal_to_torchvision(image: Image.Image, preprocessing: Preprocessing) -> None:
    theirs = transforms.Compose(
        [
            transforms.Resize(preprocessing.resize, MODES[preprocessing.interpolation]),
            transforms.CenterCrop(preprocessing.size),
            transforms.ToTensor(),
            transforms.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )
    # torchvision has neither of these two
    comparable = Preprocessing.from_dict(
        {**preprocessing.to_dict(), "channel_order": "RGB", "pixel_max": 1.0}
    )
    np.testing.assert_array_equal(comparable(image), theirs(image).numpy())


@given(preprocessings())
def test_a_round_trip_through_json_changes_nothing(preprocessing: Preprocessing) -> None:
    assert Preprocessing.from_dict(json.loads(preprocessing.to_json())) == preprocessing
    assert Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing


@given(images(), preprocessings())
@settings(deadline=None)
def test_any_image_yields_one_network_input(
    image: Image.Image, preprocessing: Preprocessing
) -> None:
    values = preprocessing(image)
    assert values.shape == (3, preprocessing.size, preprocessing.size)
    assert values.dtype == np.float32
    assert np.isfinite(values).all()


@given(images(), preprocessings())
@settings(deadline=None)
def test_bgr_is_rgb_with_its_planes_reversed(
    image: Image.Image, preprocessing: Preprocessing
) -> None:
    fields = preprocessing.to_dict()
    rgb = Preprocessing.from_dict({**fields, "channel_order": "RGB"})
    bgr = Preprocessing.from_dict(
        {
            **fields,
            "channel_order": "BGR",
            "mean": rgb.mean[::-1],
            "std": rgb.std[::-1],
        }
    )
    np.testing.assert_array_equal(rgb(image)[::-1], bgr(image))


@st.composite
def timm_configs(draw: st.DrawFn) -> dict[str, Any]:
    size = draw(st.sampled_from([75, 96, 224, 299]))
    return {
        "input_size": (3, size, size),
        "crop_pct": draw(st.sampled_from([0.75, 0.875, 0.8975, 0.9, 0.95, 1.0])),
        "crop_mode": "center",
        "interpolation": draw(st.sampled_from(["bilinear", "bicubic"])),
        "mean": draw(channel),
        "std": draw(spread),
    }


@given(images(), timm_configs())
@settings(deadline=None, max_examples=60)
def test_equal_to_timms_transform_of_the_same_config(
    image: Image.Image, config: dict[str, Any]
) -> None:
    transform = timm.data.create_transform(**config, is_training=False)
    expected = transform(image)
    assert isinstance(expected, torch.Tensor)
    np.testing.assert_array_equal(Preprocessing.from_timm_config(config)(image), expected.numpy())
