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
from histogram_cases import contents, histogram_of
from onnx import TensorProto, helper, numpy_helper

from inception_deploy.artifact import FloatArray, model_digest
from inception_deploy.calibrate import calibrate, observe, observe_histograms
from inception_deploy.calibrators import CALIBRATORS, Grid, calibrator
from inception_deploy.engines import ENGINES
from inception_deploy.errors import BadInput, DataError, StageError
from inception_deploy.histograms import Histograms
from inception_deploy.observation import SAMPLES, observed, self_observing, stride
from inception_deploy.ranges import Choice, Ranges

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
def test_neither_order_nor_batch_size_changes_a_bit(size: int) -> None:
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
    with ENGINE.session(self_observing(model, observed(model)).SerializeToString()) as session:
        leaving = session.infer({"input": images(1)})
    assert [values.shape for values in leaving.values()] == [(5,)] * 3  # one scalar per tensor
    assert [o.name for o in model.graph.output] == ["logits"]  # the original is untouched


def test_constants_and_integers_are_not_observed() -> None:
    assert observed(graph()) == ("input", "stem", "relu", "mean", "logits")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_names_tensor_node_and_image(value: float) -> None:
    pixels = images(4)
    pixels[3, 1, 2, 2] = value
    with pytest.raises(StageError, match=r"'input' \(graph input\).* image 4;"):
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


TENSORS = ("input", "relu", "mean")


def histograms(
    batches: Iterable[FloatArray],
    model: onnx.ModelProto | None = None,
    tensors: tuple[str, ...] = TENSORS,
) -> Histograms:
    return observe_histograms(
        model or graph(), batches, tensors=tensors, engine=ENGINE, data_digest="d", total=1
    )


def outputs(pixels: FloatArray) -> dict[str, FloatArray]:
    model = onnx.shape_inference.infer_shapes(graph())
    del model.graph.output[:]
    model.graph.output.extend(v for v in model.graph.value_info if v.name in TENSORS)
    with ENGINE.session(model.SerializeToString()) as session:
        singles = [session.infer({"input": pixels[i : i + 1]}) for i in range(len(pixels))]
    return {"input": pixels} | {n: np.concatenate([s[n] for s in singles]) for n in singles[0]}


def test_histograms_hold_every_element_of_small_tensors() -> None:
    pixels = images(9)
    seen = histograms([pixels[:4], pixels[4:]])
    assert tuple(seen.tensors) == TENSORS
    for name, values in outputs(pixels).items():
        assert contents(seen.tensors[name]) == contents(histogram_of(values)), name
    assert (seen.images, seen.data, seen.model) == (9, "d", model_digest(graph()))


def test_ranges_beside_histograms_are_those_of_observe() -> None:
    seen, exact = histograms([images(6)]), ranges([images(6)])
    for name, histogram in seen.tensors.items():
        assert (histogram.minimum, histogram.maximum) == (
            exact.tensors[name].minimum,
            exact.tensors[name].maximum,
        )


