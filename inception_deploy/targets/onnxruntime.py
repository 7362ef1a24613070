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
                "QLinearAveragePool is slow, and then has fewer channels; FP32's is not slow",
                "rewrites.json#pool_projection",
            ),
            Choice(
                "pool_as_conv",
                ("int8",),
                "a depthwise QLinearConv is faster than QLinearAveragePool, and takes the bias",
                "rewrites.json#pool_as_conv",
            ),
            Choice(
                "pool_edges",
                ("int8",),
                "so is it for pools that leave the padding out: Inception v4 has fourteen",
                "rewrites.json#pool_edges",
            ),
            Choice(
                "aligned_depthwise",
                ("int8",),
                "the integer kernel computes 16 channels at once, and the rest one by one",
                "rewrites.json#aligned_depthwise",
            ),
            Choice(
                "lrn_as_conv",
                ("fp32", "fp16", "int8"),
                "its LRN raises to a power on one thread: half of the paper's GoogLeNet",
                "rewrites.json#lrn_as_conv",
            ),
            Choice(
                "sibling_merge",
                (),
                "Split copies what the merged convolution saves, and in FP32 more than that",
                "rewrites.json#sibling_merge/pool_as_conv",
            ),
        ),
    ),
)
