"""An image at each step of its preprocessing, as small pictures for the report.

A contract in words is easily misread: which side was resized, what the crop cut off, whether the
channels were swapped. The pictures show it on an image of the user's own.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from inception_deploy.preprocess import Preprocessing

__all__ = ["data_url", "preprocessing_pictures"]

SIDE = 176
"""Longer side of a picture at most, pixels."""

_FRAME = (255, 64, 32)


def preprocessing_pictures(
    image: Image.Image, preprocessing: Preprocessing
) -> list[dict[str, Any]]:
    """The steps decode, resize, crop and normalise of one image.

    The crop is framed in the picture of the step before. What the network gets is shown channel by
    channel in its own order, black to white from the least to the greatest value of the image.

    Args:
        image: as decoded, of any size and mode.

    Returns:
        {"name", "detail", "image"} each: a word, what there is to see, a JPEG data URL.
    """
    decoded = image.convert("RGB")
    resized, box = preprocessing.resized(image)
    cropped = resized.crop(box)
    values = preprocessing.normalise(np.asarray(cropped, np.uint8))
    low, high = float(values.min()), float(values.max())
    grey = np.rint(255 * (values - low) / max(high - low, 1e-9)).astype(np.uint8)
    planes = Image.fromarray(np.concatenate(list(grey), axis=1))
    framed = resized.copy()
    ImageDraw.Draw(framed).rectangle(
        (box[0], box[1], box[2] - 1, box[3] - 1),
        outline=_FRAME,
        width=max(round(max(resized.size) / SIDE), 1),
    )
    order = ", ".join(preprocessing.channel_order)
    return [
        _step("decode", f"{decoded.width} × {decoded.height} px, RGB", decoded),
        _step(
            "resize",
            f"{resized.width} × {resized.height} px, {preprocessing.interpolation};"
            " the frame is what the crop keeps",
            framed,
        ),
        _step("crop", f"{cropped.width} × {cropped.height} px", cropped),
        _step("normalise", f"{order}: values from {low:.3g} to {high:.3g}", planes, 3 * SIDE),
    ]


def _step(name: str, detail: str, picture: Image.Image, side: int = SIDE) -> dict[str, Any]:
    return {"name": name, "detail": detail, "image": data_url(picture, side)}


def data_url(picture: Image.Image, side: int) -> str:
    """The picture as a JPEG data URL, no side longer than `side` pixels."""
    small = picture.copy()
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
