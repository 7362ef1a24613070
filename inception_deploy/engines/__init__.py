"""Where a graph runs: one file per engine, ending in its `ENGINES` tuple."""

from inception_deploy.engines.base import (
    Availability,
    Compiled,
    Engine,
    Network,
    Session,
    TensorSpec,
)
from inception_deploy.registry import Registry

__all__ = ["ENGINES", "Availability", "Compiled", "Engine", "Network", "Session", "TensorSpec"]

ENGINES: Registry[Engine] = Registry("engine", "inception_deploy.engines", "ENGINES")
