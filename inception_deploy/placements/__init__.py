"""Where quantisers go: one file per target, ending in its `PLACEMENTS` tuple."""

from inception_deploy.placements.base import Placement, Plan, Rule
from inception_deploy.registry import Registry

__all__ = ["PLACEMENTS", "Placement", "Plan", "Rule"]

PLACEMENTS: Registry[Placement] = Registry("placement", "inception_deploy.placements", "PLACEMENTS")
