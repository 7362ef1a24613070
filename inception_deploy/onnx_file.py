"""An FP32 ONNX file of the user's own as the reference: run exactly as it was given.

The golden is recorded from the file itself, with its own input name, its own batch size and no
optimiser, so that everything done to the graph afterwards has to prove itself against it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from torch import Tensor, nn

from inception_deploy.engines import ENGINES, Session
from inception_deploy.errors import CheckpointError, RecipeError
from inception_deploy.graphs import metadata
from inception_deploy.networks.base import InceptionNetwork

__all__ = ["OnnxNetwork", "block_tensors", "read_onnx", "recorded"]

FLOAT = onnx.TensorProto.FLOAT

LOWERED = frozenset({"QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger"})
"""Operators of a graph that has been quantised already."""

RESERVED = frozenset({"input", "logits", "probabilities", "features"})
"""What the tool calls the graph's input and output."""

ENDS_A_BLOCK = frozenset({"Concat", "MaxPool", "Relu"})
"""Whose output no exact rewrite changes, so that it can be compared with the file's."""


def read_onnx(path: Path) -> onnx.ModelProto:
    """The file's model, FP32, with one image input and one output.

    Raises:
        CheckpointError: it is missing, no valid ONNX, not FP32, or has other inputs and outputs.
    """
    if not path.is_file():
        raise CheckpointError(f"no such ONNX file: {path}")
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except (DecodeError, OSError, ValueError, onnx.checker.ValidationError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CheckpointError(f"{path} is not a valid ONNX model ({reason})") from error
    quantised = next((n for n in model.graph.node if n.op_type in LOWERED), None)
    if quantised is not None:
        raise CheckpointError(
            f"{path} is quantised already ('{quantised.name or quantised.op_type}'); "
            "give the FP32 graph it was made from"
        )
    if training := _in_training(model):
        raise CheckpointError(
            f"{path} was exported in training mode ('{training}' changes from run to run); "
            "export it again after module.eval()"
        )
    weights = {tensor.name for tensor in model.graph.initializer}
    halves = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16}
    if halves:
        raise CheckpointError(f"{path} holds float16 weights ('{min(halves)}'); give the FP32 one")
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1 or len(inputs[0].type.tensor_type.shape.dim) != 4:
        names = ", ".join(f"'{value.name}'" for value in inputs) or "none"
        raise CheckpointError(f"{path} must have one image input (N, 3, H, W), it has {names}")
    if inputs[0].type.tensor_type.elem_type != FLOAT:
        raise CheckpointError(f"{path}: the input '{inputs[0].name}' must be float32")
    channels, *sides = (d.dim_value for d in inputs[0].type.tensor_type.shape.dim[1:])
    if channels not in (0, 3) or len(set(sides)) > 1:
        shape = ", ".join(map(str, (channels, *sides)))
        raise CheckpointError(f"{path} takes (N, {shape}); networks here take (N, 3, S, S)")
    if len(model.graph.output) != 1:
        names = ", ".join(f"'{value.name}'" for value in model.graph.output)
        raise CheckpointError(
            f"{path} has {len(model.graph.output)} outputs ({names}); cut it to the one to deploy "
            "with onnx.utils.extract_model"
        )
    del model.graph.input[:]
    model.graph.input.extend(inputs)  # old files list their weights as inputs, too
    return model


def _in_training(model: onnx.ModelProto) -> str | None:
    """The first node that draws random numbers or takes statistics of the batch."""
    flags = {t.name: t for t in model.graph.initializer if t.data_type == onnx.TensorProto.BOOL}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            flags[node.output[0]] = node.attribute[0].t
        flag = flags.get(node.input[2]) if node.op_type == "Dropout" and node.input[2:] else None
        drops = flag is not None and bool(onnx.numpy_helper.to_array(flag))
        batch = any(a.name == "training_mode" and a.i for a in node.attribute)
        if drops or batch or node.op_type.startswith("Random"):
            return str(node.name or node.op_type)
    return None


def recorded(model: onnx.ModelProto, key: str) -> object | None:
    """The JSON value that an export of this tool left in the metadata under `key`."""
    found = metadata(model).get(key)
    return None if found is None else json.loads(found)


