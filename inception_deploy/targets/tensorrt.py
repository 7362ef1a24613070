"""TensorRT and TensorRT-RTX on NVIDIA GPUs.

What pays there has not been measured: that takes the GPU. Until then only the rewrites run that
leave less to compute whatever computes it; one that trades one kernel for another waits.
"""

from __future__ import annotations

from inception_deploy.targets.base import Target

__all__ = ["TARGETS"]

TARGETS = (
    Target(name="tensorrt", engine="tensorrt", placement="tensorrt"),
    Target(name="tensorrt-rtx", engine="tensorrt-rtx", placement="tensorrt"),
)
