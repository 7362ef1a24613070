"""Factors that a graph's channels are stored with, where they were made alike for eight bits.

A tensor of such a graph holds the network's values, each channel times a factor of its own. The
graph says so in its metadata, so that whoever looks at a tensor by its name can undo it: blocks are
always compared in the network's own values.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from inception_deploy.errors import StageError
from inception_deploy.graphs import METADATA_PREFIX, metadata, set_metadata

__all__ = ["KEY", "STEPS", "ChannelScales"]

KEY = f"{METADATA_PREFIX}channel_scales"

STEPS = 8
"""Per octave: a factor is 2^(k/8), so that one byte per channel says it exactly."""


@dataclass(frozen=True)
class ChannelScales:
    """What channels were multiplied by.

    Args:
        exponents: tensor → k of each channel, uint8 (C,); tensors that are missing are unscaled.
    """

    exponents: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.exponents)

    def factors(self, tensor: str) -> NDArray[np.float64] | None:
        """What the channels of `tensor` are multiplied by, (C,); None where by nothing."""
        known = self.exponents.get(tensor)
        return None if known is None else np.exp2(known / STEPS)

    def restored(self, tensor: str, values: NDArray[Any]) -> NDArray[Any]:
        """The network's values, from what a graph holds under the name `tensor`, (N, C, …).

        Raises:
            StageError: the tensor has another number of channels.
        """
        factors = self.factors(tensor)
        if factors is None:
            return values
        if values.ndim < 2 or values.shape[1] != len(factors):
            raise StageError(
                f"'{tensor}' has shape {values.shape}, but the graph's metadata scales "
                f"{len(factors)} channels; the graph was changed after its export"
            )
        each = factors.astype(np.float32).reshape(1, -1, *[1] * (values.ndim - 2))
        return np.asarray(values / each)

    def write(self, model: onnx.ModelProto) -> None:
        """Say so in the metadata of `model` (in place). Tensors of equal factors share an entry."""
        places: dict[bytes, int] = {}
        tensors = {
            name: places.setdefault(k.tobytes(), len(places)) for name, k in self.exponents.items()
        }
        vectors = [base64.b64encode(vector).decode("ascii") for vector in places]
        text = json.dumps({"steps": STEPS, "vectors": vectors, "tensors": tensors})
        set_metadata(model, {**metadata(model), KEY: text})

    @classmethod
    def of(cls, model: onnx.ModelProto) -> ChannelScales:
        """What the metadata of `model` says; nothing is scaled where it says nothing.

        Raises:
            StageError: it cannot be read.
        """
        text = metadata(model).get(KEY)
        if text is None:
            return cls()
        try:
            entry = json.loads(text)
            if entry["steps"] != STEPS:
                raise ValueError(f"{entry['steps']} steps per octave")
            stored = [base64.b64decode(vector, validate=True) for vector in entry["vectors"]]
            vectors = [np.frombuffer(vector, np.uint8) for vector in stored]
            places = dict(entry["tensors"])
            return cls({str(name): vectors[place] for name, place in places.items()})
        except (ValueError, KeyError, TypeError, IndexError, binascii.Error) as error:
            raise StageError(
                f"the metadata '{KEY}' cannot be read ({error}); export the bundle again"
            ) from error
