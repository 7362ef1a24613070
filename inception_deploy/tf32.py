"""float32 arithmetic that is float32: PyTorch without TF32, and as it was before afterwards.

PyTorch has two interfaces to one setting. The older one (`set_float32_matmul_precision`,
`cudnn.allow_tf32`) is what its compiler reads while it compiles; the newer one (`fp32_precision`,
since PyTorch 2.9) is what a user may have set. Whoever reads the older one while the two contradict
each other gets an error, so both are set here to the same, and read apart from each other.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["without_tf32"]

_backends: Any = torch.backends


@contextmanager
def without_tf32() -> Iterator[None]:
    """No TF32, which rounds what is said to be float32 to 10 bits; and no timing of convolutions.

    Algorithms of cuDNN come from its table, so that two loads of one package agree. The settings
    are those of the whole process.
    """
    with warnings.catch_warnings():
        # from 2.9 to 2.12 the older interface warns of itself
        warnings.simplefilter("ignore", UserWarning)
        restore = _remembered()
        _backends.cudnn.benchmark = False
        torch.set_float32_matmul_precision("highest")
        _backends.cudnn.allow_tf32 = False
        if hasattr(_backends.cudnn, "fp32_precision"):
            # the older interface leaves convolutions to what is set for everything
            _backends.cudnn.fp32_precision = "ieee"
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            restore()


def _remembered() -> Callable[[], None]:
    """The settings as they are, to be restored."""
    benchmark = _backends.cudnn.benchmark
    matmul = _read(torch.get_float32_matmul_precision)
    convolution = _read(lambda: _backends.cudnn.allow_tf32)
    newer = [(place, place.fp32_precision) for place in _places()]

    def restore() -> None:
        _backends.cudnn.benchmark = benchmark
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        if convolution is not None:
            _backends.cudnn.allow_tf32 = convolution
        for place, value in newer:
            if place is _backends.cudnn:
                place.fp32_precision = "none"  # which takes over what is set for everything
            if place.fp32_precision != value:
                place.fp32_precision = value

    return restore


def _read(older: Callable[[], Any]) -> Any:
    """What the older interface says; None where the newer one has been used to say otherwise."""
    try:
        return older()
    except RuntimeError:
        return None


def _places() -> list[Any]:
    """What the newer interface sets apart, the general before the particular; none before 2.9."""
    cudnn = _backends.cudnn
    named = [cudnn, getattr(cudnn, "conv", None), getattr(cudnn, "rnn", None)]
    named += [_backends.cuda.matmul, getattr(_backends.mkldnn, "matmul", None)]
    return [place for place in named if hasattr(place, "fp32_precision")]
