"""Exact graph rewrites: one file each, ending in its `FUSIONS` tuple."""

from inception_deploy.fusions.base import Example, Fusion, Phase
from inception_deploy.registry import Registry

__all__ = ["FUSIONS", "Example", "Fusion", "Phase"]

FUSIONS: Registry[Fusion] = Registry("fusion", "inception_deploy.fusions", "FUSIONS")
