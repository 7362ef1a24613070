"""The peer of `benchmarks.gpu`: PyTorch as it runs a module, kernel by kernel, channels last."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from inception_deploy.engines._cuda_lane import CudaLane
from inception_deploy.engines._inductor_build import DTYPES, Deployed
from inception_deploy.engines.base import Array, Network

__all__ = ["Eager"]


class Eager:
    """A network in eager mode, from a batch on the host to its results there.

    It casts as the compiled one does, with batch norms in float32, and travels as sessions do: from
    pinned memory, down a stream of its own, each part timed.

    Args:
        module: float32; it is not modified.
        precision: "fp32", "fp16" or "bf16".
        example: float32 (N, 3, H, W).
        device: "cuda" or "cpu".
        capture: replay the kernels of a batch size as a CUDA graph.
    """

    def __init__(
        self, module: nn.Module, precision: str, example: Array, device: str, *, capture: bool
    ) -> None:
        network = Network(module, precision, example)
        self._module: nn.Module | None = Deployed(network, DTYPES[precision]).to(device)
        self._on_cpu = device == "cpu"
        self._capture, self._exact = capture, precision == "fp32"
        self._lanes: dict[int, CudaLane] = {}
        self._parts: Mapping[str, float] = {}

    def run(self, images: Array) -> Array:
        """Run one batch: float32 in, float32 out."""
        assert self._module is not None, "closed"
        if self._on_cpu:
            with torch.no_grad():
                result: Array = self._module(torch.from_numpy(images)).numpy()
            return result
        lane = self._lanes.get(len(images))
        if lane is None:
            lane = CudaLane(torch, self._module, images, capture=self._capture, exact=self._exact)
            self._lanes[len(images)] = lane
        found, self._parts = lane.run(images)
        return found

    def parts(self) -> Mapping[str, float]:
        """Seconds of the parts of the last run, by the card's clock; empty on the CPU."""
        return self._parts

    def close(self) -> None:
        """Free the weights and the buffers."""
        self._lanes.clear()
        self._module = None
