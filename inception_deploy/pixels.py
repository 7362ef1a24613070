"""A graph that takes raw pixels: uint8 in, the preprocessing's arithmetic in front of the network.

Resizing and cropping stay outside; what is left is affine per channel,

    ((p / 255) · pixel_max − mean) / std = p · pixel_max / (255 · std) − mean / std

one `Mul` and one `Add`, which the fusion `input_scale` then takes into the first convolution: all
of it where that is not padded, all but one `Add` where it is. Four times fewer bytes travel to the
device, and nobody has to normalise. The order of nodes is the one that every engine takes:
TensorRT parses a uint8 input only when `Cast` comes first, before any `Transpose`.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from inception_deploy.errors import StageError
from inception_deploy.graphs import close_graph, open_graph
from inception_deploy.preprocess import Preprocessing

__all__ = ["Layout", "arranged", "rounding_bound", "with_pixel_input"]

Layout: TypeAlias = Literal["NCHW", "NHWC"]
CHANNELS = 3


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
