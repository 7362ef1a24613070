"""The state file: what has been measured of the blocks, so that no measurement is made twice.

It lies beside the bundle's directory and is written after every block. Its key says what the
figures hold for; a file with another key is left aside with a note, and replaced.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from inception_deploy.bundle import write_json
from inception_deploy.engines import Engine
from inception_deploy.images import ImageSet
from inception_deploy.machine import describe
from inception_deploy.precisions.int8 import Int8
from inception_deploy.progress import Progress
from inception_deploy.ranges import Ranges

__all__ = ["State", "key_of", "state_path"]

SCHEMA = 1


def state_path(output: Path) -> Path:
    """Where the state file of the bundle in `output` lies: beside it, `NAME.mixing.json`."""
    return output.with_name(f"{output.name}.mixing.json")


@dataclass
class State:
    """Measurements so far, and the file that remembers them.

    Args:
        path: of the file; None keeps everything in memory.
        key: what the figures hold for.
        signal: mean square of the FP32 graph's outputs.
        noise: block → mean squared error of the outputs with only this block in integers.
        whole: the same with all blocks in integers; None before it is measured.
        extra_ms: block → milliseconds per batch that it takes longer in float than in integers.
        int8_ms: milliseconds per batch of the graph with all blocks in integers.
    """

    path: Path | None
    key: Mapping[str, Any]
    signal: float | None = None
    noise: dict[str, float] = field(default_factory=dict)
    whole: float | None = None
    extra_ms: dict[str, float] = field(default_factory=dict)
    int8_ms: float | None = None

    @classmethod
    def load(cls, path: Path | None, key: Mapping[str, Any], progress: Progress) -> State:
        """What `path` remembers for `key`; an empty state where that is nothing."""
        empty = cls(path, dict(key))
        if path is None or not path.exists():
            return empty
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values["schema"] != SCHEMA:
                raise ValueError(f"schema {values['schema']}")
            found = values["key"]
            differs = sorted(name for name in key if found.get(name) != key[name])
            if differs:
                progress.note(f"{path} is of another {differs[0]}; measuring the blocks anew")
                return empty
            state = cls(
                path,
                dict(key),
                None if values["signal"] is None else float(values["signal"]),
                {str(block): float(noise) for block, noise in values["noise"].items()},
                None if values["whole"] is None else float(values["whole"]),
                {str(block): float(extra) for block, extra in values["extra_ms"].items()},
                None if values["int8_ms"] is None else float(values["int8_ms"]),
            )
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            reason = " ".join(str(error).split())
            progress.note(f"{path} is no state file ({reason}); measuring the blocks anew")
            return empty
        progress.note(f"{path} remembers {len(state.noise)} blocks; measuring the rest")
        return state

    def save(self) -> None:
        """Write the file, whole or not at all. Raises `OSError`."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(
            self.path,
            {
                "schema": SCHEMA,
                "key": dict(self.key),
                "signal": self.signal,
                "noise": self.noise,
                "whole": self.whole,
                "extra_ms": self.extra_ms,
                "int8_ms": self.int8_ms,
            },
        )


def key_of(
    model_digest: str, precision: Int8, ranges: Ranges, images: ImageSet, engine: Engine, batch: int
) -> dict[str, Any]:
    """What the figures depend on, each under a name that a message can use."""
    machine = describe()
    settings = f"{precision.placement!r} {precision.bits} {precision.clip_weights}"
    settings += f" {sorted(precision.exclude)}"
    rounded = sorted(precision.rounding.items())
    settings += _digest(b"".join(r.weights.integers.tobytes() for _, r in rounded))
    return {
        "graph": model_digest,
        "range table": _digest(json.dumps(ranges.to_dict(), sort_keys=True).encode()),
        "quantisation": _digest(settings.encode()),
        "set of images": _digest(
            images.dataset.digest.encode() + np.asarray(images.indices, np.int64).tobytes()
        ),
        "engine": f"{engine.name} {engine.availability().version}",
        "machine": f"{machine.cpu}, {machine.cores} cores",
        "batch size": batch,
    }


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
