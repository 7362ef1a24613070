"""What a graph is made for: one file per target, ending in its `TARGETS` tuple."""

from inception_deploy.registry import Registry
from inception_deploy.targets.base import Choice, Target

__all__ = ["TARGETS", "Choice", "Target"]

TARGETS: Registry[Target] = Registry("target", "inception_deploy.targets", "TARGETS")
