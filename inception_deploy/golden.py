"""The golden: seeded inputs and what the FP32 PyTorch network makes of them, recorded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inception_deploy.artifact import FloatArray, Golden
from inception_deploy.errors import StageError
from inception_deploy.networks.base import InceptionNetwork
from inception_deploy.progress import Progress, SilentProgress
from inception_deploy.tf32 import without_tf32

__all__ = ["exact_float32", "record_golden"]

BATCH = 8  # images at a time: bounds the activations in memory, whatever the number of inputs


def record_golden(
    module: InceptionNetwork,
    inputs: FloatArray,
    *,
    block_images: int = 4,
    progress: Progress | None = None,
) -> Golden:
    """Run `module` in FP32 and record its outputs, and every block's for the first images.

    TF32 and autocast are off; the module is left in evaluation mode, on the device it was on.

    Args:
        inputs: preprocessed images, float32 (N, 3, H, W), N >= 1.
        block_images: how many of the inputs block outputs are kept for.

    Raises:
        StageError: the inputs are no such array, the module is not FP32, or NaN or Inf appears; the
            message names the first block that puts it out.
    """
    if inputs.dtype != np.float32 or inputs.ndim != 4 or not len(inputs):
        raise StageError(
            f"golden inputs must be float32 (N, 3, H, W), not {inputs.dtype} {inputs.shape}"
        )
    if not np.isfinite(inputs).all():
        raise StageError("golden inputs contain NaN or Inf; check the images and the mean and std")
    strays = {p.dtype for p in module.parameters()} - {torch.float32}
    if strays:
        raise StageError(f"the reference has {strays.pop()} weights; the golden is FP32: .float()")
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    module.eval()

    outputs: list[FloatArray] = []
    blocks: dict[str, list[FloatArray]] = {name: [] for name, _ in module.blocks()}
    starts = range(0, len(inputs), BATCH)
    listener = progress or SilentProgress()
    with exact_float32(device.type), _hooks(module, blocks, block_images):
        for start in listener.track(starts, "recording the golden", len(starts)):
            images = torch.from_numpy(inputs[start : start + BATCH]).to(device)
            outputs.append(_finite("the head", module(images)).cpu().numpy())

    return Golden(
        inputs=inputs,
        outputs=np.concatenate(outputs),
        output_name=module.head,
        blocks={name: np.concatenate(rows)[:block_images] for name, rows in blocks.items()},
        block_images=min(block_images, len(inputs)),
    )


@contextmanager
def exact_float32(device: str = "cpu") -> Iterator[None]:
    """No TF32 in matrix products or convolutions, no autocast, no gradients."""
    with without_tf32(), torch.no_grad(), torch.autocast(device, enabled=False):
        yield


@contextmanager
def _hooks(
    module: InceptionNetwork, blocks: dict[str, list[FloatArray]], block_images: int
) -> Iterator[None]:
    """Collect block outputs until `block_images` are there; check all of them for NaN and Inf."""

    def hook(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            _finite(f"block '{name}'", output)
            kept = blocks[name]
            if sum(map(len, kept)) < block_images:
                # a copy, for a later module may work in place
                kept.append(output[:block_images].to("cpu", copy=True).numpy())

        return keep

    with ExitStack() as handles:
        for name, block in module.blocks():
            handles.callback(block.register_forward_hook(hook(name)).remove)
        yield


def _finite(where: str, output: Tensor) -> Tensor:
    if not torch.isfinite(output).all():
        raise StageError(f"{where} of the PyTorch network puts out NaN or Inf; check its weights")
    return output
