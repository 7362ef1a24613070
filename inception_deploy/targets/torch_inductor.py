"""PyTorch's own compiler, which makes its kernels from the PyTorch network.

The rewrites that run for every target make `model.onnx`, which is compared block by block; the
package does not come from it, so none that trades one kernel for another can pay.
"""

from __future__ import annotations

from inception_deploy.targets.base import Target

__all__ = ["TARGETS"]

TARGETS = (Target(name="torch-inductor", engine="torch-inductor", placement="onnxruntime"),)
