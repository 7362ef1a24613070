"""A graph that ONNX Runtime runs, on the CPU or by its CUDA provider."""

from __future__ import annotations

import importlib
import json
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias

import numpy as np
import onnx

from inception_deploy.engines._executed import by_node
from inception_deploy.engines._onnxruntime_lanes import Lanes, own_threads, separable
from inception_deploy.engines._onnxruntime_library import SILENT, cuda_problem, library, reason
from inception_deploy.engines._onnxruntime_told import precisions, seconds_per_node
from inception_deploy.engines.base import Array, Session, TensorSpec
from inception_deploy.errors import BadInput, StageError

__all__ = ["OnnxRuntimeSession", "run_on_device"]

_DTYPES: Mapping[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(double)": np.dtype(np.float64),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(int8)": np.dtype(np.int8),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(bool)": np.dtype(np.bool_),
}

# TF32 would round convolution inputs to 10 bits and pass it off as FP32. The exhaustive algorithm
# search times kernels, so two loads of one graph could differ; the heuristic one is a table.
_CUDA_OPTIONS: Mapping[str, str] = {
    "use_tf32": "0",
    "cudnn_conv_algo_search": "HEURISTIC",
    "arena_extend_strategy": "kSameAsRequested",
}


_Stamp: TypeAlias = tuple[int, ...]


