"""Shared set-up: torchvision's operators declared before anything imports it; a cache that ends."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
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


@pytest.fixture(scope="session", autouse=True)
def _compiled_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """PyTorch's compiler keeps what it made for ever, hundreds of megabytes a run; here, for the
    run, and for all of its workers."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder / "torchinductor"))
        yield
