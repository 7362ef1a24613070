"""Comparing a network with somebody else's implementation of it, on the same random weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.peer_networks import noise, randomise
from inception_deploy.checkpoints import Checkpoint
from inception_deploy.matching import Match, blank, match
from inception_deploy.networks import NETWORKS, InceptionNetwork

__all__ = [
    "BOUND",
    "Drawn",
    "block_outputs",
    "layer_counts",
    "loaded",
    "noise",
    "randomise",
    "relative_errors",
    "too_far",
]

BOUND = 1e-5
"""Largest allowed max |ours − theirs| / max |theirs|: float32 sums in another order."""


class Drawn(dict[str, Tensor]):
    """The tensors of a checkpoint, drawn when a transcription of its network first asks for one."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, name: str, *shape: int, std: float = 0.2) -> Tensor:
        """Normal around 0."""
        assert name not in self
        self[name] = torch.randn(shape, generator=self.generator) * std
        return self[name]

    def uniform(self, name: str, *shape: int) -> Tensor:
        """Uniform in 0.5-1.5, for scales and variances."""
        assert name not in self
        self[name] = torch.rand(shape, generator=self.generator) + 0.5
        return self[name]


def loaded(network: str, tensors: dict[str, Tensor]) -> tuple[InceptionNetwork, Match]:
    """The network with these tensors, through the layout that is recognised in them."""
    spec = NETWORKS.get(network)
    found = match(Checkpoint(Path("weights.pth"), "0" * 64, tensors), spec)
    module = blank(spec, found.num_classes, build=found.build)
    module.load_state_dict(found.state_dict, strict=True, assign=True)
    return module.eval(), found


@torch.no_grad()
def block_outputs(module: nn.Module, names: Iterable[str], x: Tensor) -> list[Tensor]:
    """The output of each named submodule, in that order, and at last the network's own."""
    outputs: dict[str, Tensor] = {}
    names = list(names)
    for name in names:

        def keep(_m: nn.Module, _i: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
            outputs[name] = output.clone()

        module.get_submodule(name).register_forward_hook(keep)
    logits: Tensor = module(x)
    return [*(outputs[name] for name in names), logits]


def relative_errors(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> list[float]:
    """max |ours − theirs| / max |theirs| of each pair; infinite where a reference is degenerate."""
    errors = []
    for candidate, reference in zip(ours, theirs, strict=True):
        assert candidate.shape == reference.shape
        scale = float(reference.abs().max())
        sane = 1e-3 < scale < 1e6
        errors.append(float((candidate - reference).abs().max()) / scale if sane else float("inf"))
    return errors


def too_far(
    names: Iterable[str], ours: Iterable[Tensor], theirs: Iterable[Tensor]
) -> dict[str, float]:
    """Which of the blocks, and "output" after them, are off by more than `BOUND`."""
    errors = zip([*names, "output"], relative_errors(ours, theirs), strict=True)
    return {name: error for name, error in errors if not error <= BOUND}


def layer_counts(network: str) -> tuple[int, int, int, int]:
    """(convolutions, 2-d batch norms, elements of buffers, state-dict keys) at full width."""
    spec = NETWORKS.get(network)
    with torch.device("meta"):
        module = spec.build()
    layers = list(module.modules())
    return (
        sum(isinstance(layer, nn.Conv2d) for layer in layers),
        sum(isinstance(layer, nn.BatchNorm2d) for layer in layers),
        sum(buffer.numel() for buffer in module.buffers()),
        len(module.state_dict()),
    )
