"""Graphs that take pixels, against the preprocessing in front of graphs that take floats."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from small_networks import exported

from inception_deploy.engines import ENGINES
from inception_deploy.engines.base import Array
from inception_deploy.errors import StageError
from inception_deploy.fuse import rewrite
from inception_deploy.fusions import FUSIONS
from inception_deploy.networks import NETWORKS
from inception_deploy.pixels import Layout, arranged, rounding_bound, with_pixel_input
from inception_deploy.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from inception_deploy.proof import FP32_BOUND

each_network = pytest.mark.parametrize("name", NETWORKS.names())
INPUT_SCALE = FUSIONS.get("input_scale")

CAFFE = Preprocessing(
    8, 8, mean=(104, 117, 123), std=(1, 1, 1), channel_order="BGR", pixel_max=255.0
)
PLAIN = Preprocessing(8, 8, mean=(0, 0, 0), std=(1, 1, 1), pixel_max=255.0)
IMAGENET = Preprocessing(8, 8, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def run(model: onnx.ModelProto, images: Array) -> dict[str, Array]:
    engine = ENGINES.get("onnxruntime")
    with engine.session(model.SerializeToString(), threads=1, optimise=False) as session:
        assert [spec.name for spec in session.inputs] == ["input"]
        return session.infer({"input": images})


def pictures(model: onnx.ModelProto, count: int = 3) -> NDArray[np.uint8]:
    """uint8 (N, H, W, 3) of the size that `model` takes, floats in NCHW."""
    height, width = (d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[2:])
    drawn = np.random.default_rng(0).integers(0, 256, (count, height, width, 3))
    return drawn.astype(np.uint8)


def small(side: int = 8) -> onnx.ModelProto:
    """The network that puts out its input."""
    text = f"""<ir_version: 9, opset_import: ["": 20]>
        g (float[batch, 3, {side}, {side}] input) => (float[batch, 3, {side}, {side}] output)
        {{ output = Identity(input) }}"""
    model = onnx.parser.parse_model(text)
    model.graph.node[0].name = "same"
    return model


def network_preprocessing(name: str, model: onnx.ModelProto) -> Preprocessing:
    side = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    return NETWORKS.get(name).preprocessing.with_size(side)


def relative(have: Array, want: Array) -> float:
    return float(np.abs(have.astype(np.float64) - want).max() / np.abs(want).max())


@each_network
def test_puts_out_what_preprocessed_floats_give(name: str) -> None:
    model = exported(name).model
    preprocessing, pixels = network_preprocessing(name, model), pictures(model)
    want = run(model, preprocessing.normalise(pixels))["logits"]
    taking = with_pixel_input(model, preprocessing)
    assert relative(run(taking, arranged(pixels, "NCHW"))["logits"], want) <= FP32_BOUND

    folded, applied, _ = rewrite(taking, INPUT_SCALE)
    assert len(applied) == 1
    assert relative(run(folded, arranged(pixels, "NCHW"))["logits"], want) <= FP32_BOUND
    first = next(node for node in folded.graph.node if node.op_type == "Conv")
    pads = next(list(a.ints) for a in first.attribute if a.name == "pads")
    front = [node.op_type for node in folded.graph.node if node.name.startswith("pixels.")]
    assert front == (["Cast", "Add"] if any(pads) else ["Cast"])


@pytest.mark.parametrize("name", ["googlenet_lrn", "inception_v3"])
def test_takes_what_a_decoder_delivers(name: str) -> None:
    model = exported(name).model
    preprocessing, pixels = network_preprocessing(name, model), pictures(model)
    taking = with_pixel_input(model, preprocessing, "NHWC")
    side = preprocessing.size
    dims = taking.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["batch", side, side, 3]
    assert [node.op_type for node in taking.graph.node[:2]] == ["Cast", "Transpose"]
    want = run(model, preprocessing.normalise(pixels))["logits"]
    folded, applied, _ = rewrite(taking, INPUT_SCALE)
    assert len(applied) == 1
    for graph in (taking, folded):
        assert relative(run(graph, pixels)["logits"], want) <= FP32_BOUND


SCHEMES = {
    **{spec.name: spec.preprocessing for spec in NETWORKS},
    "Caffe": CAFFE,
    "plain": PLAIN,
    "ImageNet": IMAGENET,
}


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_pixel_value_stays_within_the_bound(scheme: str, layout: Layout) -> None:
    preprocessing = SCHEMES[scheme]
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    pixels = np.concatenate([values, values[:, ::-1], values.transpose(0, 2, 1, 3)], axis=3)
    have = run(with_pixel_input(small(16), preprocessing, layout), arranged(pixels, layout))
    difference = np.abs(have["output"].astype(np.float64) - preprocessing.normalise(pixels))
    assert difference.max() <= rounding_bound(preprocessing)
    assert rounding_bound(preprocessing) < 1e-4 * max(1.0, preprocessing.pixel_max)


@pytest.mark.parametrize(
    ("preprocessing", "operators"),
    [
        (PLAIN, ["Cast"]),
        (CAFFE, ["Cast", "Gather", "Add"]),
        (IMAGENET, ["Cast", "Mul", "Add"]),
    ],
)
def test_adds_only_what_does_something(preprocessing: Preprocessing, operators: list[str]) -> None:
    model = with_pixel_input(small(), preprocessing)
    assert [node.op_type for node in model.graph.node] == [*operators, "Identity"]
    names = [node.name for node in model.graph.node[:-1]]
    assert names == [f"pixels.{operator}" for operator in operators]


def test_the_interface_but_the_type_stays() -> None:
    before = small()
    untouched = before.SerializeToString(deterministic=True)
    after = with_pixel_input(before, IMAGENET)
    assert before.SerializeToString(deterministic=True) == untouched
    assert [value.name for value in after.graph.input] == ["input"]
    tensor = after.graph.input[0].type.tensor_type
    assert tensor.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_param or d.dim_value for d in tensor.shape.dim] == ["batch", 3, 8, 8]
    assert list(after.graph.output) == list(before.graph.output)


def test_metadata_and_blocks_survive() -> None:
    before = exported("googlenet").model
    after = with_pixel_input(before, IMAGENET)
    assert list(after.metadata_props) == list(before.metadata_props)
    counts = Counter(node.op_type for node in before.graph.node)
    assert Counter(node.op_type for node in after.graph.node) - counts == Counter(
        ["Cast", "Mul", "Add"]
    )


def test_a_graph_that_takes_pixels_already_is_refused() -> None:
    with pytest.raises(StageError, match="'input' is UINT8 with 4 axes; only a FLOAT"):
        with_pixel_input(with_pixel_input(small(), IMAGENET), IMAGENET)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("float[batch, 1, 8, 8] input", "has 1 channels, not 3"),
        ("float[batch, 3] input", "is FLOAT with 2 axes"),
        ("float[batch, 3, 8, 8] input, float[batch] other", "has 2 inputs"),
    ],
)
def test_other_inputs_are_refused(given: str, message: str) -> None:
    text = f'<ir_version: 9, opset_import: ["": 20]> g ({given}) => (float[batch] output) {{}}'
    with pytest.raises(StageError, match=message):
        with_pixel_input(onnx.parser.parse_model(text), IMAGENET)
