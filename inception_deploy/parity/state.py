"""A comparison that survives an interruption: its state file, and going on from it.

The file lies beside the bundle's directory, is written every few seconds and removed when the
comparison is complete. Its key says what the figures hold for; a file with another key is left
aside with a note, and replaced.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from inception_deploy.bundle import write_json
from inception_deploy.dataset import Batch
from inception_deploy.images import ImageSet
from inception_deploy.parity.report import ParityReport
from inception_deploy.parity.tally import Tally
from inception_deploy.progress import Progress

__all__ = ["Compared", "Comparison", "Resumable", "images_digest", "state_path"]

SCHEMA = 1

SECONDS = 5.0
"""Between two writes; what an interruption may lose."""

Comparison: TypeAlias = Callable[
    [Tally | None, Iterable[Batch], int, Callable[[Tally, Batch], bool]], ParityReport
]
"""Runs `comparison.compare`: the tally to go on from, the batches left, how many they are, and what
to call after each; returns the report."""


@dataclass(frozen=True)
class Compared:
    """A finished comparison.

    Args:
        stopped: it ended before the images did.
        resumed: images that were remembered and not compared again.
    """

    report: ParityReport
    tally: Tally
    stopped: bool
    resumed: int


@dataclass
class Resumable:
    """A comparison's state file.

    Args:
        path: of the file; None keeps everything in memory.
        key: what the figures hold for, each part under a name that a message can use.
        seconds: between two writes.
        clock: seconds, monotonic.
    """

    path: Path | None = None
    key: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = SECONDS
    clock: Callable[[], float] = time.monotonic

    def run(
        self,
        compare: Comparison,
        images: ImageSet,
        *,
        progress: Progress,
        enough: Callable[[Tally], bool] | None = None,
    ) -> Compared:
        """Compare the images that no state file remembers.

        Args:
            images: all of them, in the order in which they are taken.
            enough: looked at after every batch; True ends the comparison.

        Raises:
            DataError, StageError: as `comparison.compare`.
        """
        tally, done = self._load(images, progress)
        resumed = 0 if tally is None else tally.images
        kept: list[Tally] = [] if tally is None else [tally]
        ended = tally is not None and enough is not None and enough(tally)
        written = self.clock()

        def after(now: Tally, batch: Batch) -> bool:
            nonlocal done, ended, written
            last = int(batch.indices[-1])  # images left out as unreadable count as done
            while int(images.indices[done]) != last:
                done += 1
            done += 1
            kept[:] = [now]
            ended = enough is not None and done < len(images) and enough(now)
            if not ended and self.clock() - written >= self.seconds:
                self._save(now, done, images)
                written = self.clock()
            return ended

        left = replace(images, indices=images.indices[len(images) if ended else done :])
        try:
            report = compare(tally, left.batches(), left.batch_count(), after)
        except BaseException:
            if kept and kept[0].whole:
                self._save(kept[0], done, images)
            raise
        if self.path is not None:
            self.path.unlink(missing_ok=True)
        return Compared(report, kept[0], ended, resumed)

    def _load(self, images: ImageSet, progress: Progress) -> tuple[Tally | None, int]:
        if self.path is None or not self.path.exists():
            return None, 0
        try:
            values = json.loads(self.path.read_text(encoding="utf-8"))
            if values["schema"] != SCHEMA:
                raise ValueError(f"schema {values['schema']}")
            differs = sorted(n for n in self.key if values["key"].get(n) != self.key[n])
            if differs:
                progress.note(f"{self.path} is of another {differs[0]}; comparing from the start")
                return None, 0
            tally, done = Tally.from_dict(values["tally"]), int(values["done"])
            images.skipped.extend(str(name) for name in values["skipped"])
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            reason = " ".join(str(error).split())
            progress.note(f"{self.path} is no state file ({reason}); comparing from the start")
            return None, 0
        progress.note(f"{self.path} remembers {tally.images:,} images; comparing the rest")
        return tally, done

    def _save(self, tally: Tally, done: int, images: ImageSet) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(
            self.path,
            {
                "schema": SCHEMA,
                "key": dict(self.key),
                "done": done,
                "skipped": list(images.skipped),
                "tally": tally.to_dict(),
            },
        )


def state_path(bundle: Path, command: str) -> Path:
    """Where the state file of a command on a bundle lies: beside it, `NAME.compare.json`."""
    resolved = bundle.resolve()
    return resolved.with_name(f"{resolved.name}.{command}.json")


def images_digest(images: ImageSet) -> str:
    """sha256 of which images are compared, in which order and how they are prepared."""
    facts = f"{images.dataset.digest} {images.preprocessing!r} {images.use_labels}"
    return hashlib.sha256(
        facts.encode() + np.asarray(images.indices, np.int64).tobytes()
    ).hexdigest()