def large(pixels: int = 64) -> onnx.ModelProto:
    """A ReLU on (batch, 3, pixels, pixels)."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Relu", ["input"], ["output"], name="act")],
        "g",
        [value("input", TensorProto.FLOAT, ["batch", 3, pixels, pixels])],
        [value("output", TensorProto.FLOAT, ["batch", 3, pixels, pixels])],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_large_tensors_are_sampled_and_outliers_still_seen() -> None:
    pixels = np.random.default_rng(0).standard_normal((3, 3, 64, 64), np.float32)
    step = stride(pixels[0].size)
    taken = set(range(0, pixels[0].size, step))
    outlier = next(index for index in range(7_000, 8_000) if index not in taken)
    pixels[1].flat[outlier] = 50.0
    histogram = histograms([pixels], large(), ("input", "output")).tensors["output"]
    assert histogram.maximum == 50.0
    samples = np.maximum(pixels.reshape(3, -1)[:, ::step], 0)
    assert samples.shape[1] <= SAMPLES
    assert histogram.zeros == step * np.count_nonzero(samples == 0)
    # every sample stands for `step` elements, the largest one of each image for itself
    assert histogram.samples == step * samples.size + 3
    assert histogram.counts[-1] == 1
    assert histogram.edges[-1] == 50.0


@pytest.mark.parametrize("size", [1, 5, 2048, 2049, 4096, 64 * 147 * 147, 192 * 35 * 35, 2**20])
def test_samples_are_few_and_not_in_step_with_rows_or_channels(size: int) -> None:
    step = stride(size)
    assert -(-size // step) <= SAMPLES
    assert np.gcd(step, size) == 1
    assert size <= SAMPLES or -(-size // step) > SAMPLES // 2


def test_samples_spread_over_all_channels_and_columns() -> None:
    channels, side = 48, 35
    taken = np.arange(0, channels * side * side, stride(channels * side * side))
    per_channel = np.bincount(taken // side**2, minlength=channels)
    per_column = np.bincount(taken % side, minlength=side)
    assert per_channel.min() >= len(taken) // channels - 1
    assert per_column.max() - per_column.min() <= 2


def test_histograms_name_what_is_not_finite_and_what_stays_zero() -> None:
    with pytest.raises(StageError, match=r"'relu' \(stem\.relu\).* image 1;"):
        histograms([images(1)], graph(bias=np.inf), ("relu",))
    listener = Listener()
    seen = observe_histograms(
        graph(bias=-1e6),
        [images(2)],
        tensors=("relu",),
        engine=ENGINE,
        data_digest="d",
        total=1,
        progress=listener,
    )
    assert listener.notes == ["'relu' (stem.relu) is zero for every image"]
    for clips in CALIBRATORS:
        dead = calibrate(seen, clips, Grid()).tensors["relu"]
        assert (dead.minimum, dead.maximum) == (0, 0), clips.name


def test_one_image_is_a_calibration_set() -> None:
    seen = histograms([images(1)])
    for clips in CALIBRATORS:
        found = calibrate(seen, clips, Grid())
        assert found.images == 1
        for name, histogram in seen.tensors.items():
            clip = found.tensors[name]
            assert clip.maximum > 0, (clips.name, name)
            assert clip.maximum <= max(histogram.maximum, 0), (clips.name, name)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(BadInput, match=r"'input' must have shape \(batch, 3, 5, 5\)"):
        histograms([np.zeros((1, 3, 7, 7), np.float32)])
    with pytest.raises(DataError, match="no calibration images"):
        histograms([])


def test_tensors_that_cannot_be_histogrammed_are_named() -> None:
    for name in ("nonsense", "w", "shape"):
        with pytest.raises(StageError, match=f"'{name}' is no float32 activation"):
            histograms([images(1)], tensors=(name,))
    free = large()
    free.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    with pytest.raises(StageError, match=r"'input' \(graph input\) has no fixed size"):
        histograms([images(1)], free, ("input",))


def test_calibrate_says_how_each_range_was_chosen() -> None:
    seen = histograms([images(40)])
    grids = {"input": Grid(), "relu": Grid(symmetric=True), "mean": Grid(levels=128)}
    found = calibrate(seen, calibrator("percentile:90"), grids)
    assert (found.calibrator, found.images, found.data) == ("percentile:90", 40, "d")
    assert [found.choices[name].grid for name in TENSORS] == ["u8", "s8", "u7"]
    assert all(choice.calibrator == "percentile:90" for choice in found.choices.values())
    assert found.tensors["relu"].minimum == -found.tensors["relu"].maximum
    assert found.tensors["input"].max_abs < seen.tensors["input"].max_abs
    exact = calibrate(seen, calibrator("min_max"), grids)
    for name in TENSORS:
        assert _sqnr(exact.choices[name]) > _sqnr(found.choices[name]) > 5
    with pytest.raises(StageError, match="no grid is given for 'relu'"):
        calibrate(seen, calibrator("mse"), {"input": Grid()})


def test_tensors_of_a_group_share_the_interval_of_what_they_hold_together() -> None:
    pixels = images(30)
    seen = histograms([pixels])
    groups = {"relu": 3, "mean": 3}
    found = calibrate(seen, calibrator("mse"), Grid(), groups)
    assert list(found.tensors) == list(TENSORS)
    assert found.tensors["relu"] == found.tensors["mean"]
    alone = calibrate(seen, calibrator("mse"), Grid())
    assert found.tensors["input"] == alone.tensors["input"]
    held = outputs(pixels)
    both = np.concatenate([held["relu"].ravel(), held["mean"].ravel()])
    expected = calibrator("mse").clip(histogram_of(both), Grid())
    assert found.tensors["mean"].maximum == expected.high
    # its own power against an error made for a larger neighbour
    assert _sqnr(found.choices["mean"]) < _sqnr(alone.choices["mean"])
    with pytest.raises(StageError, match=r"'relu' \(u8\) and 'mean' \(s8\) are of one group"):
        grids = {"input": Grid(), "relu": Grid(), "mean": Grid(symmetric=True)}
        calibrate(seen, calibrator("mse"), grids, groups)


def _sqnr(choice: Choice) -> float:
    assert choice.sqnr_db is not None
    return choice.sqnr_db


def test_the_history_holds_ranges_after_powers_of_two() -> None:
    pixels = images(11)
    history = histograms([pixels]).history
    assert [snapshot.images for snapshot in history] == [1, 2, 4, 8, 11]
    for snapshot in history:
        first = pixels[: snapshot.images]
        assert snapshot.ranges["input"] == (first.min(), first.max())
