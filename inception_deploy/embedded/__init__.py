"""The small trained networks shipped with the package: weights beside their facts."""

from __future__ import annotations

from pathlib import Path

__all__ = ["EMBEDDED_DIR"]

EMBEDDED_DIR = Path(__file__).parent
