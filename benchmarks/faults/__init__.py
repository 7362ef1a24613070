"""Ways in which deployments go wrong, one file per family, found by looking into this folder."""

from benchmarks.faults.base import Fault, Planted, Site
from inception_deploy.registry import Registry

__all__ = ["FAULTS", "Fault", "Planted", "Site"]

FAULTS: Registry[Fault] = Registry("fault", "benchmarks.faults", "FAULTS")
