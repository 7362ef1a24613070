"""Calibration: exact ranges, whatever the order and the batch size, with nothing kept."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from inception_deploy.artifact import FloatArray, model_digest
from inception_deploy.calibrate import observe, observed, self_observing
from inception_deploy.engines import ENGINES
from inception_deploy.errors import BadInput, DataError, StageError
from inception_deploy.ranges import Ranges

ENGINE = ENGINES.get("onnxruntime")
T = TypeVar("T")


class Listener:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.totals: list[int] = []

    def track(self, items: Iterable[T], description: str, total: int) -> Iterator[T]:
        self.totals.append(total)
        yield from items

    def stage(self, description: str) -> AbstractContextManager[None]:
        return nullcontext()

    def note(self, message: str) -> None:
        self.notes.append(message)


def graph(scale: float = 1.0, bias: float = 0.0) -> onnx.ModelProto:
    """1×1 convolution 3 → 2 → ReLU → global mean; the tensors are named after the nodes."""
    weight = scale * np.array([[1, -2, 3], [-1, 0.5, 0]], np.float32).reshape(2, 3, 1, 1)
    nodes = [
        helper.make_node("Conv", ["input", "w", "b"], ["stem"], name="stem.conv"),
        helper.make_node("Relu", ["stem"], ["relu"], name="stem.relu"),
        helper.make_node("GlobalAveragePool", ["relu"], ["mean"], name="pool"),
        helper.make_node("Shape", ["mean"], ["shape"], name="shape"),
        helper.make_node("Reshape", ["mean", "flat"], ["logits"], name="flatten"),
    ]
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        nodes,
        "g",
        [value("input", TensorProto.FLOAT, ["batch", 3, 5, 5])],
        [value("logits", TensorProto.FLOAT, ["batch", 2])],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(np.full(2, bias, np.float32), "b"),
            numpy_helper.from_array(np.array([0, 2], np.int64), "flat"),
        ],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def images(count: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).standard_normal((count, 3, 5, 5), np.float32)


def ranges(batches: Iterable[FloatArray], model: onnx.ModelProto | None = None) -> Ranges:
    return observe(model or graph(), batches, engine=ENGINE, data_digest="d", total=1)


def test_ranges_equal_the_numpy_reference() -> None:
    pixels = images(7)
    seen = ranges([pixels])
    weight = np.array([[1, -2, 3], [-1, 0.5, 0]], np.float32)
    stem = np.einsum("oc,nchw->nohw", weight, pixels)
    mean = np.maximum(stem, 0).mean((2, 3))
    expected = {"input": pixels, "stem": stem, "relu": np.maximum(stem, 0), "mean": mean}
    assert seen.tensors.keys() == {*expected, "logits"}
    for name, values in expected.items():
        assert seen.tensors[name].minimum == pytest.approx(values.min(), rel=1e-6), name
        assert seen.tensors[name].maximum == pytest.approx(values.max(), rel=1e-6), name
    assert seen.tensors["input"].max_abs == np.abs(pixels).max()
    assert seen.tensors["logits"] == seen.tensors["mean"]


def test_provenance_is_recorded() -> None:
    seen = ranges([images(3), images(2)])
    assert (seen.images, seen.data, seen.calibrator) == (5, "d", "min_max")
    assert seen.model == model_digest(graph())


@pytest.mark.parametrize("size", [1, 2, 5, 12])
def test_neither_order_nor_batch_size_matters(size: int) -> None:
    pixels = images(12)
    shuffled = pixels[np.random.default_rng(1).permutation(12)]
    batches = [shuffled[i : i + size] for i in range(0, 12, size)]
    assert ranges(batches).tensors == ranges([pixels]).tensors


def test_only_scalars_leave_the_engine_and_no_batch_is_kept() -> None:
    alive: list[weakref.ref[FloatArray]] = []
    most = 0

    def stream() -> Iterator[FloatArray]:
        nonlocal most
        for seed in range(6):
            batch = images(2, seed)
            alive.append(weakref.ref(batch))
            gc.collect()
            most = max(most, sum(ref() is not None for ref in alive))
            yield batch

    assert ranges(stream()).images == 12
    assert most <= 2  # the one just handed over, and the one being made
    model = graph()
    watching = self_observing(model, observed(model))
    assert all(not output.type.tensor_type.shape.dim for output in watching.graph.output)
    assert [o.name for o in model.graph.output] == ["logits"]  # the original is untouched


def test_constants_and_integers_are_not_observed() -> None:
    assert observed(graph()) == ("input", "stem", "relu", "mean", "logits")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_names_tensor_node_and_image(value: float) -> None:
    pixels = images(4)
    pixels[3, 1, 2, 2] = value
    with pytest.raises(StageError, match=r"'input' \(graph input\).* images 3 to 4"):
        ranges([pixels[:2], pixels[2:]])
    with pytest.raises(StageError, match=r"'stem' \(stem\.conv\)"):
        ranges([images(1)], graph(bias=value))


def test_nan_is_found_wherever_it_stands() -> None:
    """ReduceMin and ReduceMax skip NaN in ONNX Runtime, so this needs more than them."""
    for position in range(25):
        pixels = images(1)
        pixels[0, 0].flat[position] = np.nan
        with pytest.raises(StageError, match="'input'"):
            ranges([pixels])


def test_a_tensor_that_stays_zero_is_noted_with_its_node() -> None:
    listener = Listener()
    observe(
        graph(bias=-1e6),
        [images(2)],
        engine=ENGINE,
        data_digest="d",
        total=1,
        progress=listener,
    )
    assert listener.totals == [1]
    assert listener.notes[0] == "'relu' (stem.relu) is zero for every image"
    assert len(listener.notes) == 3  # and what follows from it


def test_no_images_is_an_error() -> None:
    with pytest.raises(DataError, match="no calibration images"):
        ranges([])


@pytest.mark.parametrize(
    "batch",
    [np.zeros((1, 3, 4, 5), np.float32), np.zeros((1, 3, 5, 5)), np.zeros((0, 3, 5, 5), "f4")],
)
def test_a_batch_that_does_not_fit_is_refused(batch: FloatArray) -> None:
    with pytest.raises(BadInput, match="'input'"):
        ranges([batch])
