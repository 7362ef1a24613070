"""An ONNX file → the graph every later stage expects: as an export would have left it.

What is done is exact, and proven against what the file itself puts out: initialisers are no
inputs, the batch is free, constants are initialisers, every node has a name, the input is called
`input` and the output after the head, with the softmax that the head asks for or without one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx.version_converter import ConvertError

from inception_deploy.artifact import Artifact, Golden, opset_of
from inception_deploy.errors import StageError
from inception_deploy.export import INPUT_NAME, OPSETS, proven, signed
from inception_deploy.graphs import BATCH, open_graph
from inception_deploy.onnx_file import OnnxNetwork
from inception_deploy.preprocess import Preprocessing
from inception_deploy.progress import Progress, SilentProgress

__all__ = ["import_onnx"]

IR_VERSION = 8
"""The lowest one: it is the first in which an opset of `OPSETS` can be written."""


def import_onnx(
    network: OnnxNetwork,
    golden: Golden,
    *,
    name: str,
    preprocessing: Preprocessing,
    class_names: Sequence[str],
    opset: int = 20,
    progress: Progress | None = None,
) -> Artifact:
    """The file's graph with one record "import", proven against `golden`.

    Args:
        golden: recorded from `network`.
        name: becomes the graph's name and metadata.
        opset: files of opsets older than `OPSETS` are converted to this one.

    Raises:
        StageError: the file cannot be converted, its batch cannot be freed, or the result is off by
            more than `export.BOUND`.
    """
    listener = progress or SilentProgress()
    started = time.perf_counter()
    with listener.stage("importing the ONNX file"):
        given = _converted(network.model, opset)
        _free_batch(given, network.fixed_batch)
        _name_nodes(given)
        graph = open_graph(_folded(given))
        graph.name = name
        # again, with the shapes of what stood in the branches of an `If`
        graph.fold_constants(error_ok=False, size_threshold=sys.maxsize).cleanup()
        _end(graph, network, golden.output_name)
        _call(graph, graph.inputs[0], INPUT_NAME)
        _call(graph, graph.outputs[0], golden.output_name)
        model = signed(
            graph,
            given,
            stage="import",
            network=name,
            head=network.head,
            preprocessing=preprocessing,
            class_names=class_names,
        )
    facts = {"file": network.path.name}
    return proven(model, golden, stage="import", started=started, facts=facts, progress=progress)


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with constants folded and the branch in place of every `If` of known condition.

    TorchScript writes such an `If` where a module asks for the rank of its input, as
    `LocalResponseNorm` does. Shape inference does not look into branches.
    """
    if not any(node.op_type == "If" for node in model.graph.node):
        return model
    graph = open_graph(model)
    graph.fold_constants(error_ok=False, size_threshold=sys.maxsize).cleanup().toposort()
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    folded.graph.CopyFrom(gs.export_onnx(graph, do_type_check=False).graph)
    del folded.graph.value_info[:]
    _name_nodes(folded)  # a branch brings names of its own
    return folded


def _converted(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """A copy of `model` in an opset that the later stages know."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    have = opset_of(copy)
    if have < OPSETS[0]:
        try:
            copy = onnx.version_converter.convert_version(copy, opset)
        except (ConvertError, RuntimeError) as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise StageError(
                f"import: opset {have} cannot be converted to {opset} ({reason}); "
                f"export the file again with opset {OPSETS[0]} or later"
            ) from error
    copy.ir_version = max(copy.ir_version, IR_VERSION)
    return copy


def _free_batch(model: onnx.ModelProto, fixed: int) -> None:
    """Let the first dimension of input and output be `batch`; a baked-in batch is replaced.

    A `Reshape` to (fixed, …) keeps the first dimension of what it is given, written 0; that this
    holds is for the proof to show, which runs batches of several sizes.
    """
    graph = model.graph
    for value in (*graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if len(dims):
            dims[0].dim_param = BATCH
    del graph.value_info[:]
    if not fixed:
        return
    shapes = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            shapes[node.output[0]] = node.attribute[0].t
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[1] not in shapes or node.attribute:
            continue  # its one attribute, allowzero, takes the 0 away from us
        target = onnx.numpy_helper.to_array(shapes[node.input[1]]).copy()
        if target.size and target[0] == fixed:
            target[0] = 0
            name = f"{node.input[1]}:{node.output[0]}"  # others may share the old one
            graph.initializer.append(onnx.numpy_helper.from_array(target, name))
            node.input[1] = name


def _name_nodes(model: onnx.ModelProto) -> None:
    """A name for every node that has none, or one that another has too: that of its output."""
    taken: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = next(filter(None, node.output), node.op_type)
        if node.name in taken:
            node.name = f"{node.name}:{index}"
        taken.add(node.name)


def _end(graph: gs.Graph, network: OnnxNetwork, head: str) -> None:
    """Cut the softmax off, or append one, as the head asks; (N, K, 1, 1) becomes (N, K)."""
    last = graph.outputs[0].inputs[0]
    if head == "logits" and network.ends_in_softmax:
        graph.outputs[0] = last.inputs[0]
        graph.cleanup()
    tensor = graph.outputs[0]
    if len(tensor.shape or ()) == 4:
        flat = gs.Variable(f"{tensor.name}:flat", np.float32, list(tensor.shape[:2]))
        graph.nodes.append(gs.Node("Flatten", "head.Flatten", {"axis": 1}, [tensor], [flat]))
        graph.outputs[0] = tensor = flat
    if head == "probabilities" and not network.ends_in_softmax:
        soft = gs.Variable(f"{tensor.name}:softmax", np.float32, tensor.shape)
        graph.nodes.append(gs.Node("Softmax", "head.Softmax", {"axis": 1}, [tensor], [soft]))
        graph.outputs[0] = soft


def _call(graph: gs.Graph, tensor: gs.Tensor, name: str) -> None:
    """Rename a tensor; one that has the name already steps aside."""
    for other in graph.tensors().values():
        if other.name == name and other is not tensor:
            other.name = f"{name}:given"
    tensor.name = name