class OnnxRuntimeSession(Session):
    """A graph loaded into ONNX Runtime.

    On a CPU without half-precision kernels a float16 graph runs in float32 on float16 weights, as
    fast as an FP32 one: docs/decisions/002.

    On a CPU a batch that is a multiple of the number of threads is cut into as many lanes, if
    `lanes` allows it and the graph is run optimised and has one row per image in all inputs and
    outputs: docs/decisions/010. Lanes run on a second session, which holds the weights once more
    and is loaded within the first such batch. Other batches, and a file that has changed since it
    was loaded, are run as a whole.
    """

    name = "onnxruntime"

    def __init__(
        self, model: Path | bytes, *, threads: int | None, optimise: bool, lanes: bool
    ) -> None:
        self._model = model
        self._threads = threads
        self._optimise = optimise
        self._session: Any = None
        self._parts: Mapping[str, float] = {}
        self._stamp: _Stamp | None = None
        self._may_lane = lanes and optimise
        self._lane_count = 1
        self._lanes: Lanes | None = None
        self._making = Lock()

    def load(self) -> None:
        """Load the graph.

        Raises:
            MissingDependency: ONNX Runtime is not installed.
            BadInput: the file is missing or is no ONNX model.
            StageError: ONNX Runtime refuses the graph.
        """
        ort = library()
        if isinstance(self._model, Path) and not self._model.is_file():
            raise BadInput(f"{self._where} is not a file; give the path of an ONNX model")
        if not self._model:
            raise BadInput(f"{self._where} is empty; export it again")

        self._stamp = _stamp(self._model)
        cuda = not cuda_problem()
        providers: list[Any] = ["CPUExecutionProvider"]
        if cuda:
            providers.insert(0, ("CUDAExecutionProvider", dict(_CUDA_OPTIONS)))
        session = self._session = self._made(ort, self._threads, providers)
        self.device = "CUDA" if cuda else "CPU"
        self.inputs = tuple(_spec(argument) for argument in session.get_inputs())
        self.outputs = tuple(_spec(argument) for argument in session.get_outputs())
        laned = self._may_lane and not cuda and separable(self.inputs, self.outputs)
        self._lane_count = (self._threads or own_threads()) if laned else 1

    @property
    def _where(self) -> str:
        return "the graph" if isinstance(self._model, bytes) else str(self._model)

    @property
    def _source(self) -> str | bytes:
        return self._model if isinstance(self._model, bytes) else str(self._model)

    def _made(self, ort: Any, threads: int | None, providers: Sequence[Any]) -> Any:
        """A session of ONNX Runtime's. Raises `BadInput` and `StageError` as `load` does."""
        errors = ort.capi.onnxruntime_pybind11_state
        try:
            return ort.InferenceSession(
                self._source,
                self._options(ort, threads),
                providers=providers,
                enable_fallback=False,
            )
        except (errors.InvalidProtobuf, errors.NoSuchFile) as error:
            raise BadInput(
                f"{self._where} is not an ONNX model ({reason(error)}); export it again"
            ) from error
        except Exception as error:  # its classes have no base of their own
            raise StageError(f"ONNX Runtime refuses {self._where}: {reason(error)}") from error

    def _options(self, ort: Any, threads: int | None) -> Any:
        options = ort.SessionOptions()
        options.log_severity_level = SILENT
        options.use_deterministic_compute = True
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.inter_op_num_threads = 1
        options.intra_op_num_threads = threads or 0
        # idle workers of one session would otherwise spin on the cores the next one needs
        options.add_session_config_entry("session.force_spinning_stop", "1")
        levels = ort.GraphOptimizationLevel
        options.graph_optimization_level = (
            levels.ORT_ENABLE_ALL if self._optimise else levels.ORT_DISABLE_ALL
        )
        return options

    def executed_precisions(self) -> dict[str, str]:
        """As the base class says, from the graph that ONNX Runtime's optimiser makes of this one.

        It is made once more for this, by a session that writes it to a file.
        """
        self._opened()
        ort = library()
        options = self._options(ort, self._threads)
        with tempfile.TemporaryDirectory() as directory:
            optimised = Path(directory, "optimised.onnx")
            options.optimized_model_filepath = str(optimised)
            providers = self._session.get_providers()
            ort.InferenceSession(self._source, options, providers=providers, enable_fallback=False)
            executed = onnx.load(optimised)
        if isinstance(self._model, bytes):
            written = onnx.load_model_from_string(self._model)
        else:
            written = onnx.load(self._model, load_external_data=False)
        return by_node(written, precisions(executed))

    def profile(self, images: Array, *, runs: int = 10) -> dict[str, float] | None:
        """As the base class says, by ONNX Runtime's own profiler in a session of its own, which
        runs the batch as a whole.

        None on a GPU, whose kernels run behind the host: what is timed there is their launching.
        """
        self._opened()
        if self.device == "CUDA":
            return None
        ort = library()
        options = self._options(ort, self._threads)
        options.enable_profiling = True
        with tempfile.TemporaryDirectory() as directory:
            options.profile_file_prefix = str(Path(directory, "profile"))
            providers = self._session.get_providers()
            session = ort.InferenceSession(
                self._source, options, providers=providers, enable_fallback=False
            )
            for _ in range(runs + 1):
                session.run(None, {self.inputs[0].name: images})
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        return seconds_per_node(events)

    def infer_impl(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        names = [spec.name for spec in self.outputs]
        lanes = self._lanes_for(feeds)
        try:
            if lanes is not None:
                values = lanes.run(feeds, names)
            elif self.device == "CUDA":
                values, self._parts = run_on_device(self._session, feeds, names, "cuda")
            else:
                values = self._session.run(names, dict(feeds))
        except Exception as error:  # its classes have no base of their own
            raise StageError(f"ONNX Runtime failed while running: {reason(error)}") from error
        return dict(zip(names, values, strict=True))

    def _lanes_for(self, feeds: Mapping[str, Array]) -> Lanes | None:
        """What runs this batch in lanes; None where it is run as a whole."""
        if self._lane_count < 2:
            return None
        images, *others = {len(value) for value in feeds.values()}
        if others or images % self._lane_count:
            return None
        with self._making:
            if self._lanes is None and self._stamp == _stamp(self._model):
                session = self._made(library(), 1, ["CPUExecutionProvider"])
                self._lanes = Lanes(session, self._lane_count)
            return self._lanes

    def parts(self) -> Mapping[str, float]:
        """As the base class says; on a GPU by the host's clock, which waits for every part."""
        return {**super().parts(), **self._parts}

    def close(self) -> None:
        """Free the graph, its arena and its threads, and those of the lanes."""
        if self._lanes is not None:
            self._lanes.close()
        self._session = self._lanes = None


def run_on_device(
    session: Any, feeds: Mapping[str, Array], names: Iterable[str], device: str
) -> tuple[list[Array], dict[str, float]]:
    """One run on memory of a device: the results, and seconds of "h2d", "compute", "d2h".

    Bound anew each time: memory that was bound for the results of one batch size refuses another.
    """
    values = importlib.import_module("onnxruntime").OrtValue
    binding = session.io_binding()
    marks = [time.perf_counter()]
    for name, value in feeds.items():
        there = values.ortvalue_from_numpy(np.ascontiguousarray(value), device, 0)
        binding.bind_ortvalue_input(name, there)
    for name in names:
        binding.bind_output(name, device, 0)
    binding.synchronize_inputs()
    marks.append(time.perf_counter())
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()
    marks.append(time.perf_counter())
    results = [np.asarray(result) for result in binding.copy_outputs_to_cpu()]
    marks.append(time.perf_counter())
    seconds = (after - before for before, after in pairwise(marks))
    return results, dict(zip(("h2d", "compute", "d2h"), seconds, strict=True))


def _stamp(model: Path | bytes) -> _Stamp | None:
    """What is another one when a file has been written anew; None of a graph in memory."""
    if isinstance(model, bytes):
        return None
    try:
        seen = model.stat()
    except OSError:
        return ()
    return seen.st_ino, seen.st_size, seen.st_mtime_ns


def _spec(argument: Any) -> TensorSpec:
    if argument.type not in _DTYPES:
        raise StageError(f"'{argument.name}' is a {argument.type}, which has no NumPy counterpart")
    shape = tuple(d if isinstance(d, int) else d or "?" for d in argument.shape)
    return TensorSpec(argument.name, _DTYPES[argument.type], shape)
