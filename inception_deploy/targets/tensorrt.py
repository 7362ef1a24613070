"""TensorRT and TensorRT-RTX on NVIDIA GPUs.

What pays there has not been measured: that takes the GPU. So only a rewrite runs that leaves less
to compute, whatever computes it; one that trades one kernel for another waits for figures.
"""

from __future__ import annotations

from inception_deploy.targets.base import Choice, Target

__all__ = ["TARGETS"]

_CHOICES = (
    Choice(
        "pool_projection",
        ("fp32", "fp16", "bf16"),
        "counted, not timed: the pool reads and writes fewer channels; INT8 pools bytes as it is",
        "build_matrix.json#pool_projection",
    ),
)

TARGETS = (
    Target(name="tensorrt", engine="tensorrt", placement="tensorrt", choices=_CHOICES),
    Target(name="tensorrt-rtx", engine="tensorrt-rtx", placement="tensorrt", choices=_CHOICES),
)
