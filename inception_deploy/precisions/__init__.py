"""Number formats a graph can be lowered to: one file each, ending in its `PRECISIONS` tuple."""

from inception_deploy.precisions.base import Lowering, Precision
from inception_deploy.registry import Registry

__all__ = ["PRECISIONS", "Lowering", "Precision"]

PRECISIONS: Registry[Precision] = Registry("precision", "inception_deploy.precisions", "PRECISIONS")
