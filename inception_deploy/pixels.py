"""A graph that takes raw pixels: uint8 in, the preprocessing's arithmetic in front of the network.

Resizing and cropping stay outside; what is left is affine per channel,

    ((p / 255) · pixel_max − mean) / std = p · pixel_max / (255 · std) − mean / std

one `Mul` and one `Add`, which the fusion `input_scale` then takes into the first convolution: all
of it where that is not padded, all but one `Add` where it is. Four times fewer bytes travel to the
device, and nobody has to normalise. The order of nodes is the one that every engine takes:
TensorRT parses a uint8 input only when `Cast` comes first, before any `Transpose`.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from inception_deploy.artifact import Applied, Artifact, StageRecord, model_digest
from inception_deploy.dataset import Batch
from inception_deploy.errors import DataError, StageError
from inception_deploy.graphs import METADATA_PREFIX, close_graph, metadata, open_graph, set_metadata
from inception_deploy.preprocess import Preprocessing
from inception_deploy.progress import Progress, SilentProgress
from inception_deploy.proof import FP32_BOUND, prove
from inception_deploy.recipe import Layout

__all__ = ["Layout", "arranged", "fed", "rounding_bound", "take_pixels", "with_pixel_input"]

CHANNELS = 3


def take_pixels(
    artifact: Artifact,
    preprocessing: Preprocessing,
    layout: Layout,
    pixels: NDArray[np.uint8],
    *,
    progress: Progress | None = None,
) -> Artifact:
    """The artifact with raw pixels for its input, and one record "pixels", proven on `pixels`.

    The graph's metadata says so under "input"; a graph without that entry takes floats.

    Args:
        pixels: what the golden's inputs were normalised from, uint8, in `layout` (see `fed`); from
            here on they are what the golden feeds.

    Raises:
        StageError: as `with_pixel_input`, or the result is off by more than `proof.FP32_BOUND`.
    """
    listener = progress or SilentProgress()
    started = time.perf_counter()
    with listener.stage("pixels"):
        model = with_pixel_input(artifact.model, preprocessing, layout)
        taken = json.dumps({"dtype": "uint8", "layout": layout})
        set_metadata(model, {**metadata(model), f"{METADATA_PREFIX}input": taken})
    golden = replace(artifact.golden, pixels=pixels)
    proof = prove(model, golden, bound=FP32_BOUND, stage="pixels", progress=progress)
    record = StageRecord(
        name="pixels",
        seconds=time.perf_counter() - started,
        before=artifact.digest,
        after=model_digest(model),
        applied=tuple(
            Applied("pixels", node.name, node.op_type)
            for node in model.graph.node
            if node.name.startswith("pixels.")
        ),
        error=proof.error,
        bound=FP32_BOUND,
        facts={"layout": layout, "nodes": len(model.graph.node), **proof.facts()},
    )
    return replace(artifact, golden=golden).advance(model, record)


def fed(batch: Batch, layout: Layout | None) -> NDArray[Any]:
    """What a graph is given of a batch: its pixels in `layout`, or its float inputs where None.

    Raises:
        DataError: pixels are asked for, and the batch has none.
    """
    if layout is None:
        return batch.inputs
    if batch.pixels is None:
        raise DataError(
            f"'{batch.names[0]}' is preprocessed already and has no pixels for a uint8 input; "
            "give images, or an .npz of uint8 'images'"
        )
    return arranged(batch.pixels, layout)


def with_pixel_input(
    model: onnx.ModelProto, preprocessing: Preprocessing, layout: Layout = "NCHW"
) -> onnx.ModelProto:
    """A copy of `model` whose input takes the pixels of cropped images, uint8 RGB in 0–255.

    The input keeps its name and its free batch; its shape is (batch, 3, H, W), or (batch, H, W, 3)
    for NHWC. What the network sees differs from `preprocessing.normalise` by rounding only:
    see `rounding_bound`.

    Args:
        model: one input, float32 (batch, 3, H, W), normalised as `preprocessing` says.
        layout: of the new input; "NHWC" is how decoders and cameras deliver.

    Raises:
        StageError: `model` has another kind of input, or the result is not valid.
    """
    given = _image_input(model)
    pixels = onnx.ModelProto()
    pixels.CopyFrom(model)
    nodes = _nodes(pixels, preprocessing, layout)
    for node in pixels.graph.node:
        for index, name in enumerate(node.input):
            if name == given.name:
                node.input[index] = nodes[-1].output[0]
    network = list(pixels.graph.node)
    del pixels.graph.node[:]
    pixels.graph.node.extend((*nodes, *network))
    tensor = pixels.graph.input[0].type.tensor_type
    tensor.elem_type = TensorProto.UINT8
    if layout == "NHWC":
        batch, channels, height, width = given.type.tensor_type.shape.dim
        del tensor.shape.dim[:]
        tensor.shape.dim.extend((batch, height, width, channels))
    return close_graph(open_graph(pixels), pixels, stage="pixels")


def arranged(pixels: NDArray[np.uint8], layout: Layout) -> NDArray[np.uint8]:
    """Pixels as `Preprocessing.crop` gives them, (N, H, W, 3), as the graph's input wants them."""
    return pixels if layout == "NHWC" else np.ascontiguousarray(np.moveaxis(pixels, -1, 1))


