"""What a benchmark of bundles lets run: their graphs, the PyTorch network, the plain export."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import onnx
from numpy.typing import NDArray

from inception_deploy.bundle import Bundle
from inception_deploy.compare import reference_of_bundle
from inception_deploy.deployed import open_deployed
from inception_deploy.engines import ENGINES, Engine, Session
from inception_deploy.errors import InceptionDeployError, MissingDependency
from inception_deploy.targets import TARGETS
from inception_deploy.throughput import Candidate
from inception_deploy.throughput.end_to_end import EndToEnd
from inception_deploy.throughput.gemm import (
    GEMM_PRECISIONS,
    GemmRunner,
    gemm_model,
    precision_run,
)
from inception_deploy.throughput.macs import macs_per_node
from inception_deploy.throughput.product import PRODUCT_PRECISIONS, ProductRunner
from inception_deploy.trials import filled, torch_predictor

__all__ = ["Contender", "Field", "Setting", "engine_of"]


@dataclass(frozen=True)
class Setting:
    """How an engine is set up.

    Args:
        threads: per stream; None leaves the choice to the engine.
        streams: copies of the session that work side by side, in the offline scenario.
    """

    threads: int | None = None
    streams: int = 1

    def label(self, graph: str, *, threads_vary: bool, streams_vary: bool) -> str:
        """What the graph is called where several settings of it run."""
        said = [graph]
        if threads_vary:
            said.append("own threads" if self.threads is None else _many(self.threads, "thread"))
        if streams_vary:
            said.append(_many(self.streams, "stream"))
        return ", ".join(said)


@dataclass(frozen=True)
class Contender:
    """A candidate of a bundle, with what the harness need not know.

    Args:
        name: what the graph is called in every setting, "model.onnx".
        session: the open session, the first of its streams.
        macs: node name → multiply-adds per image.
    """

    candidate: Candidate
    bundle: Bundle
    engine: Engine
    name: str
    setting: Setting
    session: Session
    macs: dict[str, int]


@dataclass
class Field:
    """Opens everything that takes part; `close` by leaving `stack`.

    Args:
        files: JPEGs for end-to-end queries; None times the engines alone.
    """

    stack: ExitStack
    files: Sequence[Path] | None = None

    def bundle(
        self, bundle: Bundle, name: str, settings: Sequence[Setting], *, gauged: bool
    ) -> tuple[list[Contender], list[Candidate], list[str]]:
        """The deployed graph in every setting; the gauges beside; and what could not be gauged."""
        engine = engine_of(bundle)
        precision, macs = str(bundle.manifest["precision"]), macs_per_node(onnx.load(bundle.model))
        vary = {
            "threads_vary": len({s.threads for s in settings}) > 1,
            "streams_vary": len({s.streams for s in settings}) > 1,
        }
        contenders, gauges, notes = [], [], []
        for setting in settings:
            sessions = [
                self.stack.enter_context(open_deployed(bundle, threads=setting.threads))
                for _ in range(setting.streams)
            ]
            gauge = None
            # the peak of the whole machine needs all threads on one product
            if gauged and setting.streams == 1:
                try:
                    device = sessions[0].device
                    gauge = self._gauge(engine, precision, setting.threads, device)
                except InceptionDeployError as error:
                    notes.append(f"utilisation of {engine.name} in {precision} unknown: {error}")
            gauges += [gauge] if gauge else []
            candidate = Candidate(
                engine.name,
                setting.label(name, **vary),
                precision,
                sessions[0].run,
                sessions[0].load_seconds,
                partial(filled, bundle.golden().feed),
                run_many=self._many(sessions),
                parts=sessions[0].parts,
                threads=setting.threads,
                streams=setting.streams,
                macs=partial(_times, sum(macs.values())),
                gauge=gauge.key if gauge else None,
                sessions=sessions,
            )
            if self.files is not None:
                candidate = self._end_to_end(candidate, bundle, bundle.pixel_layout is None)
            contenders.append(
                Contender(candidate, bundle, engine, name, setting, sessions[0], macs)
            )
        return contenders, gauges, notes

    def pytorch(self, bundle: Bundle) -> list[Candidate]:
        """The PyTorch network of a bundle, where there is one."""
        if bundle.manifest["weights"]["layout"] == "onnx":
            return []
        predict = torch_predictor(reference_of_bundle(bundle).module)
        found = Candidate("pytorch", "torch", "fp32", predict)
        return [found if self.files is None else self._end_to_end(found, bundle, True)]

    def reference(self, bundle: Bundle, threads: int | None) -> Candidate:
        """reference.onnx of a bundle on the bundle's engine, or on ONNX Runtime where that engine
        takes no graphs."""
        own = engine_of(bundle)
        engine = own if own.takes_graphs else ENGINES.get("onnxruntime")
        session = self.stack.enter_context(engine.session(bundle.reference, threads=threads))
        found = replace(
            Candidate.of(session, engine.name, "reference.onnx", "fp32"),
            run_many=session.run_many,
            parts=session.parts,
            threads=threads,
        )
        return found if self.files is None else self._end_to_end(found, bundle, True)

    def _gauge(
        self, engine: Engine, precision: str, threads: int | None, device: str
    ) -> Candidate | None:
        if device == "CUDA":
            return _product(engine, precision)
        if precision not in GEMM_PRECISIONS or not engine.takes_graphs:
            return None
        model = gemm_model(precision, signed=engine.name.startswith("tensorrt"))
        session = self.stack.enter_context(engine.session(model, threads=threads))
        runner = GemmRunner(session)
        graph = "gemm" if threads is None else f"gemm, {_many(threads, 'thread')}"
        return Candidate(
            engine.name,
            f"{graph}, {precision}",
            precision,
            runner,
            threads=threads,
            macs=runner.macs,
            ran=precision_run(session),
        )

    def _end_to_end(self, candidate: Candidate, bundle: Bundle, floats: bool) -> Candidate:
        assert self.files is not None
        layout = None if floats else bundle.pixel_layout
        whole = EndToEnd(self.files, bundle.preprocessing, layout, candidate.run)
        return Candidate(
            candidate.engine,
            candidate.graph,
            candidate.precision,
            whole,
            candidate.load_seconds,
            EndToEnd.numbers,
            parts=whole.parts,
            threads=candidate.threads,
            end_to_end=True,
            sessions=candidate.sessions,
        )

    def _many(
        self, sessions: Sequence[Session]
    ) -> Callable[[Iterable[NDArray[Any]]], Iterator[object]]:
        """The sessions side by side, one thread each."""
        if len(sessions) == 1:
            return sessions[0].run_many
        workers: AbstractContextManager[ThreadPoolExecutor] = ThreadPoolExecutor(len(sessions))
        pool = self.stack.enter_context(workers)
        free: SimpleQueue[Session] = SimpleQueue()
        for session in sessions:
            free.put(session)

        def one(batch: NDArray[Any]) -> object:
            session = free.get()
            try:
                return session.run(batch)
            finally:
                free.put(session)

        return partial(pool.map, one)


def engine_of(bundle: Bundle) -> Engine:
    """The engine that runs a bundle's graph.

    Raises:
        MissingDependency: its device is not here; the time of a stand-in would mislead.
    """
    engine = ENGINES.get(TARGETS.get(bundle.manifest["target"]).engine)
    obstacle = engine.availability().obstacle
    if obstacle is not None:
        raise MissingDependency(
            f"{bundle.path} is for {engine.name}, which cannot run here ({obstacle}); "
            "bench it on a machine where it can"
        )
    return engine


def _product(engine: Engine, precision: str) -> Candidate | None:
    """A GPU's peak: on data that lie there, as the kernels of the engine find theirs."""
    if precision not in PRODUCT_PRECISIONS:
        return None
    runner = ProductRunner(precision)
    name = f"gemm on the GPU, {precision}"
    return Candidate(engine.name, name, precision, runner, macs=runner.macs, ran=runner.ran)


def _times(macs: int, images: int) -> int:
    return macs * images


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
