"""Shared set-up: torchvision's operators declared before anything imports it."""

from __future__ import annotations

import torch
from hypothesis import settings

# torchvision's compiled operators belong to another torch build than a CPU one from the registry;
# its Python import only needs their schemas to exist. Kept alive for the whole session.
_TORCHVISION_OPS = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, _name):
        _TORCHVISION_OPS.define(
            f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )

# one thread: these networks are small, and idle threads of PyTorch and ONNX Runtime spin against
# each other on few cores
torch.set_num_threads(1)

# CI shares its two cores: a slow example says nothing about the code under test.
settings.register_profile("inception-deploy", deadline=None, print_blob=True)
settings.load_profile("inception-deploy")