def rounding_bound(preprocessing: Preprocessing) -> float:
    """Largest |difference| of the normalised image in the graph and from `normalise`.

    Both round to float32 a handful of times. With u = 2⁻²⁴ the unit roundoff and to first order,
    `normalise` is off by (5 · pixel_max + 4 · |mean|) · u / std at most, and Mul and Add by
    (3 · pixel_max + 2 · |mean|) · u / std: together less than 8u · (pixel_max + |mean|) / std.
    """
    mean, std = np.abs(preprocessing.mean), np.asarray(preprocessing.std)
    return float(2.0**-21 * np.max((preprocessing.pixel_max + mean) / std))


def _image_input(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    inputs: list[onnx.ValueInfoProto] = list(model.graph.input)
    if len(inputs) != 1:
        raise StageError(f"pixels: the graph has {len(inputs)} inputs; one image input is needed")
    tensor = inputs[0].type.tensor_type
    channels = [dim.dim_value for dim in tensor.shape.dim][1:2]
    if tensor.elem_type != TensorProto.FLOAT or len(tensor.shape.dim) != 4:
        kind = TensorProto.DataType.Name(tensor.elem_type)
        raise StageError(
            f"pixels: input '{inputs[0].name}' is {kind} with {len(tensor.shape.dim)} axes; "
            "only a FLOAT (batch, 3, H, W) can be replaced"
        )
    if channels != [CHANNELS]:
        raise StageError(f"pixels: input '{inputs[0].name}' has {channels[0]} channels, not 3")
    return inputs[0]


def _nodes(
    model: onnx.ModelProto, preprocessing: Preprocessing, layout: Layout
) -> list[onnx.NodeProto]:
    """Cast, then Transpose, Gather, Mul and Add as far as they do something; weights are added."""
    std = np.asarray(preprocessing.std, np.float64)
    scale = preprocessing.pixel_max / 255.0 / std
    shift = -np.asarray(preprocessing.mean, np.float64) / std
    nodes = [
        helper.make_node("Cast", [model.graph.input[0].name], ["pixels.Cast"], to=TensorProto.FLOAT)
    ]

    def then(operator: str, values: NDArray[np.generic] | None = None, **attributes: Any) -> None:
        inputs = list(nodes[-1].output)
        if values is not None:
            inputs.append(f"pixels.{operator.lower()}")
            model.graph.initializer.append(numpy_helper.from_array(values, inputs[-1]))
        nodes.append(helper.make_node(operator, inputs, [f"pixels.{operator}"], **attributes))

    if layout == "NHWC":
        then("Transpose", perm=[0, 3, 1, 2])
    if preprocessing.channel_order == "BGR":
        then("Gather", np.array([2, 1, 0]), axis=1)
    if (scale != 1.0).any():
        then("Mul", scale.astype(np.float32).reshape(1, CHANNELS, 1, 1))
    if shift.any():
        then("Add", shift.astype(np.float32).reshape(1, CHANNELS, 1, 1))
    for node in nodes:
        node.name = node.output[0]
    return nodes
