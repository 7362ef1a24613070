"""What a graph is compared with: another graph, the PyTorch network, or recorded outputs.

Each gives the values of the tensors asked for, a few at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inception_deploy.artifact import FloatArray
from inception_deploy.engines import ENGINES
from inception_deploy.engines.base import Array
from inception_deploy.locate.cutting import CutGraph, shared_tensors
from inception_deploy.networks.base import InceptionNetwork

__all__ = ["GraphTruth", "RecordedTruth", "TorchTruth", "Truth", "run_part"]


class Truth(Protocol):
    """The side of a comparison that is right by definition."""

    @property
    def stage(self) -> str:
        """What it is called: "pytorch", "reference.onnx", …"""
        ...

    def shared(self, after: CutGraph) -> tuple[str, ...]:
        """Tensors of `after` that values can be given for, in the order of `after`."""
        ...

    def needs(self, tensor: str, cuts: Collection[str]) -> Iterator[str]:
        """Cut tensors whose values `values` reads to compute `tensor`."""
        ...

    def values(self, tensors: Sequence[str], known: Mapping[str, Array]) -> dict[str, Array]:
        """float32 values of `tensors`, from those `known` already."""
        ...

    def expected_dims(self, tensor: str) -> tuple[int | str, ...] | None:
        """Shape of a tensor, first dimension aside; None where it has none of this name."""
        ...


def run_part(
    part: onnx.ModelProto, feed: str, images: NDArray[Any], given: Mapping[str, Array]
) -> dict[str, Array]:
    """All outputs of a part of a graph, its inputs taken from what is `given` and the images.

    It runs on ONNX Runtime as written, node by node.
    """
    engine = ENGINES.get("onnxruntime")
    names = [value.name for value in part.graph.input]
    feeds = {name: images if name == feed else given[name] for name in names}
    if not feeds:
        raise ValueError("a part without inputs computes constants only")
    with engine.session(part.SerializeToString(), threads=1, optimise=False) as session:
        return session.infer(feeds)


@dataclass(frozen=True)
class GraphTruth:
    """A graph before a stage.

    Args:
        graph: cut like the one after the stage.
        images: what it is fed.
        without: tensors that are something else after the stage, for all that they kept their name.
    """

    graph: CutGraph
    images: NDArray[Any]
    without: frozenset[str] = frozenset()

    @property
    def stage(self) -> str:
        return self.graph.stage

    def shared(self, after: CutGraph) -> tuple[str, ...]:
        shared = shared_tensors(self.graph, after)
        return tuple(name for name in shared if name not in self.without)

    def needs(self, tensor: str, cuts: Collection[str]) -> Iterator[str]:
        return self.graph.reads(self.graph.piece(tensor, cuts), cuts)

    def values(self, tensors: Sequence[str], known: Mapping[str, Array]) -> dict[str, Array]:
        part = self.graph.chain(tensors, known.keys())
        return run_part(part, self.graph.feed, self.images, known)

    def expected_dims(self, tensor: str) -> tuple[int | str, ...] | None:
        known = tensor in self.graph.floats and tensor not in self.without
        return self.graph.dims(tensor)[1:] if known else None


@dataclass(frozen=True)
class TorchTruth:
    """The PyTorch network, its modules known by the names of the exported graph's nodes.

    The export names tensors after the modules that put them out, and after the architecture blocks
    that they leave. A module that is called more than once has no tensor of its own.

    Args:
        module: in evaluation mode, float32.
        inputs: preprocessed images, float32 (N, 3, H, W).
        output_name: the graph's output.
    """

    module: InceptionNetwork
    inputs: FloatArray
    output_name: str
    stage: str = "pytorch"

    @cached_property
    def _modules(self) -> Mapping[str, nn.Module]:
        inner = self.module.get_submodule(self.module.wrapper)
        return {name: part for name, part in inner.named_modules() if name}

    @cached_property
    def _blocks(self) -> Mapping[str, nn.Module]:
        return dict(self.module.blocks())

    def _source(self, tensor: str) -> nn.Module | None:
        if tensor == self.output_name:
            return self.module
        return self._blocks.get(tensor) or self._modules.get(tensor)

    def shared(self, after: CutGraph) -> tuple[str, ...]:
        found = []
        for name in after.floats:
            source = self._source(name)
            if source is not None:
                found.append(name)
                self._sources[name] = source
        # one pass that keeps shapes and counts of calls, and no values
        shapes = self._shapes
        return tuple(n for n in found if shapes.get(n) == after.dims(n)[1:])

    @cached_property
    def _sources(self) -> dict[str, nn.Module]:
        return {}

    @cached_property
    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        shapes: dict[str, list[tuple[int, ...]]] = {name: [] for name in self._sources}

        def note(name: str, output: Tensor) -> None:
            shapes[name].append(tuple(output.shape[1:]))

        self._run(list(self._sources), self.inputs[:1], note)
        return {name: calls[0] for name, calls in shapes.items() if len(calls) == 1}

    def needs(self, tensor: str, cuts: Collection[str]) -> Iterator[str]:
        return iter(())

    def values(self, tensors: Sequence[str], known: Mapping[str, Array]) -> dict[str, Array]:
        found: dict[str, list[Array]] = {name: [] for name in tensors}

        def keep(name: str, output: Tensor) -> None:
            found[name].append(output.numpy().copy())  # a later module may work in place

        self._run(tensors, self.inputs, keep)
        return {name: rows[0] for name, rows in found.items()}

    def expected_dims(self, tensor: str) -> tuple[int | str, ...] | None:
        return self._shapes.get(tensor)

    def _run(
        self, tensors: Sequence[str], inputs: FloatArray, use: Callable[[str, Tensor], None]
    ) -> None:
        def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
            def called(_module: nn.Module, _inputs: Any, output: Any) -> None:
                if isinstance(output, Tensor):
                    use(name, output)

            return called

        with ExitStack() as stack:
            for name in tensors:
                handle = self._sources[name].register_forward_hook(hook(name))
                stack.callback(handle.remove)
            with torch.no_grad():
                self.module(torch.from_numpy(np.array(inputs)))


@dataclass(frozen=True)
class RecordedTruth:
    """Outputs that were recorded once: the golden's, where PyTorch's weights are not at hand."""

    recorded: Mapping[str, FloatArray]
    stage: str = "golden"

    def shared(self, after: CutGraph) -> tuple[str, ...]:
        return tuple(
            name
            for name in after.floats
            if name in self.recorded and after.dims(name)[1:] == self.recorded[name].shape[1:]
        )

    def needs(self, tensor: str, cuts: Collection[str]) -> Iterator[str]:
        return iter(())

    def values(self, tensors: Sequence[str], known: Mapping[str, Array]) -> dict[str, Array]:
        return {name: self.recorded[name] for name in tensors}

    def expected_dims(self, tensor: str) -> tuple[int | str, ...] | None:
        return self.recorded[tensor].shape[1:] if tensor in self.recorded else None
