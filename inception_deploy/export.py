"""PyTorch → ONNX: traced, cleaned exactly, named by architecture block, and proven.

What the TorchScript exporter leaves behind (`Identity` nodes for equal weights, `Constant` nodes,
scope paths as names) is removed here once, so that every later stage finds one kind of graph:
weights named by state-dict key, nodes and tensors by the module they came from, and the output of
each architecture block under the block's own name. docs/decisions/001 says why this exporter.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import onnx_graphsurgeon as gs
import torch
from torch.jit import TracerWarning  # type: ignore[attr-defined]

from inception_deploy import __version__
from inception_deploy.artifact import Artifact, Golden, StageRecord, model_digest, opset_of
from inception_deploy.errors import RecipeError, StageError
from inception_deploy.graphs import (
    METADATA_PREFIX,
    close_graph,
    is_op,
    is_output,
    open_graph,
    producer,
    set_metadata,
)
from inception_deploy.networks.base import InceptionNetwork
from inception_deploy.preprocess import Preprocessing
from inception_deploy.progress import Progress, SilentProgress
from inception_deploy.proof import FP32_BOUND, prove

__all__ = ["BOUND", "INPUT_NAME", "OPSETS", "export", "proven", "signed"]

INPUT_NAME = "input"

OPSETS = range(17, 21)
"""Opsets that can be asked for; the exporter knows none above 20 (torch.onnx)."""

BOUND = FP32_BOUND
"""Largest allowed error of an export: it computes what PyTorch does, but in another order."""

# Nothing of these may be left: they compute nothing, or what is known already.
LEFTOVERS = frozenset({"Constant", "Dropout", "Identity"})

# What the exporter says on every call, and what is known about it (docs/decisions/001).
KNOWN_WARNINGS = (
    (DeprecationWarning, "You are using the legacy TorchScript-based ONNX export"),
    (DeprecationWarning, "The feature will be removed. Please remove usage of this function"),
)


def export(
    module: InceptionNetwork,
    golden: Golden,
    *,
    network: str,
    preprocessing: Preprocessing,
    class_names: Sequence[str],
    opset: int = 20,
    progress: Progress | None = None,
) -> Artifact:
    """The FP32 ONNX graph of `module`, proven against `golden`.

    The graph has one input `input`, float32 (batch, 3, H, W) with a free first dimension and the
    golden inputs' H and W, and one output named `golden.output_name`. Two exports of one module are
    equal byte by byte.

    Args:
        network: the name in the registry; becomes the graph's name and metadata.
        preprocessing: recorded in the metadata.
        class_names: names of the output classes in order; may be empty.

    Raises:
        RecipeError: an opset that is not in `OPSETS`.
        StageError: the graph cannot be exported, is not valid, or is off by more than `BOUND`.
    """
    if opset not in OPSETS:
        raise RecipeError(f"opset must be in {OPSETS[0]}–{OPSETS[-1]}, not {opset}")
    listener = progress or SilentProgress()
    started = time.perf_counter()
    with listener.stage("exporting to ONNX"):
        traced = _trace(module, golden, opset)
        graph = open_graph(traced)
        graph.name = network
        _clean(graph)
        _unwrap(graph, module.wrapper)
        inner = module.get_submodule(module.wrapper)
        _rename(graph, {name for name, _ in inner.named_modules()})
        _name_blocks(graph, [name for name, _ in module.blocks()])
        model = signed(
            graph,
            traced,
            stage="export",
            network=network,
            head=module.head,
            preprocessing=preprocessing,
            class_names=class_names,
        )
    facts = {"exporter": f"torch {torch.__version__} TorchScript"}
    return proven(model, golden, stage="export", started=started, facts=facts, progress=progress)


def signed(
    graph: gs.Graph,
    like: onnx.ModelProto,
    *,
    stage: str,
    network: str,
    head: str,
    preprocessing: Preprocessing,
    class_names: Sequence[str],
) -> onnx.ModelProto:
    """The graph closed as this tool's own, its metadata saying what a reader of it has to know.

    Args:
        like, stage: as for `close_graph`; `like` becomes this tool's, too.
    """
    like.producer_name, like.producer_version = "inception-deploy", __version__
    model = close_graph(graph, like, stage=stage)
    set_metadata(
        model,
        {
            METADATA_PREFIX + "class_names": json.dumps(list(class_names)),
            METADATA_PREFIX + "head": head,
            METADATA_PREFIX + "network": network,
            METADATA_PREFIX + "preprocessing": preprocessing.to_json(),
        },
    )
    return model


def proven(
    model: onnx.ModelProto,
    golden: Golden,
    *,
    stage: str,
    started: float,
    facts: Mapping[str, Any],
    progress: Progress | None,
) -> Artifact:
    """The first artifact of a way, with one record, within `BOUND` of the golden.

    Args:
        started: when the stage began, `time.perf_counter()`.
        facts: of the stage, beside opset, nodes and the proof's own.

    Raises:
        StageError: the graph is off by more than `BOUND`.
    """
    proof = prove(model, golden, bound=BOUND, stage=stage, progress=progress)
    counted = {"opset": opset_of(model), "nodes": len(model.graph.node)}
    record = StageRecord(
        name=stage,
        seconds=time.perf_counter() - started,
        before=None,
        after=model_digest(model),
        error=proof.error,
        bound=BOUND,
        facts={**facts, **counted, **proof.facts()},
    )
    return Artifact(model, golden, (record,))


def _trace(module: InceptionNetwork, golden: Golden, opset: int) -> onnx.ModelProto:
    """The exporter's own graph: example batch of two, batch norms still standing."""
    module.eval()
    device = next(module.parameters()).device
    example = torch.zeros(2, *golden.inputs.shape[1:], device=device)
    try:
        with _quiet(), tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "traced.onnx"
            torch.onnx.export(
                module,
                (example,),
                file,
                dynamo=False,
                opset_version=opset,
                input_names=[INPUT_NAME],
                output_names=[golden.output_name],
                dynamic_axes={INPUT_NAME: {0: "batch"}, golden.output_name: {0: "batch"}},
                # EVAL would fold batch norms here, unproven and with the weights' names lost;
                # PRESERVE keeps the evaluation mode the module is in.
                training=torch.onnx.TrainingMode.PRESERVE,
                do_constant_folding=False,
            )
            return onnx.load_model(file)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise StageError(f"torch.onnx cannot export this network: {reason}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's known warnings from the user; a value frozen by tracing is an error."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")  # tracing is C++: a warning raised in there is a crash
        yield
    for warning in heard:
        text = str(warning.message)
        if issubclass(warning.category, TracerWarning):
            reason = text.splitlines()[0]
            raise StageError(f"torch.onnx cannot export this network: {reason}")
        if not any(
            issubclass(warning.category, category) and text.startswith(start)
            for category, start in KNOWN_WARNINGS
        ):
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )


