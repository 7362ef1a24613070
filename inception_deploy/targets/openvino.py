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
                ("fp32", "fp16", "int8"),
                "the pool has fewer channels then: 3 % of Inception v4 in INT8 at batch 8",
                "rewrites.json#pool_projection",
            ),
            Choice(
                "pool_as_conv",
                ("int8",),
                "takes the moved bias along, which would be added in float behind a pool",
                "rewrites.json#pool_as_conv",
            ),
            Choice(
                "pool_edges",
                (),
                "its average pool leaves padding out as fast as it counts it",
                "rewrites.json#pool_edges",
            ),
            Choice(
                "sibling_merge",
                (),
                "the merged convolution's Split is a copy: BN-Inception loses 8 % at batch 8",
                "rewrites.json#sibling_merge",
            ),
        ),
    ),
)
