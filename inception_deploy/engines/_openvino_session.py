"""A graph that OpenVINO runs on the CPU, and what the vendor's library is asked for it.

The CPU plugin runs float32 graphs in bfloat16 where the processor can, unless it is told otherwise;
here it is always told, so that a graph runs in the types it is written in.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from inception_deploy.engines._executed import by_node
from inception_deploy.engines.base import (
    Array,
    Session,
    TensorSpec,
)
from inception_deploy.errors import BadInput, MissingDependency, StageError

__all__ = [
    "FIXED_BATCHES",
    "REMEDY",
    "Hint",
    "OpenvinoSession",
    "Options",
    "core",
    "library",
    "outline",
    "reason",
]

Hint: TypeAlias = Literal["latency", "throughput"]
Shapes: TypeAlias = tuple[tuple[int, ...], ...]

REMEDY = "pip install openvino"
_BARE = "/WithoutBiases"  # what is left of a node's name when its bias goes another way
_TELEMETRY = "openvino_telemetry"

FIXED_BATCHES = 4
"""Batch sizes that get a graph compiled for them. That is 3–7 % faster than one compiled for any
batch (Inception v3 and GoogLeNet, two AVX512-VNNI cores), costs up to a second and the weights
once more each; further sizes share one graph for any batch."""

_PRECISIONS: Mapping[str, str] = {
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "i8": "int8",
    "u8": "int8",
}
"""Runtime precision of the plugin → name in reports. Both kinds of bytes are eight-bit integers."""


@dataclass(frozen=True)
class Options:
    """How OpenVINO compiles a graph.

    Args:
        hint: "latency" gives one inference all threads; "throughput" splits them over several
            inferences at once, which only `run_many` can make use of.
        streams: how many inferences run at once; None leaves it to the hint.
        precision: of what the graph computes in float32.
    """

    hint: Hint = "latency"
    streams: int | None = None
    precision: Literal["f32", "bf16"] = "f32"


class OpenvinoSession(Session):
    """A graph compiled by OpenVINO: an ONNX file, its bytes, or OpenVINO's own .xml beside a .bin.

    OpenVINO knows no names of free dimensions. They come from the ONNX graph; those of an .xml file
    are called `batch` in the first place and `?` in others, unless the ONNX file that it was made
    of is there to tell.

    Args:
        source: that file.
    """

    name = "openvino"

    def __init__(
        self,
        model: Path | bytes,
        *,
        threads: int | None,
        optimise: bool,
        options: Options,
        source: Path | None = None,
    ) -> None:
        self._model = model
        self._source = source
        self._config = _config(threads, optimise, options)
        self._proto: onnx.ModelProto | None = None
        self._network: Any = None
        self._compiled: dict[Shapes, Any] = {}
        self._requests: dict[Shapes, Any] = {}

    def load(self) -> None:
        """Load the graph and compile it, for a batch of one where the batch is free.

        Raises:
            MissingDependency: OpenVINO is not installed.
            BadInput: the file is missing or is no model.
            StageError: OpenVINO refuses the graph.
        """
        ov = library()
        self._proto = outline(self._model)
        own = self._proto is None
        if self._source is not None:
            self._proto = outline(self._source)
        source = self._model if isinstance(self._model, bytes) else str(self._model)
        try:
            weights = [b""] if isinstance(source, bytes) else []
            self._network = core(ov).read_model(source, *weights)
            inputs = tuple(_spec(port) for port in self._network.inputs)
            outputs = tuple(_spec(port) for port in self._network.outputs)
        except RuntimeError as error:
            if own:
                raise BadInput(
                    f"{self._where} is not an OpenVINO model ({reason(error)}); save it again"
                ) from error
            raise StageError(f"OpenVINO refuses {self._where}: {reason(error)}") from error
        names = _dimension_names(self._proto)
        ones = tuple(tuple(1 if isinstance(d, str) else d for d in s.shape) for s in inputs)
        self._fixed = all(not isinstance(d, str) for spec in inputs for d in spec.shape)
        self._batched = all(not isinstance(d, str) for spec in inputs for d in spec.shape[1:])
        self._request(ones)
        self.device = "CPU"
        self.inputs = tuple(_named(spec, names) for spec in inputs)
        self.outputs = tuple(_named(spec, names) for spec in outputs)

    @property
    def _where(self) -> str:
        return "the graph" if isinstance(self._model, bytes) else str(self._model)

    def infer_impl(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        values = [np.ascontiguousarray(feeds[spec.name]) for spec in self.inputs]
        request = self._request(tuple(value.shape for value in values))
        try:
            request.infer(dict(enumerate(values)), share_inputs=True)
            return self._outputs(request)
        except RuntimeError as error:
            raise StageError(f"OpenVINO failed while running: {reason(error)}") from error

    def run_many(self, batches: Iterable[Array]) -> Iterator[Array]:
        """As the base class says; as many at once as the hint and the streams allow."""
        self._opened()
        free: deque[Any] = deque()
        busy: deque[Any] = deque()
        shape: Shapes = ()
        for batch in batches:
            self.inputs[0].check(batch)
            if shape != (batch.shape,):  # requests belong to one compiled graph
                yield from self._drained(busy)
                shape = (batch.shape,)
                free = deque(self._pool(shape))
            if not free:
                yield self._waited(busy[0])
                free.append(busy.popleft())
            request = free.popleft()
            request.start_async({0: np.ascontiguousarray(batch)})
            busy.append(request)
        yield from self._drained(busy)

    def executed_precisions(self) -> dict[str, str]:
        """As the base class says, from the runtime graph of the first graph compiled."""
        self._opened()
        found: dict[str, str] = {}
        compiled = next(iter(self._compiled.values()))
        for node in compiled.get_runtime_model().get_ordered_ops():
            told = node.get_rt_info()
            precision = _PRECISIONS.get(str(told["runtimePrecision"].astype(str)))
            if precision is not None:
                names = str(told["originalLayersNames"].astype(str)).split(",")
                found |= {name.removesuffix(_BARE): precision for name in names if name}
        return dict(found) if self._proto is None else by_node(self._proto, found)

    def close(self) -> None:
        """Free every compiled graph and its buffers."""
        self._requests.clear()
        self._compiled.clear()
        self._network = self._proto = None

    def _drained(self, busy: deque[Any]) -> Iterator[Array]:
        while busy:
            yield self._waited(busy.popleft())

    def _waited(self, request: Any) -> Array:
        try:
            request.wait()
            return self._outputs(request)[self.outputs[0].name]
        except RuntimeError as error:
            raise StageError(f"OpenVINO failed while running: {reason(error)}") from error

    def _outputs(self, request: Any) -> dict[str, Array]:
        """Copies: the request writes its next results over these."""
        return {
            spec.name: np.array(request.get_output_tensor(index).data)
            for index, spec in enumerate(self.outputs)
        }

    def _pool(self, shapes: Shapes) -> list[Any]:
        """As many requests for inputs of `shapes` as are to run at once."""
        self._request(shapes)
        compiled = self._compiled[self._key(shapes)]
        count = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        return [compiled.create_infer_request() for _ in range(count)]

    def _request(self, shapes: Shapes) -> Any:
        """The request for inputs of `shapes`, compiled where it is the first of its kind."""
        key = self._key(shapes)
        if key not in self._requests:
            compiled = self._compile(key)
            self._compiled[key] = compiled
            self._requests[key] = compiled.create_infer_request()
        return self._requests[key]

    def _key(self, shapes: Shapes) -> Shapes:
        """Shapes to compile for; () for any."""
        if self._fixed or not self._batched:
            return ()
        full = len(self._compiled) - (() in self._compiled) >= FIXED_BATCHES
        return () if full and shapes not in self._compiled else shapes

    def _compile(self, shapes: Shapes) -> Any:
        ov = library()
        network = self._network
        try:
            if shapes:
                network = network.clone()
                network.reshape(
                    {
                        port: ov.PartialShape(list(s))
                        for port, s in zip(network.inputs, shapes, strict=True)
                    }
                )
            return core(ov).compile_model(network, "CPU", self._config)
        except RuntimeError as error:
            raise StageError(f"OpenVINO refuses {self._where}: {reason(error)}") from error


def library() -> Any:
    """The vendor's module. Raises `MissingDependency` where it is not installed.

    Importing it reports to a web service, unless its telemetry package cannot be imported.
    """
    absent = _TELEMETRY not in sys.modules
    if absent:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment] # how Python marks "no such module"
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise MissingDependency(f"OpenVINO cannot be imported; run: {REMEDY}") from error
    finally:
        if absent:
            del sys.modules[_TELEMETRY]


@cache
def core(ov: Any) -> Any:
    """One per process: it holds the plugin and its thread pools."""
    return ov.Core()


def _config(threads: int | None, optimise: bool, options: Options) -> dict[str, Any]:
    """Properties of the CPU plugin."""
    config: dict[str, Any] = {
        "PERFORMANCE_HINT": options.hint.upper(),
        "INFERENCE_PRECISION_HINT": options.precision,
        # would quantise activations of layers whose weights alone are integers
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    if options.streams:
        config["NUM_STREAMS"] = options.streams
    if not optimise:
        config |= {"LP_TRANSFORMS_MODE": "NO", "SNIPPETS_MODE": "DISABLE"}
    return config


def outline(model: Path | bytes) -> onnx.ModelProto | None:
    """The ONNX graph, external weights left where they are; None for an .xml file.

    Raises:
        BadInput: there is none.
    """
    where = "the graph" if isinstance(model, bytes) else str(model)
    if isinstance(model, Path) and not model.is_file():
        raise BadInput(f"{where} is not a file; give the path of an ONNX or OpenVINO model")
    if not model:
        raise BadInput(f"{where} is empty; export it again")
    if isinstance(model, Path) and model.suffix == ".xml":
        return None
    try:
        if isinstance(model, bytes):
            proto = onnx.load_model_from_string(model)
        else:
            proto = onnx.load(model, load_external_data=False)
    except DecodeError as error:
        raise BadInput(f"{where} is not an ONNX model; export it again") from error
    if not proto.graph.output:
        raise BadInput(f"{where} is not an ONNX model: it has no outputs; export it again")
    return proto


def _spec(port: Any) -> TensorSpec:
    name = port.get_any_name() if port.names else port.node.get_friendly_name()
    kind = port.get_element_type()
    if kind.get_type_name() == "bf16":
        raise StageError(f"'{name}' is bfloat16, which has no NumPy counterpart")
    dims = port.get_partial_shape()
    if dims.rank.is_dynamic:
        raise StageError(f"'{name}' has a free number of dimensions; export it with a fixed one")
    shape = tuple(
        "?" if d.is_dynamic and i else "batch" if d.is_dynamic else d.get_length()
        for i, d in enumerate(dims)
    )
    return TensorSpec(name, np.dtype(kind.to_dtype()), shape)


def _dimension_names(proto: onnx.ModelProto | None) -> dict[str, list[str]]:
    """Input or output → names of its dimensions, "" where it has none."""
    values = () if proto is None else (*proto.graph.input, *proto.graph.output)
    return {v.name: [d.dim_param for d in v.type.tensor_type.shape.dim] for v in values}


def _named(spec: TensorSpec, names: Mapping[str, list[str]]) -> TensorSpec:
    known = names.get(spec.name) or [""] * len(spec.shape)
    shape = tuple(
        name or dim if isinstance(dim, str) else dim
        for dim, name in zip(spec.shape, known, strict=True)
    )
    return TensorSpec(spec.name, spec.dtype, shape)


def reason(error: Exception) -> str:
    """One line of what OpenVINO says: without its source paths and headings."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    heading = re.compile(r"^(Exception from|Check '|FrontEnd API failed|While validating)")
    told = [line for line in lines if not heading.match(line)] or lines or [type(error).__name__]
    text = " ".join(told[:3])
    return re.sub(r"(?:Exception from |at )?\S+\.(?:h|cc|cpp|hpp):\d+:?\s*", "", text)[:300]
