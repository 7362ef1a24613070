"""ONNX Runtime on a CPU."""

from __future__ import annotations

from inception_deploy.targets.base import Choice, Target

__all__ = ["TARGETS"]

TARGETS = (
    Target(
        name="onnxruntime",
        engine="onnxruntime",
        placement="onnxruntime",
        choices=(
            Choice(
                "pool_projection",
                ("int8",),
                "pools move fewer channels",
                "rewrites.json#pool_projection",
            ),
            Choice(
                "pool_as_conv",
                ("int8",),
                "QLinearAveragePool is slow; a depthwise QLinearConv is not",
                "rewrites.json#pool_as_conv",
            ),
        ),
    ),
)
