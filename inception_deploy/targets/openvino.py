"""OpenVINO on a CPU."""

from __future__ import annotations

from inception_deploy.targets.base import Choice, Target

__all__ = ["TARGETS"]

TARGETS = (
    Target(
        name="openvino",
        engine="openvino",
        placement="openvino",
        choices=(
            Choice(
                "pool_projection",
                ("int8",),
                "with the pool as a convolution: Inception v3 4 % faster at batch 8",
                "rewrites.json#pool_projection",
            ),
            Choice(
                "pool_as_conv",
                ("int8",),
                "takes the moved bias along, which would be added in float behind a pool",
                "rewrites.json#pool_as_conv",
            ),
        ),
    ),
)
