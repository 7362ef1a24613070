"""ONNX → engine with TensorRT or TensorRT-RTX: one strongly typed network, one build.

Precision is what the graph's types say; no builder flag has a part in it, because TensorRT 11 and
RTX have none left. The build runs in a thread of its own, so that Ctrl-C reaches the main one,
which then has the builder stop at its next step.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from inception_deploy.build_options import BatchProfile, BuildOptions
from inception_deploy.engines._trt_library import ERRORS, Flavour, driver_problem, logger
from inception_deploy.engines._trt_refusals import require_parsable
from inception_deploy.errors import BadInput, MissingDependency, StageError
from inception_deploy.progress import Progress

__all__ = ["Built", "build", "check_options"]

_MIB = 1 << 20


@dataclass(frozen=True)
class Built:
    """A serialised engine.

    Args:
        plan: its bytes.
        layers: the builder's description of its kernels, in lines.
        seconds: the build took, parsing included.
        warnings: of the parser and the builder, each once.
        timing_cache: the timings after the build, where a file of them is in use.
    """

    plan: bytes
    layers: str
    seconds: float
    warnings: tuple[str, ...] = ()
    timing_cache: bytes | None = field(default=None, repr=False)


def check_options(flavour: Flavour, options: BuildOptions) -> None:
    """What can be said of the options before anything is parsed.

    Raises:
        BadInput: options that this library does not have, or not without a GPU.
        MissingDependency: there is no GPU, and the library builds for none that is not here.
    """
    problem = driver_problem()
    if not flavour.ahead:
        if problem is not None:
            raise MissingDependency(
                f"{flavour.title} times its kernels on the GPU it builds for, and there is "
                f"{problem}; build on a machine with that GPU, or use --target tensorrt-rtx"
            )
        return
    if not options.sm and problem is not None:
        raise BadInput(
            f"there is {problem} to build for; name what the engine is for, e.g. --sm 89"
        )
    if options.timing_cache is not None:
        raise BadInput(
            f"{flavour.title} compiles its kernels when it runs and keeps no timings; leave out "
            "--timing-cache"
        )
    if options.hardware_compatible != "none":
        raise BadInput(
            f"{flavour.title} builds one engine for several GPUs when they are named; use --sm "
            "80,86,89 in place of --hardware-compatible"
        )
    if options.version_compatible:
        raise BadInput(
            f"no other version of {flavour.title} loads what this one builds; leave out "
            "--version-compatible"
        )
    if options.stripped and problem is not None:
        raise BadInput(
            f"{flavour.title} builds --stripped engines only with a GPU, and there is {problem}; "
            "leave out --stripped"
        )


def build(
    flavour: Flavour,
    graph: bytes,
    profiles: Sequence[BatchProfile],
    options: BuildOptions,
    progress: Progress,
) -> Built:
    """An engine for an ONNX graph (its bytes), its first dimension being the batch.

    Raises:
        MissingDependency: the library is not installed, or needs a GPU that is not there.
        BadInput: options that contradict the library, or a file that is no ONNX graph.
        StageError: the graph is refused; the message names the node, and its block with it.
        KeyboardInterrupt: Ctrl-C, after the builder has stopped.
    """
    library = flavour.load()
    check_options(flavour, options)
    model = onnx.load_model_from_string(graph)
    require_parsable(model, options.sm)
    started = time.perf_counter()
    work = _Build(flavour, library, graph, model, profiles, options)
    plan, cache = work.run(progress)
    return Built(
        plan, work.layers, time.perf_counter() - started, tuple(dict.fromkeys(work.warnings)), cache
    )


class _Build:
    """One run of `build`: the library's objects, and what it said."""

    def __init__(
        self,
        flavour: Flavour,
        library: Any,
        graph: bytes,
        model: onnx.ModelProto,
        profiles: Sequence[BatchProfile],
        options: BuildOptions,
    ) -> None:
        self.flavour, self.library, self.graph, self.model = flavour, library, graph, model
        self.profiles, self.options = profiles, options
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.layers = ""
        self.steps: queue.Queue[tuple[str, int] | None] = queue.Queue()
        self.cancelled = threading.Event()

    def heard(self, severity: str, text: str) -> None:
        if severity in ERRORS:
            self.errors.append(" ".join(text.split()))
        elif severity == "WARNING":
            self.warnings.append(" ".join(text.split()))
        elif "LayerType: " in text and "Name: " in text and "\nI/O Tensors" in text:
            self.layers = text

    def run(self, progress: Progress) -> tuple[bytes, bytes | None]:
        trt = self.library
        builder = trt.Builder(logger(trt, self.heard))
        # TensorRT 11 and RTX are always strongly typed; on 10.x this flag asks for it
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger(trt, self.heard))
        with progress.stage(f"parse for {self.flavour.title}"):
            self._parse(parser)
        config = builder.create_builder_config()
        cache = self._configure(builder, network, config)
        plan = self._built(builder, network, config, progress)
        if cache is None or self.options.timing_cache_sha256 is not None:
            return plan, None
        timings = config.get_timing_cache()
        return plan, bytes(timings.serialize())

    def _parse(self, parser: Any) -> None:
        if parser.parse(self.graph):
            return
        found = [parser.get_error(index) for index in range(parser.num_errors)]
        if not found:
            raise StageError(f"{self.flavour.title} does not parse the graph: {self._said()}")
        first = found[0]
        node = first.node_name() or f"node {first.node()}"
        more = f" ({len(found) - 1} more errors)" if len(found) > 1 else ""
        reason = " ".join(str(first.desc()).split())[:300]
        raise StageError(
            f"{self.flavour.title} does not parse {node} ({first.node_operator()}): {reason}{more};"
            " keep this node out of the graph, or use --target onnxruntime"
        )

    def _configure(self, builder: Any, network: Any, config: Any) -> Any:
        """Set what the options say; the timing cache in use, None where there is none."""
        trt, options = self.library, self.options
        flags = trt.BuilderFlag
        config.builder_optimization_level = options.builder_level
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # for the report
        config.progress_monitor = self._monitor()
        if options.workspace is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace * _MIB)
        if options.aux_streams is not None:
            config.max_aux_streams = options.aux_streams
        for flag, wanted in (
            (flags.TF32, options.tf32),
            (flags.VERSION_COMPATIBLE, options.version_compatible),
            # or the engine would hold that runtime: native code, which is never run from an engine
            (flags.EXCLUDE_LEAN_RUNTIME, options.version_compatible),
            (flags.STRIP_PLAN, options.stripped),
            (flags.REFIT_IDENTICAL, options.stripped),
        ):
            (config.set_flag if wanted else config.clear_flag)(flag)
        if options.hardware_compatible != "none":
            levels = trt.HardwareCompatibilityLevel
            names = {"ampere+": "AMPERE_PLUS", "same": "SAME_COMPUTE_CAPABILITY"}
            name = names[options.hardware_compatible]
            if not hasattr(levels, name):
                raise BadInput(
                    f"{self.flavour.title} {trt.__version__} has no hardware compatibility "
                    f"'{options.hardware_compatible}'; TensorRT 10.16 has"
                )
            config.hardware_compatibility_level = getattr(levels, name)
        if options.sm:
            config.num_compute_capabilities = len(options.sm)
            for index, sm in enumerate(options.sm):
                target = getattr(trt.ComputeCapability, f"SM{sm}", None)
                if target is None or not config.set_compute_capability(target, index):
                    raise BadInput(
                        f"{self.flavour.title} {trt.__version__} does not build for SM{sm}; "
                        "leave it out of --sm"
                    )
        for profile in self.profiles:
            self._add_profile(builder, network, config, profile)
        return self._timings(config)

    def _add_profile(self, builder: Any, network: Any, config: Any, profile: BatchProfile) -> None:
        """Shapes of every input; only the batch may be free."""
        made = builder.create_optimization_profile()
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            rest = tuple(tensor.shape)[1:]
            if any(size < 0 for size in rest):
                raise StageError(
                    f"input '{tensor.name}' has more than its batch free: {tuple(tensor.shape)}; "
                    "export it for one image size"
                )
            if tensor.shape[0] >= 0 and tensor.shape[0] != profile.optimum:
                raise BadInput(
                    f"input '{tensor.name}' has the fixed batch {tensor.shape[0]}, not {profile}"
                )
            sizes = (profile.minimum, profile.optimum, profile.maximum)
            made.set_shape(tensor.name, *((size, *rest) for size in sizes))
        if config.add_optimization_profile(made) < 0:
            raise StageError(f"{self.flavour.title} refuses the batch sizes {profile}")

    def _timings(self, config: Any) -> Any:
        """The timing cache of the options, set; None where they name none."""
        options = self.options
        if options.timing_cache is None:
            return None
        path = Path(options.timing_cache).expanduser()
        known = path.read_bytes() if path.is_file() else b""
        if options.timing_cache_sha256 is not None:
            found = hashlib.sha256(known).hexdigest()
            if found != options.timing_cache_sha256:
                raise BadInput(
                    f"{path} has sha256 {found}, not {options.timing_cache_sha256}; it is not the "
                    "timing cache that was pinned"
                )
            config.set_flag(self.library.BuilderFlag.ERROR_ON_TIMING_CACHE_MISS)
        cache = config.create_timing_cache(known)
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            raise BadInput(
                f"{path} holds timings of another GPU or version: {self._said()}; name a new file"
            )
        return cache

    def _built(self, builder: Any, network: Any, config: Any, progress: Progress) -> bytes:
        outcome: list[Any] = []

        def work() -> None:
            try:
                outcome.append(builder.build_serialized_network(network, config))
            finally:
                self.steps.put(None)

        thread = threading.Thread(target=work, name="build")
        thread.start()
        try:
            self._show(progress)
        except BaseException:  # Ctrl-C above all: the builder must not go on without us
            self.cancelled.set()
            thread.join()
            raise
        thread.join()
        plan = outcome[0] if outcome else None
        if plan is None:
            raise StageError(f"{self.flavour.title} cannot build the engine: {self._said()}")
        return bytes(plan)

    def _show(self, progress: Progress) -> None:
        """Each outermost phase of the builder as a bar of its steps."""
        while (event := self.steps.get()) is not None:
            name, count = event
            label = f"build: {name.lower()}"
            for _ in progress.track(self._until_done(), label, count):
                pass

    def _until_done(self) -> Iterator[int]:
        """Steps of the phase that goes on, until it is over."""
        while True:
            event = self.steps.get()
            if event is None:
                self.steps.put(None)  # the build is over, too
                return
            if event[1] < 0:
                return
            yield event[1]

    def _monitor(self) -> Any:
        library, steps, cancelled = self.library, self.steps, self.cancelled
        return _monitor(library, steps.put, cancelled.is_set)

    def _said(self) -> str:
        """The last error that was logged, or a line in its place."""
        return self.errors[-1][:300] if self.errors else "it gave no reason"


def _monitor(
    library: Any, tell: Callable[[tuple[str, int]], None], stopped: Callable[[], bool]
) -> Any:
    """A progress monitor that tells of outermost phases: (name, steps), steps 0…, then (name, −1).

    Its methods run on the builder's threads.
    """

    class Monitor(library.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)
            self.outer: str | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None and self.outer is None:
                self.outer = phase_name
                tell((phase_name, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name == self.outer:
                tell((phase_name, step))
            return not stopped()

        def phase_finish(self, phase_name: str) -> None:
            if phase_name == self.outer:
                self.outer = None
                tell((phase_name, -1))

    return Monitor()
