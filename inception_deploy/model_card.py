"""The card beside a weights file of ours: what the tensors alone cannot say.

`NAME.safetensors` and `NAME.json` travel together. The card names the network, its width and other
constructor arguments, the preprocessing, the classes, and the file's digest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from inception_deploy.errors import CheckpointError, RecipeError
from inception_deploy.preprocess import Preprocessing

__all__ = ["ModelCard"]


@dataclass(frozen=True)
class ModelCard:
    """What a weights file was trained as.

    Args:
        network: the network's name.
        width: width multiplier of every channel count.
        num_classes: rows of the classifier.
        class_names: in the classifier's order; as many as `num_classes`.
        image_size: side of the square input it was trained for, pixels.
        preprocessing: what its inputs went through.
        build: further constructor arguments, e.g. `{"repeats": [2, 4, 2]}`.
        sha256: of the weights file, hexadecimal.
        data: name of the built-in data set it was trained on ("shapes"), None for other data.
        top1: validation top-1, percent.
        training: how it was trained; recorded, not interpreted.
    """

    network: str
    width: float
    num_classes: int
    class_names: tuple[str, ...]
    image_size: int
    preprocessing: Preprocessing
    sha256: str
    build: Mapping[str, Any] = field(default_factory=dict)
    data: str | None = None
    top1: float | None = None
    training: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def beside(cls, weights: Path) -> Self | None:
        """The card of a weights file; None when there is no such file.

        Raises:
            CheckpointError: for a card that cannot be read or contradicts itself.
        """
        path = weights.with_suffix(".json")
        if weights.suffix != ".safetensors" or not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls.from_dict(content)
        except (OSError, ValueError, TypeError, KeyError, RecipeError) as error:
            kind = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise CheckpointError(
                f"{path} is not a usable model card ({kind}); remove it or restore it"
            ) from error

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises `KeyError`, `TypeError`, `ValueError`, `RecipeError`."""
        card = cls(
            network=str(content["network"]),
            width=float(content["width"]),
            num_classes=int(content["num_classes"]),
            class_names=tuple(content["class_names"]),
            image_size=int(content["image_size"]),
            preprocessing=Preprocessing.from_dict(dict(content["preprocessing"])),
            sha256=str(content["sha256"]),
            build=dict(content.get("build", {})),
            data=content.get("data"),
            top1=None if content.get("top1") is None else float(content["top1"]),
            training=dict(content.get("training", {})),
        )
        if len(card.class_names) != card.num_classes:
            raise ValueError(f"{len(card.class_names)} class names for {card.num_classes} classes")
        if card.preprocessing.size != card.image_size:
            raise ValueError(
                f"image_size {card.image_size}, but a preprocessing to {card.preprocessing.size}"
            )
        return card

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, in the order a reader wants them."""
        return {
            "network": self.network,
            "width": self.width,
            "num_classes": self.num_classes,
            "class_names": list(self.class_names),
            "image_size": self.image_size,
            "preprocessing": self.preprocessing.to_dict(),
            "build": dict(self.build),
            "sha256": self.sha256,
            "data": self.data,
            "top1": self.top1,
            "training": dict(self.training),
        }
