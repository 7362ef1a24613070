"""Means and covariances of what weighted layers read, from a sample of their windows.

A layer with kernel k × k reads windows of k·k·channels values. Their covariance is what rounding
of weights has to know (`weight_rounding`). Windows are drawn at random positions of every image, up
to four times as many in all as a window has values; activations are never kept, and covariances of
so many layers at a time as fit into `BUDGET`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from inception_deploy.artifact import FloatArray
from inception_deploy.engines.base import Engine
from inception_deploy.errors import DataError
from inception_deploy.progress import Progress, SilentProgress
from inception_deploy.weight_rounding import InputMoments

__all__ = ["BUDGET", "observe_moments"]

Floats: TypeAlias = NDArray[np.float32]

BUDGET = 256 * 2**20
"""Bytes of float32 covariances that are summed up side by side."""

PER_VALUE = 4
"""Windows in all per value of a window; 0.1 to 0.2 dB better than one."""

ENOUGH = 4096
"""Windows in all from which on one per value has to do: their products take the longest."""

LEAST = 512
"""Windows in all at least."""

_SEEN = ":seen"


@dataclass(frozen=True)
class _Window:
    """What a layer reads, as far as it tells its moments from those of another layer."""

    tensor: str
    channels: int
    groups: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]

    @property
    def taps(self) -> int:
        """Values of a window, per group."""
        return self.channels // self.groups * self.kernel[0] * self.kernel[1]

    @property
    def bytes(self) -> int:
        return 4 * self.groups * self.taps**2

    def sample(self, values: Floats, images: int, rng: np.random.Generator) -> Floats:
        """Windows of one of `images` activations (channels, …): (groups, windows, taps)."""
        if values.ndim == 1:
            return values.reshape(1, 1, -1)
        top, left, bottom, right = self.pads
        padded = np.pad(values, ((0, 0), (top, bottom), (left, right)))
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilations, self.kernel, strict=True)]
        free = [
            (size - r) // s + 1
            for size, r, s in zip(padded.shape[1:], reach, self.strides, strict=True)
        ]
        places = free[0] * free[1]
        wanted = max(LEAST, self.taps, min(PER_VALUE * self.taps, ENOUGH))
        share = math.ceil(wanted / images)
        chosen = rng.choice(places, min(share, places), replace=False)
        rows = (chosen // free[1] * self.strides[0])[:, None, None] + (
            np.arange(self.kernel[0]) * self.dilations[0]
        )[None, :, None]
        columns = (chosen % free[1] * self.strides[1])[:, None, None] + (
            np.arange(self.kernel[1]) * self.dilations[1]
        )[None, None, :]
        windows = padded[:, rows, columns].reshape(self.groups, -1, *rows.shape[:1], *self.kernel)
        return np.ascontiguousarray(windows.swapaxes(1, 2)).reshape(self.groups, len(chosen), -1)


@dataclass
class _Sum:
    """Sums over windows: how many, of the values, of their products.

    Values count from the first image's mean: of values far from zero, a covariance in float32 is
    else the small difference of large numbers, and may come out with negative eigenvalues.
    """

    window: _Window
    origin: Floats | None = field(init=False, default=None)
    first: NDArray[np.float64] = field(init=False)
    second: Floats = field(init=False)
    samples: int = 0

    def __post_init__(self) -> None:
        groups, taps = self.window.groups, self.window.taps
        self.first = np.zeros((groups, taps))
        self.second = np.zeros((groups, taps, taps), np.float32)

    def add(self, windows: Floats) -> None:
        if self.origin is None:
            self.origin = windows.mean(1, keepdims=True)
        moved = windows - self.origin
        self.first += moved.sum(1, dtype=np.float64)
        rows = torch.from_numpy(moved)
        torch.from_numpy(self.second).baddbmm_(rows.mT, rows)  # in place: no second matrix
        self.samples += windows.shape[1]

    def moments(self) -> InputMoments:
        assert self.origin is not None
        mean = self.first / self.samples
        covariance, centre = self.second, mean.astype(np.float32)
        covariance /= self.samples
        for own, middle in zip(covariance, centre, strict=True):
            own -= np.outer(middle, middle)
        return InputMoments(mean + self.origin[:, 0], covariance, self.samples)


def observe_moments(
    model: onnx.ModelProto,
    batches: Callable[[], Iterable[FloatArray]],
    *,
    nodes: Sequence[str],
    engine: Engine,
    images: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> Iterator[tuple[str, InputMoments]]:
    """Node → moments of what it reads, one node after the other.

    A layer whose padding the graph does not spell out (`auto_pad`) is passed over.

    Args:
        model: FP32 graph with one input, constants as initialisers.
        batches: gives the preprocessed images anew, as often as it is called: float32
            (N, 3, H, W), or what else the graph takes.
        nodes: names of convolutions and linear layers of `model`.
        images: how many there are.
        seed: of the positions; they do not depend on the batches' size.

    Raises:
        BadInput: a batch does not fit the graph's input.
        DataError: there are no images.
    """
    listener = progress or SilentProgress()
    wanted: dict[_Window, list[str]] = {}
    for window, name in _windows(model, frozenset(nodes)):
        wanted.setdefault(window, []).append(name)
    parts = list(_parts(list(wanted)))
    for number, part in enumerate(parts, 1):
        sums = [_Sum(window) for window in part]
        title = f"looking at what layers read, {number} of {len(parts)}"
        shown = listener.track(_single(batches()), title, images)
        _sum_up(model, shown, sums, engine, images, seed)
        for done in sums:
            moments = done.moments()
            done.second = np.empty(0, np.float32)  # the next one needs the room
            for name in wanted[done.window]:
                yield name, moments


def _single(batches: Iterable[FloatArray]) -> Iterator[FloatArray]:
    """The images one by one, (1, …) each."""
    for batch in batches:
        for index in range(len(batch)):
            yield batch[index : index + 1]


def _windows(model: onnx.ModelProto, nodes: frozenset[str]) -> Iterator[tuple[_Window, str]]:
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.name not in nodes:
            continue
        given: Mapping[str, Any] = {
            a.name: onnx.helper.get_attribute_value(a) for a in node.attribute
        }
        if given.get("auto_pad", b"NOTSET") != b"NOTSET":
            continue
        _, per_group, *kernel = shapes[node.input[1]]
        groups = given.get("group", 1)
        high, wide = kernel or (1, 1)
        yield (
            _Window(
                str(node.input[0]),
                per_group * groups,
                groups,
                (high, wide),
                _pair(given.get("strides")),
                _pair(given.get("dilations")),
                _four(given.get("pads")),
            ),
            str(node.name),
        )


def _pair(given: Sequence[int] | None) -> tuple[int, int]:
    first, second = given or (1, 1)
    return first, second


def _four(given: Sequence[int] | None) -> tuple[int, int, int, int]:
    top, left, bottom, right = given or (0, 0, 0, 0)
    return top, left, bottom, right


def _parts(windows: Sequence[_Window]) -> Iterator[list[_Window]]:
    """The windows in order, as many at a time as fit into `BUDGET`, but one at least."""
    part: list[_Window] = []
    for window in windows:
        if part and sum(w.bytes for w in part) + window.bytes > BUDGET:
            yield part
            part = []
        part.append(window)
    if part:
        yield part


def _sum_up(
    model: onnx.ModelProto,
    images: Iterable[FloatArray],
    sums: Sequence[_Sum],
    engine: Engine,
    count: int,
    seed: int,
) -> None:
    """One pass over the images, `count` in all."""
    tensors = dict.fromkeys(part.window.tensor for part in sums)
    seen = 0
    with engine.session(_showing(model, tensors)) as session:
        feed = session.inputs[0].name
        for image in images:
            values = session.infer({feed: image})
            for part in sums:
                rng = np.random.default_rng([seed, seen, zlib.crc32(str(part.window).encode())])
                part.add(part.window.sample(values[part.window.tensor + _SEEN][0], count, rng))
            seen += 1
    if not seen:
        raise DataError("no calibration images; give a source that holds some")


def _showing(model: onnx.ModelProto, tensors: Iterable[str]) -> bytes:
    """A copy that puts out `tensors`, each as NAME:seen."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    del graph.output[:]
    for tensor in tensors:
        called = f"{tensor}{_SEEN}"
        graph.node.append(onnx.helper.make_node("Identity", [tensor], [called], name=called))
        graph.output.append(
            onnx.helper.make_tensor_value_info(called, onnx.TensorProto.FLOAT, None)
        )
    content: bytes = copy.SerializeToString()
    return content
