"""torchvision's compiled operators, or their schemas where they cannot be loaded.

timm and the reference models import torchvision, whose import needs its operators to exist. Beside
a build of PyTorch that they were not compiled for (CUDA's operators beside the CPU's PyTorch) they
cannot be loaded, and the schemas alone let the import through: no network here calls them. Where
they can be loaded they must be first: declared twice, they end the process.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch

__all__ = ["provide_operators"]

_KEPT: list[torch.library.Library] = []
"""Schemas are gone with the object that declared them."""


def provide_operators() -> bool:
    """Load torchvision's operators, or declare the two its import asks for; whether they loaded.

    To be called before anything imports torchvision. Without torchvision nothing is done.
    """
    found = find_spec("torchvision")
    if found is None or found.origin is None:
        return False
    for library in Path(found.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(library)  # type: ignore[no-untyped-call]
        except OSError:  # compiled for another build
            continue
    if hasattr(torch.ops.torchvision, "nms"):
        return not _KEPT
    declared = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        declared.define(schema)  # type: ignore[no-untyped-call]
    _KEPT.append(declared)
    return False
