"""A PyTorch module of the user's own, made to look like a network of the family."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from inception_deploy.errors import RecipeError
from inception_deploy.networks.base import InceptionNetwork

__all__ = ["UserNetwork"]


class UserNetwork(InceptionNetwork):
    """Wraps `module`, which maps images (N, 3, H, W) to one tensor (N, K), float32.

    What the module returns is what the head "logits" stands for; "probabilities" appends a softmax,
    "features" takes the output as it is. Its blocks are those of its direct children that hold
    modules themselves and put out one tensor per image: what a reader of its code would call one.

    Args:
        module: set to evaluation mode.
        images: an example, float32 (N, 3, H, W), to find the blocks and the number of classes with.

    Raises:
        RecipeError: the module does not return one float32 tensor (N, K) for `images`.
    """

    wrapper = "wrapped"
    memory_format = torch.contiguous_format  # it may take views that other layouts do not allow

    def __init__(self, module: nn.Module, images: Tensor) -> None:
        super().__init__()
        self.wrapped = module.eval()
        self._block_names, output = _probe(module, images)
        title = type(module).__name__
        if not isinstance(output, Tensor) or output.ndim != 2 or output.dtype != torch.float32:
            found = (
                f"{output.dtype} {tuple(output.shape)}"
                if isinstance(output, Tensor)
                else type(output).__name__
            )
            raise RecipeError(
                f"{title} returns {found} in evaluation mode; wrap it so that it returns one "
                "float32 tensor (N, classes)"
            )
        self.num_classes = self.num_features = output.shape[1]
        self.eval()

    def forward_features(self, x: Tensor) -> Tensor:
        out: Tensor = self.wrapped(x)
        return out

    def classify(self, features: Tensor) -> Tensor:
        return features

    def blocks(self) -> Iterator[tuple[str, nn.Module]]:
        for name in self._block_names:
            yield name, self.wrapped.get_submodule(name)


def _probe(module: nn.Module, images: Tensor) -> tuple[list[str], Any]:
    """Names of the children that are blocks, in the order they run, and the module's output."""
    calls: dict[str, list[bool]] = {}
    handles = []
    for name, child in module.named_children():
        if not any(True for _ in child.children()) or not any(True for _ in child.parameters()):
            continue  # a bare layer: what is fused into it would change what it puts out

        def hook(_module: nn.Module, _inputs: Any, output: Any, name: str = name) -> None:
            single = isinstance(output, Tensor) and output.ndim in (2, 4)
            calls.setdefault(name, []).append(single and len(output) == len(images))

        handles.append(child.register_forward_hook(hook))
    try:
        with torch.no_grad():
            output = module(images)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RecipeError(
            f"{type(module).__name__} cannot take images {tuple(images.shape)}: {reason}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return [name for name, singles in calls.items() if singles == [True]], output
