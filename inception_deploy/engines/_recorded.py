"""Files with native code in them: read only where they are the ones that were recorded."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from inception_deploy.errors import BadInput

__all__ = ["exported_with", "read_recorded"]


def read_recorded(path: Path, sha256: str) -> bytes:
    """The engine file, if it is the one that was recorded: it holds code that will be run.

    What is returned is what was hashed; load these bytes, not the file again.

    Raises:
        BadInput: it is missing, or another one.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}; export the bundle again") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise BadInput(
            f"{path} is not the engine that was exported (sha256 {found[:12]}…, recorded "
            f"{sha256[:12]}…) and is not loaded; export the bundle again"
        )
    return content


def exported_with(model: Path | bytes) -> tuple[Path, str] | None:
    """The engine that a bundle holds for its model, and its recorded sha256.

    Raises:
        BadInput: the bundle's manifest cannot be read.
    """
    if isinstance(model, bytes) or not (model.parent / "manifest.json").is_file():
        return None
    path = model.parent / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        facts, graph = manifest["engine"], manifest["graph"]["file"]
        if facts is None or graph != model.name:
            return None
        return model.parent / facts["file"], str(facts["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"cannot read {path}: {error}; export the bundle again") from error
