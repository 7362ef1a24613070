"""OpenVINO on a CPU."""

from __future__ import annotations

from inception_deploy.targets.base import Target

__all__ = ["TARGETS"]

TARGETS = (Target(name="openvino", engine="openvino", placement="openvino"),)
