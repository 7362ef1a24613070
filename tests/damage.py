"""Files of a bundle changed on disk."""

from __future__ import annotations

import pytest

from inception_deploy.bundle import Bundle
from inception_deploy.deployed import open_deployed
from inception_deploy.errors import BundleError

__all__ = ["assert_not_opened_when_changed"]


def assert_not_opened_when_changed(bundle: Bundle, file: str) -> None:
    """No engine may see `file` without its last byte; the bundle is left as it was."""
    path = bundle.path / file
    kept = path.read_bytes()
    path.write_bytes(kept[:-1])
    try:
        with pytest.raises(BundleError, match="sha256 differs"):
            open_deployed(bundle)
    finally:
        path.write_bytes(kept)
