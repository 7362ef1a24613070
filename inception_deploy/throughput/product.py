"""What a GPU reaches at best: large matrix products on data that lie there, by PyTorch.

The products of `gemm` go through an engine, with rows that come from the host: on a GPU the way
there takes longer than the products do, and small ones leave most of the GPU idle. These are its
own library's (cuBLAS), 8,192 × 8,192 in 16 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray

from inception_deploy.errors import MissingDependency
from inception_deploy.tf32 import without_tf32

__all__ = ["PRODUCT_PRECISIONS", "ProductRunner"]

PRODUCTS = 4
"""In a row: launching and waiting are then well below a hundredth."""

_DTYPES: Mapping[str, torch.dtype] = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
}
_SIDES: Mapping[str, int] = {"fp16": 8192, "bf16": 8192, "fp32": 4096}
"""Of the matrices; float32 is so much slower that smaller ones are large enough."""

PRODUCT_PRECISIONS = tuple(_DTYPES)


class ProductRunner:
    """Runs the products, whatever the batch, and returns when the device is done.

    Factors are random: a GPU that multiplies zeros draws less power and keeps higher clocks.

    Args:
        precision: of `PRODUCT_PRECISIONS`; float32 is no TF32.
        device: PyTorch's name of it, "cuda".
        side: of the matrices; None takes one that keeps a GPU busy.

    Raises:
        MissingDependency: the device is a GPU, and this PyTorch was built without CUDA.
    """

    def __init__(self, precision: str, device: str = "cuda", side: int | None = None) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise MissingDependency(
                "PyTorch, which multiplies on the GPU, has no CUDA; run: pip install torch (the "
                "CUDA build)"
            )
        self._side = side or _SIDES[precision]
        self._device = device
        shape, dtype = (self._side, self._side), _DTYPES[precision]
        self.ran = str(dtype).removeprefix("torch.")
        """What it computes in, in the words of reports."""
        generator = torch.Generator(device).manual_seed(0)
        # of mean 0 and so small that sums of products are of order one
        left, right = (torch.randn(shape, generator=generator, device=device) for _ in range(2))
        self._left, self._right = left.to(dtype), (right * self._side**-0.5).to(dtype)
        self._result = torch.empty(shape, dtype=dtype, device=device)

    def __call__(self, images: NDArray[Any]) -> None:
        del images
        with torch.no_grad(), without_tf32():
            for _ in range(PRODUCTS):
                torch.mm(self._left, self._right, out=self._result)
        if self._device != "cpu":
            torch.cuda.synchronize()

    def macs(self, batch: int) -> int:
        """Multiply-adds of a run, as `Candidate.macs`: the same for every batch."""
        del batch
        return int(PRODUCTS * self._side**3)