def _clean(graph: gs.Graph) -> None:
    """Turn everything that is known already into initialisers; nothing is approximated."""
    for node in graph.nodes:
        _restore_linear(node)
    # whatever their size; without a threshold, large ones are folded with a warning
    graph.fold_constants(error_ok=False, size_threshold=sys.maxsize).cleanup()
    for node in graph.nodes:
        if node.op in LEFTOVERS:
            raise StageError(
                f"export left the {node.op} node '{node.name}'; keep it out of forward"
            )


def _restore_linear(node: gs.Node) -> None:
    """A linear layer without bias comes as `MatMul(x, Transpose(weight))`: back to `Gemm`.

    So every linear layer is one kind of node, with its weight as the state dict has it.
    """
    if not is_op(node, "MatMul") or len(node.inputs[0].shape) != 2:
        return
    turned = producer(node.inputs[1])
    if turned is not None and is_op(turned, "Transpose") and turned.attrs.get("perm") == [1, 0]:
        node.op, node.attrs = "Gemm", {"transB": 1}
        node.inputs[1] = turned.inputs[0]


def _unwrap(graph: gs.Graph, wrapper: str) -> None:
    """Leave the wrapper's name out of the scope paths of nodes and the names of weights."""
    if not wrapper:
        return
    for node in graph.nodes:
        node.name = node.name.removeprefix(f"/{wrapper}")
    for tensor in graph.tensors().values():
        tensor.name = tensor.name.removeprefix(f"{wrapper}.").removeprefix(f"/{wrapper}")


def _rename(graph: gs.Graph, modules: set[str]) -> None:
    """Scope paths → dotted names: `/repeat/repeat.0/conv2d/Conv` → `repeat.0.conv2d`.

    A module with a single node gives it its name; a node beside others keeps its operator as the
    last part, `Mixed_6c.Concat`. Tensors are named after the node they come from.
    """
    places = {id(node): _place(node.name, modules) for node in graph.nodes}
    owners = [module for module, _ in places.values()]
    inner = {m.rpartition(".")[0] for m in modules if m}
    for node in graph.nodes:
        module, operator = places[id(node)]
        alone = module and module not in inner and owners.count(module) == 1
        node.name = module if alone else ".".join(filter(None, (module, operator)))
        for index, tensor in enumerate(node.outputs):
            if not is_output(graph, tensor):
                tensor.name = node.name if index == 0 else f"{node.name}:{index}"
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Constant) and tensor.name.startswith("/"):
            path = tensor.name.rpartition("_output_")[0]
            tensor.name = ".".join(filter(None, _place(path, modules)))


def _place(path: str, modules: set[str]) -> tuple[str, str]:
    """Where a scope path leads: (dotted module name, what is left: the operator)."""
    module, rest = "", path.strip("/").split("/")
    while rest:
        child = f"{module}.{rest[0]}".lstrip(".")
        # children of a Sequential carry its name again: /repeat/repeat.0
        again = f"{module.rpartition('.')[0]}.{rest[0]}".lstrip(".")
        if child in modules:
            module = child
        elif again in modules and again.startswith(f"{module}."):
            module = again
        else:
            break
        rest = rest[1:]
    return module, ".".join(rest)


def _name_blocks(graph: gs.Graph, blocks: Sequence[str]) -> None:
    """Rename the output tensor of every block to the block's name, unless it is the graph's output.

    Raises `StageError` where a block has no single output.
    """
    for block in blocks:
        inside = [n for n in graph.nodes if n.name == block or n.name.startswith(f"{block}.")]
        members = {id(node) for node in inside}
        leaving = [
            tensor
            for node in inside
            for tensor in node.outputs
            if is_output(graph, tensor) or any(id(user) not in members for user in tensor.outputs)
        ]
        if len(leaving) != 1:
            names = ", ".join(f"'{tensor.name}'" for tensor in leaving) or "none"
            raise StageError(f"block '{block}' must have one output in the graph, found {names}")
        if not is_output(graph, leaving[0]):
            leaving[0].name = block
