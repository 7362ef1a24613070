"""float32 is float32 meanwhile, whichever interface set TF32 before, and is set as before after."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from inception_deploy.tf32 import without_tf32

backends: Any = torch.backends

needs_newer = pytest.mark.skipif(
    not hasattr(backends.cudnn, "fp32_precision"), reason="PyTorch before 2.9 has one interface"
)


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    newer = hasattr(backends, "fp32_precision")
    yield
    if newer:
        backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    backends.cudnn.allow_tf32 = True
    backends.cudnn.benchmark = False


def settings() -> dict[str, Any]:
    places = {
        "all": backends,
        "cudnn": backends.cudnn,
        "conv": backends.cudnn.conv,
        "rnn": backends.cudnn.rnn,
        "matmul": backends.cuda.matmul,
        "cpu": backends.mkldnn.matmul,
    }
    return {name: place.fp32_precision for name, place in places.items()}


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_the_older_interface(precision: str) -> None:
    torch.set_float32_matmul_precision(precision)
    backends.cudnn.benchmark = True
    with pytest.raises(ValueError, match="stop"), without_tf32():
        assert torch.get_float32_matmul_precision() == "highest"
        assert backends.cudnn.allow_tf32 is False
        assert backends.cudnn.benchmark is False
        raise ValueError("stop")
    assert torch.get_float32_matmul_precision() == precision
    assert backends.cudnn.allow_tf32 is True
    assert backends.cudnn.benchmark is True


@needs_newer
@pytest.mark.parametrize("where", ["everything", "convolutions", "products"])
def test_the_newer_interface(where: str) -> None:
    """Reading the older one is an error there, which PyTorch's compiler must not run into."""
    place = {
        "everything": backends,
        "convolutions": backends.cudnn.conv,
        "products": backends.cuda.matmul,
    }[where]
    place.fp32_precision = "ieee" if where == "convolutions" else "tf32"
    before = settings()
    with without_tf32():
        assert backends.cudnn.allow_tf32 is False
        assert backends.cuda.matmul.allow_tf32 is False
        found = settings()
        assert {found[name] for name in ("cudnn", "conv", "rnn", "matmul")} == {"ieee"}
    assert settings() == before


@needs_newer
def test_what_was_inherited_still_is() -> None:
    backends.fp32_precision = "tf32"
    with without_tf32():
        pass
    assert backends.cudnn.fp32_precision == "tf32"
    backends.fp32_precision = "ieee"
    assert backends.cudnn.fp32_precision == "ieee"
