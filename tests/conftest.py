"""Shared set-up: torchvision's operators before anything imports it; a cache that ends."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from benchmarks.torchvision_operators import provide_operators

provide_operators()

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
