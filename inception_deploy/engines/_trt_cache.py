"""Engines that were built before, and their kernels, in the user's cache directory.

Two builds of one graph differ in their bytes, so an entry is found by what went in: graph, options,
library, target. It is written beside and renamed, and its sha256 is checked before it is used: an
engine holds code.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["VARIABLE", "BuildCache", "cache_directory", "cache_key"]

VARIABLE = "INCEPTION_DEPLOY_CACHE"
"""Environment variable that moves the cache."""


def cache_directory(kind: str = "engines") -> Path:
    """Of built engines, or another kind: $INCEPTION_DEPLOY_CACHE, else below the user's cache."""
    moved = os.environ.get(VARIABLE)
    if moved:
        return Path(moved).expanduser() / kind
    base = os.environ.get("XDG_CACHE_HOME")
    root = Path(base) if base else Path.home() / ".cache"
    return root / "inception-deploy" / kind


def cache_key(graph: bytes, facts: Mapping[str, Any]) -> str:
    """sha256 of a graph's bytes and of everything else that decides what is built."""
    digest = hashlib.sha256(hashlib.sha256(graph).digest())
    digest.update(json.dumps(facts, sort_keys=True).encode())
    return digest.hexdigest()


class BuildCache:
    """One directory; an entry is KEY.engine and KEY.json, which holds its sha256."""

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory or cache_directory()

    def read(self, key: str) -> tuple[bytes, dict[str, Any]] | None:
        """An engine and what was noted with it; None where there is none, or it is damaged."""
        try:
            noted = json.loads((self.directory / f"{key}.json").read_text(encoding="utf-8"))
            plan = (self.directory / f"{key}.engine").read_bytes()
        except (OSError, ValueError):
            return None
        if not isinstance(noted, dict) or hashlib.sha256(plan).hexdigest() != noted.get("sha256"):
            return None
        return plan, noted

    def write(self, key: str, plan: bytes, notes: Mapping[str, Any]) -> str | None:
        """Keep an engine; one line where that cannot be, which harms nothing but the next build."""
        noted = {**notes, "sha256": hashlib.sha256(plan).hexdigest()}
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._replace(f"{key}.engine", plan)
            self._replace(f"{key}.json", json.dumps(noted).encode())
        except OSError as error:
            return f"what was built cannot be kept in {self.directory}: {error.strerror}"
        return None

    def _replace(self, name: str, content: bytes) -> None:
        handle, temporary = tempfile.mkstemp(dir=self.directory, prefix=f".{name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(temporary).replace(self.directory / name)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise
