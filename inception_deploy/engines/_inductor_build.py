"""A PyTorch network through torch.export and AOTInductor into a package of machine code.

The weights are inside, the batch is free, and activations are channels-last throughout: that is
how the kernels of CPUs and of tensor cores read them. What is fed and what comes out are contiguous
float32 (or pixels), whatever the network computes in.
"""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inception_deploy.build_options import BatchProfile
from inception_deploy.engines._inductor_facts import Package, Place, instruction_sets
from inception_deploy.engines.base import Network
from inception_deploy.errors import StageError
from inception_deploy.tf32 import without_tf32

__all__ = ["DTYPES", "Deployed", "compile_network", "here", "reason"]

_UNITS: Mapping[str, float] = {"fp32": 0.0, "fp16": 2.0**-11, "bf16": 2.0**-8}
"""Largest relative error of one rounding; float32's are within `_FLOAT32` together."""

_FLOAT32, _CONFIDENCE = 1e-4, 4.0
"""As of the graphs of these precisions (`precisions/base.py`, `precisions/fp16.py`)."""

DTYPES: Mapping[str, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


class Deployed(nn.Module):
    """Casts around the network, which has its weights in `dtype` and its batch norms in float32.

    It is a copy: float32 images in, in PyTorch's order, and float32 out.

    A batch norm's variance may leave the range of float16; the compiler folds the norm into the
    convolution before it, in float32, and rounds the result.
    """

    def __init__(self, network: Network, dtype: torch.dtype) -> None:
        super().__init__()
        self.front = copy.deepcopy(network.front)
        self.network = copy.deepcopy(network.module).requires_grad_(False).eval()
        self.dtype = dtype
        _scales_as_tensors(self.network)
        for part in self.network.modules():
            if not isinstance(part, nn.modules.batchnorm._BatchNorm):
                for owned in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
                    owned.data = owned.to(dtype) if owned.is_floating_point() else owned
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        if self.front is not None:
            images = self.front(images)
        images = images.to(self.dtype, memory_format=torch.channels_last)
        result: Tensor = self.network(images)
        return result.to(torch.float32)


def compile_network(
    network: Network, batch: BatchProfile, names: tuple[str, str], path: Path
) -> Package:
    """Write the package of a network for this machine: for its GPU where PyTorch has one.

    Args:
        batch: kernels are tuned for the optimum and take 1 to the maximum.
        names: of input and output.
        path: of the package, ending in .pt2.

    Raises:
        StageError: PyTorch cannot export or compile the network, or what it compiles does not
            compute what the network does.
    """
    place, dtype = here(), DTYPES[network.precision]
    wanted = _eager(network)
    module = Deployed(network, dtype).to(place.device)
    # a batch of one would be taken for a constant
    shown = 1 if batch.maximum == 1 else max(2, batch.optimum)
    shape = network.example.shape[1:]
    example = torch.from_numpy(np.resize(network.example, (shown, *shape))).to(place.device)
    free = torch.export.Dim("batch", min=1, max=batch.maximum) if shown > 1 else None
    with torch.no_grad(), without_tf32(), _quiet():
        try:
            program = torch.export.export(
                module, (example,), dynamic_shapes=({0: free},) if free else None, strict=False
            )
            (result,) = program.graph.output_node().args[0]
            classes = tuple(int(size) for size in result.meta["val"].shape[1:])
            package = Package(
                place=place,
                precision=network.precision,
                input=(names[0], str(network.example.dtype), tuple(map(int, shape))),
                output=(names[1], "float32", classes),
                largest=batch.maximum,
            )
            for frozen in (True, False):
                package = replace(package, frozen=frozen)
                torch._inductor.aoti_compile_and_package(
                    program, package_path=str(path), inductor_configs=_settings(package)
                )
                off = _off(path, network, wanted, batch.maximum)
                if off <= _allowed(network):
                    return package
        except Exception as error:  # export, Inductor and the C++ compiler each have their own
            raise StageError(
                f"PyTorch cannot compile {type(network.module).__name__}: {reason(error)}"
            ) from error
    raise StageError(
        f"what PyTorch compiles of {type(network.module).__name__} is off by {off:.3g} of its "
        f"outputs, {_allowed(network):.2g} are allowed; choose another target"
    )


def _scales_as_tensors(network: nn.Module) -> None:
    """Numbers called `scale` become tensors without dimensions, in place.

    Of products of convolutions and numbers, PyTorch 2.13 folds the first number into the weights of
    all of them when it freezes a network (Inception-ResNet's residuals: 0.17, 0.10 and 0.20).
    """
    for part in network.modules():
        scale = part.__dict__.get("scale")
        if isinstance(scale, float) and scale != 1.0:
            del part.scale
            part.register_buffer("scale", torch.tensor(scale), persistent=False)


def _eager(network: Network) -> NDArray[np.float32]:
    """What the network makes of the example, in float32."""
    images = torch.from_numpy(network.example)
    with torch.inference_mode(), without_tf32():
        shown = images if network.front is None else network.front(images)
        outputs: NDArray[np.float32] = network.module(shown).numpy()
    return outputs


def _off(path: Path, network: Network, wanted: NDArray[np.float32], largest: int) -> float:
    """RMS error of the package's outputs, in parts of the RMS of what is `wanted`."""
    model, device = torch._inductor.aoti_load_package(str(path)), here().device
    shown = network.example
    with torch.inference_mode():
        parts = [
            model(torch.from_numpy(shown[i : i + largest]).to(device)).cpu().numpy()
            for i in range(0, len(shown), largest)
        ]
    error = np.concatenate(parts).astype(np.float64) - wanted
    found = float(np.linalg.norm(error)) / max(float(np.linalg.norm(wanted)), 1e-30)
    return found if math.isfinite(found) else math.inf


def _allowed(network: Network) -> float:
    """Largest such error that rounding explains: those of layers add up like a random walk."""
    layers = sum(isinstance(part, (nn.Conv2d, nn.Linear)) for part in network.module.modules())
    return _FLOAT32 + _CONFIDENCE * _UNITS[network.precision] * math.sqrt(max(layers, 1))


def here() -> Place:
    """Where this process would run a package."""
    cuda = torch.cuda.is_available()
    major, minor = torch.cuda.get_device_capability() if cuda else (0, 0)
    return Place(
        torch=str(torch.__version__),
        device="cuda" if cuda else "cpu",
        sm=10 * major + minor if cuda else None,
        isa=instruction_sets(),
    )


def reason(error: Exception) -> str:
    """One line of what PyTorch says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] or type(error).__name__


def _settings(package: Package) -> dict[str, Any]:
    return {
        "aot_inductor.metadata": package.metadata(),
        # weights are constants: batch norms are folded into them, and they are laid out for kernels
        "freezing": package.frozen,
        # as many threads as PyTorch has when the package runs, not when it was compiled
        "cpp.dynamic_threads": True,
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Without PyTorch's warnings about PyTorch: what fails here is raised."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