def block_tensors(model: onnx.ModelProto) -> list[str]:
    """The tensors through which everything passes: where one block ends and the next begins.

    After the node that puts out such a tensor, in processing order, no other activation is waiting
    to be used. Only outputs of `ENDS_A_BLOCK` behind the first convolution count; the graph's own
    output does not.
    """
    last_use = {name: i for i, node in enumerate(model.graph.node) for name in node.input}
    constant = {tensor.name for tensor in model.graph.initializer}
    pending: set[str] = {value.name for value in model.graph.input}
    final = model.graph.output[0].name
    found: list[str] = []
    convolved = False
    for index, node in enumerate(model.graph.node):
        convolved |= node.op_type == "Conv"
        if all(name in constant or not name for name in node.input):
            constant.update(node.output)
            continue
        pending.update(name for name in node.output if name in last_use or name == final)
        pending -= {name for name in node.input if last_use[name] == index}
        alone = len(pending) == 1 and final not in pending
        if alone and convolved and node.op_type in ENDS_A_BLOCK:
            found.append(node.output[0])
    return [name for name in found if name not in RESERVED]


class _Probe(nn.Module):
    """Hands a block's output to whoever hooked it."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class OnnxNetwork(InceptionNetwork):
    """The reference that is an ONNX file: forward runs it, node by node, as it is written.

    What the file puts out before a final softmax is what the head "logits" stands for; see `tail`.

    Args:
        path: read by `read_onnx`.
        side: of the square images, pixels.

    Raises:
        CheckpointError: as `read_onnx`, or ONNX Runtime cannot run it, or it returns no (N, K).
        RecipeError: the file takes images of another size.
    """

    memory_format = torch.contiguous_format  # which is how its engine takes images

    def __init__(self, path: Path, side: int | None = None) -> None:
        super().__init__()
        self.path = path
        self.model = read_onnx(path)
        dims = self.model.graph.input[0].type.tensor_type.shape.dim
        self.side = dims[3].dim_value or side or 0
        if not self.side:
            raise RecipeError(f"{path} takes images of any size; say which with --image-size")
        if side not in (None, self.side):
            raise RecipeError(f"{path} takes images of {self.side} pixels, not {side}")
        self.fixed_batch = dims[0].dim_value
        last = self.model.graph.node[-1]
        self.ends_in_softmax = (
            last.op_type == "Softmax" and last.output[0] == self.model.graph.output[0].name
        )
        self._tensors = block_tensors(self.model)
        self._probes = {name: _Probe() for name in self._tensors}
        self._session: Session | None = None
        probe = self.forward_features(torch.zeros(self.fixed_batch or 2, 3, self.side, self.side))
        if probe.ndim != 2:
            raise CheckpointError(
                f"{path} returns {tuple(probe.shape)}; networks here return (N, classes)"
            )
        self.num_classes = self.num_features = probe.shape[1]

    @property
    def parameter_count(self) -> int:
        """Numbers in the file's float initialisers."""
        tensors = (t for t in self.model.graph.initializer if t.data_type == FLOAT)
        return sum(int(np.prod(tensor.dims)) for tensor in tensors)

    @property
    def tail(self) -> str:
        """The tensor the head "logits" stands for: the last one, or what a final softmax takes."""
        if self.ends_in_softmax:
            return str(self.model.graph.node[-1].input[0])
        return str(self.model.graph.output[0].name)

    def forward_features(self, x: Tensor) -> Tensor:
        session = self._loaded()
        images = np.ascontiguousarray(x.numpy())
        name, count = session.inputs[0].name, len(images)
        size = self.fixed_batch or count
        filled = np.resize(images, (-(-count // size) * size, *images.shape[1:]))
        parts = [session.infer({name: filled[i : i + size]}) for i in range(0, len(filled), size)]
        for tensor, probe in self._probes.items():
            probe(torch.from_numpy(np.concatenate([part[tensor] for part in parts])[:count]))
        out = torch.from_numpy(np.concatenate([part[self.tail] for part in parts])[:count])
        return out.flatten(1) if out.ndim == 4 and out.shape[2:] == (1, 1) else out

    def classify(self, features: Tensor) -> Tensor:
        return features

    def blocks(self) -> Iterator[tuple[str, nn.Module]]:
        yield from self._probes.items()

    def _loaded(self) -> Session:
        """The session on the given graph, its blocks and its tail as outputs."""
        if self._session is None:
            shown = onnx.ModelProto()
            shown.CopyFrom(self.model)
            inferred = onnx.shape_inference.infer_shapes(shown)
            known = {v.name: v for v in (*inferred.graph.value_info, *inferred.graph.output)}
            del shown.graph.output[:]
            for name in dict.fromkeys((*self._tensors, self.tail)):
                shown.graph.output.append(
                    known.get(name) or onnx.helper.make_tensor_value_info(name, FLOAT, None)
                )
            engine = ENGINES.get("onnxruntime")
            self._session = engine.session(shown.SerializeToString(), optimise=False).__enter__()
        return self._session
