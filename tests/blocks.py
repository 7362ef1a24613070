"""Comparing two implementations of one network block by block, for tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

__all__ = ["BOUND", "randomise", "relative_error", "too_far", "traced"]

BOUND = 1e-5
"""Largest allowed max |ours − theirs| / max |theirs|: float32 sums in another order."""


@torch.no_grad()
def randomise(module: nn.Module, seed: int) -> None:
    """Random weights and batch-norm statistics that keep activations of order one."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            fan_in = layer.weight[0].numel()
            layer.weight.normal_(0.0, (2.0 / fan_in) ** 0.5, generator=generator)
            if layer.bias is not None:
                layer.bias.normal_(0.0, 0.2, generator=generator)
        elif isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.weight.uniform_(0.5, 1.5, generator=generator)
            layer.bias.normal_(0.0, 0.2, generator=generator)
            layer.running_mean.normal_(0.0, 0.2, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)


@torch.no_grad()
def traced(module: nn.Module, names: Iterable[str], x: Tensor) -> dict[str, Tensor]:
    """Each named submodule's output, in the order they ran, and the network's as "output"."""
    outputs: dict[str, Tensor] = {}
    handles = []
    for name in names:

        def keep(
            _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor, name: str = name
        ) -> None:
            outputs[name] = output.clone()  # a later module may work in place

        handles.append(module.get_submodule(name).register_forward_hook(keep))
    outputs["output"] = module(x)
    for handle in handles:
        handle.remove()
    return outputs


def relative_error(candidate: Tensor, reference: Tensor) -> float:
    """max |candidate − reference| / max |reference|."""
    assert candidate.shape == reference.shape
    return float((candidate - reference).abs().max() / reference.abs().max())


def too_far(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, float]:
    """Which outputs are off by more than `BOUND`; both hold the same names in the same order."""
    assert list(got) == list(expected)
    assert all(0 < float(value.abs().max()) < 1e6 for value in expected.values())
    errors = {name: relative_error(got[name], value) for name, value in expected.items()}
    return {name: error for name, error in errors.items() if not error <= BOUND}
