"""What each block costs: its share of the output's noise, and the time it saves in integers.

Noise. Only one block is put into integers, everything else stays float, and the mean squared error
of the outputs is that block's noise power. Rounding errors of different blocks are as good as
independent, so the powers add up: their sum predicts the error of any choice of blocks. (A tensor
between two blocks is counted with both, so the sum is too large, at most twice.)

Time. Where the engine profiles single nodes, the FP32 and the INT8 graph are profiled once each and
a block's nodes summed up. Elsewhere the float graph and the one with only this block in integers
are timed in turns.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from inception_deploy.engines import Engine, Session
from inception_deploy.errors import StageError
from inception_deploy.mixing.blocks import alone, block_nodes, block_of, kept_float
from inception_deploy.mixing.search import BlockSensitivity
from inception_deploy.mixing.state import State
from inception_deploy.precisions.int8 import Int8
from inception_deploy.progress import Progress
from inception_deploy.ranges import Ranges
from inception_deploy.throughput import Candidate, measure

__all__ = ["BlockMeter"]

TIMING_SECONDS = 0.5
"""Per graph, where blocks are timed one by one."""

PROFILE_RUNS = 20


@dataclass(frozen=True)
class BlockMeter:
    """Measures the blocks of one graph on one engine.

    Args:
        model: the FP32 graph.
        ranges: of every tensor that any choice of blocks quantises.
        owners: node → its block, for all nodes.
        groups: block → names of its nodes that run in integers.
    """

    model: onnx.ModelProto
    precision: Int8
    ranges: Ranges
    owners: Mapping[str, str]
    groups: Mapping[str, Sequence[str]]
    engine: Engine
    progress: Progress

    def measure(
        self, batches: Sequence[NDArray[Any]], timed: NDArray[Any], state: State
    ) -> list[BlockSensitivity]:
        """The sensitivity of every block; what `state` knows is not measured again.

        Args:
            batches: what the graphs are fed to measure noise.
            timed: the batch that times are measured on.

        Raises:
            StageError: a graph cannot be made or run, or its outputs are not finite.
        """
        with self.engine.session(self.model.SerializeToString()) as plain:
            self._noises(plain, batches, state)
            if state.int8_ms is None or set(self.groups) - set(state.extra_ms):
                with self.engine.session(self.lowered(())) as whole:
                    if not self._profile(plain, whole, timed, state):
                        self._time(plain, whole, timed, state)
                state.save()
        return [
            BlockSensitivity(block, len(nodes), state.noise[block], state.extra_ms[block])
            for block, nodes in self.groups.items()
        ]

    def lowered(self, floats: Collection[str]) -> bytes:
        """The graph with all blocks in integers but `floats`, serialised."""
        return self._serialised(kept_float(self.precision, self.owners, floats))

    def standing(self, floats: Collection[str]) -> list[str]:
        """The blocks that still have nodes in integers with the blocks `floats` in float.

        Some operators run in integers only where their inputs do, so that a block may follow the
        one before it into float: a classifier, a residual sum.
        """
        precision = kept_float(self.precision, self.owners, floats)
        plan = precision.placement.plan(self.model, exclude=precision.exclude)
        return list(block_nodes(plan.nodes, self.owners))

    def _alone(self, block: str) -> bytes:
        """The graph with only one block in integers."""
        return self._serialised(alone(self.precision, self.owners, self.groups[block]))

    def _serialised(self, precision: Int8) -> bytes:
        lowering = precision.lower(self.model, self.ranges)
        return bytes(lowering.model.SerializeToString())

    def _noises(self, plain: Session, batches: Sequence[NDArray[Any]], state: State) -> None:
        missing = [block for block in self.groups if block not in state.noise]
        if not missing and state.whole is not None:
            return
        wanted = _outputs(plain, batches)
        state.signal = float(np.mean(wanted**2))
        if state.whole is None:
            state.whole = self._noise(self.lowered(()), batches, wanted, "all blocks")
            state.save()
        for block in self.progress.track(missing, "measuring blocks", len(missing)):
            only = self._alone(block)
            state.noise[block] = self._noise(only, batches, wanted, f"block '{block}'")
            state.save()

    def _noise(
        self, model: bytes, batches: Sequence[NDArray[Any]], wanted: NDArray[np.float64], what: str
    ) -> float:
        """Mean squared error over all batches."""
        with self.engine.session(model) as session:
            power = float(np.mean((_outputs(session, batches) - wanted) ** 2))
        if not np.isfinite(power):
            raise StageError(
                f"mixing: with {what} in integers the output is not finite; check the weights and "
                "the calibration images"
            )
        return power

    def _profile(self, plain: Session, whole: Session, timed: NDArray[Any], state: State) -> bool:
        """Fill in times as the engine profiles them; whether it does."""
        with self.progress.stage("profiling FP32 and INT8"):
            before, after = (s.profile(timed, runs=PROFILE_RUNS) for s in (plain, whole))
        if before is None or after is None:
            return False
        floats, integers = (self._by_block(seconds) for seconds in (before, after))
        state.int8_ms = 1e3 * sum(after.values())
        for block in self.groups:
            state.extra_ms[block] = 1e3 * (floats.get(block, 0.0) - integers.get(block, 0.0))
        return True

    def _by_block(self, seconds: Mapping[str, float]) -> dict[str, float]:
        found: dict[str, float] = {}
        for node, spent in seconds.items():
            block = self.owners.get(node) or block_of(node, set(self.groups))
            found[block] = found.get(block, 0.0) + spent
        return found

    def _time(self, plain: Session, whole: Session, timed: NDArray[Any], state: State) -> None:
        """Fill in times by running graphs in turns with the float one."""
        state.int8_ms = _medians(plain, whole, timed)[1]
        missing = [block for block in self.groups if block not in state.extra_ms]
        for block in self.progress.track(missing, "timing blocks", len(missing)):
            with self.engine.session(self._alone(block)) as session:
                before, after = _medians(plain, session, timed)
            state.extra_ms[block] = before - after
            state.save()


def _outputs(session: Session, batches: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    """float64 (N, K), over all batches."""
    return np.concatenate([session.run(batch).astype(np.float64) for batch in batches])


def _medians(first: Session, second: Session, timed: NDArray[Any]) -> tuple[float, float]:
    """Median milliseconds per batch of two sessions, measured in turns."""
    report = measure(
        [
            Candidate(first.name, "first", "fp32", first.run),
            Candidate(second.name, "second", "int8", second.run),
        ],
        lambda size: timed[:size],
        batches=[len(timed)],
        seconds=TIMING_SECONDS,
    )
    before, after = report.rows
    return before.latency_ms.median, after.latency_ms.median
