"""What sessions on a GPU share on the host: one lock per process, and copies to pinned memory.

Nothing here imports PyTorch: engines that do without it are looked up beside those that need it.
"""

from __future__ import annotations

import threading
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["FIRST_RUN", "Array", "stage"]

Array: TypeAlias = NDArray[Any]

FIRST_RUN = threading.RLock()
"""Held while a session loads, and from a shape's first allocation to the end of its capture.

The threads of a process share one device. While one of them captures, another must neither wait
for the whole device, which PyTorch does before each capture and libraries do while they load, nor
begin a capture of its own. Replays need no lock.
"""


def stage(torch: Any, host: Any, values: Array) -> None:
    """Copy into pinned memory, before anything is timed by the device's clock.

    PyTorch copies on all its threads and NumPy on one, which takes longer for a large batch than
    the kernels do; but PyTorch has no read-only tensors.
    """
    if values.flags.writeable and values.flags.c_contiguous:
        host.copy_(torch.from_numpy(values))
    else:
        np.copyto(host.numpy(), values)
