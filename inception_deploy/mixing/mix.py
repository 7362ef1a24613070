"""The mixing of one deployment: from a bound on accuracy to the blocks that stay in float."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from inception_deploy.artifact import Artifact
from inception_deploy.engines import Engine
from inception_deploy.images import ImagePlan
from inception_deploy.mixing.blocks import block_nodes, block_owners, completed, kept_float
from inception_deploy.mixing.search import (
    BlockSensitivity,
    Point,
    least,
    ordered,
    pareto,
    predicted_sqnr,
)
from inception_deploy.mixing.sensitivity import BlockMeter
from inception_deploy.mixing.state import State, key_of, state_path
from inception_deploy.mixing.trial import Validation
from inception_deploy.parity import ParityReport
from inception_deploy.pixels import fed
from inception_deploy.precisions import Precision
from inception_deploy.precisions.int8 import Int8
from inception_deploy.progress import Progress
from inception_deploy.ranges import Ranges
from inception_deploy.recipe import Recipe
from inception_deploy.reference import Reference
from inception_deploy.trials import filled, torch_predictor

__all__ = ["Bounds", "Mixed", "mix", "mixed"]

SENSITIVITY_IMAGES = 32
"""Validation images that a block's noise is measured on. Calibration images would not do: nothing
of them lies outside the ranges they were taken for, and where other images are clipped, that is
most of the noise (embedded GoogLeNet, 64 calibration images: `inception3b` is three times as noisy
on validation images as on those)."""

PRUNINGS = 3
"""Trials that may be spent on finding needless blocks in the choice."""


@dataclass(frozen=True)
class Bounds:
    """What the deployed graph owes on the validation images.

    Args:
        max_drop: largest loss of top-1, points; the point estimate is held against it here, its
            interval by the verdict of `parity`.
        min_sqnr: least ratio of the outputs' power to the error's, dB.
    """

    max_drop: float | None = None
    min_sqnr: float | None = None

    def hold(self, report: ParityReport) -> bool:
        """Whether `report` keeps every bound; a drop that was not measured keeps none."""
        quiet = self.min_sqnr is None or report.sqnr_db is None or report.sqnr_db >= self.min_sqnr
        if self.max_drop is None:
            return quiet
        return quiet and report.top1_drop is not None and report.top1_drop <= self.max_drop

    def __str__(self) -> str:
        asked = []
        if self.max_drop is not None:
            asked.append(f"a top-1 drop of at most {self.max_drop:g} points")
        if self.min_sqnr is not None:
            asked.append(f"an SQNR of at least {self.min_sqnr:g} dB")
        return " and ".join(asked)


@dataclass(frozen=True)
class Mixed:
    """The outcome.

    Args:
        met: whether the bounds hold.
        reason: one sentence.
        chosen: the blocks in float, and what they were predicted and measured to give.
        sensitivity: of all blocks, most noise per millisecond first; empty where nothing had to be
            measured, because the graph in integers keeps the bounds.
        additivity: sum of the blocks' noise powers over the noise of all together; None as above.
        pareto: every prefix of the order, and every choice that was tried.
        trials: how many choices were tried on the validation images.
    """

    met: bool
    reason: str
    chosen: Point
    bounds: Bounds
    sensitivity: tuple[BlockSensitivity, ...] = ()
    additivity: float | None = None
    pareto: tuple[Point, ...] = ()
    trials: int = 1

    def to_dict(self) -> dict[str, Any]:
        """JSON values, as the manifest holds them."""
        return {
            "met": self.met,
            "reason": self.reason,
            "max_drop": self.bounds.max_drop,
            "min_sqnr": self.bounds.min_sqnr,
            "kept_float": list(self.chosen.kept_float),
            "trials": self.trials,
            "additivity": self.additivity,
            "sensitivity": [
                {
                    "block": block.block,
                    "nodes": block.nodes,
                    "noise": block.noise,
                    "extra_ms": block.extra_ms,
                }
                for block in self.sensitivity
            ],
            "pareto": [point.to_dict() for point in self.pareto],
        }


def mix(
    recipe: Recipe,
    reference: Reference,
    artifact: Artifact,
    images: ImagePlan,
    precision: Precision,
    ranges: Ranges | None,
    engine: Engine,
    output: Path,
    progress: Progress,
) -> tuple[Precision, Ranges | None, dict[str, Any] | None]:
    """The precision that keeps the recipe's bounds, ranges for it, and what the manifest says.

    Everything comes back as it was where the recipe has no bound, or the precision has no blocks to
    choose. Measurements are kept in `state_path(output)`.

    Raises:
        StageError: a graph cannot be made or run.
        DataError: the images cannot be used.
    """
    bounds = Bounds(recipe.max_drop, recipe.min_sqnr)
    if not isinstance(precision, Int8) or ranges is None:
        return precision, ranges, None
    if bounds.max_drop is not None and not images.parity.labelled:
        progress.note(
            "--max-drop chooses no blocks without labelled images: top-1 cannot be measured; "
            "give --data with labels, or --min-sqnr"
        )
        bounds = replace(bounds, max_drop=None)
    if bounds == Bounds():
        return precision, ranges, None
    layout = recipe.pixel_layout
    few = images.parity.spread(SENSITIVITY_IMAGES)
    validation = Validation(
        torch_predictor(reference.module),
        images.parity,
        recipe.head,
        engine,
        layout,
        progress,
        (reference.framework, engine.name),
    )
    ranges = completed(ranges, artifact.model, precision.placement)
    key = key_of(artifact.digest, precision, ranges, few, engine, recipe.batch.optimum)
    found = mixed(
        artifact,
        precision,
        ranges,
        bounds,
        validation=validation,
        batches=lambda: [fed(batch, layout) for batch in few.batches()],
        timed=filled(artifact.golden.feed, recipe.batch.optimum),
        state=lambda: State.load(state_path(output), key, progress),
        progress=progress,
    )
    blocks = found.chosen.kept_float
    progress.note(f"mixing: {found.reason}")
    owners = block_owners(artifact.model, artifact.golden.blocks)
    return kept_float(precision, owners, blocks), ranges, found.to_dict()


def mixed(
    artifact: Artifact,
    precision: Int8,
    ranges: Ranges,
    bounds: Bounds,
    *,
    validation: Validation,
    batches: Callable[[], Sequence[NDArray[Any]]],
    timed: NDArray[Any],
    state: Callable[[], State],
    progress: Progress,
) -> Mixed:
    """The fewest and cheapest blocks of `artifact` in float that let `bounds` hold.

    The graph with all blocks in integers is tried first, and nothing else happens if it keeps them.

    Args:
        artifact: the FP32 graph.
        ranges: of every tensor that any choice of blocks quantises (see `completed`).
        batches: called for the images that noise is measured on.
        timed: the batch that times are measured on.
        state: called for what is known of the blocks.

    Raises:
        StageError: a graph cannot be made or run.
        DataError: the images cannot be used.
    """
    owners = block_owners(artifact.model, artifact.golden.blocks)
    plan = precision.placement.plan(artifact.model, exclude=precision.exclude)
    groups = block_nodes(plan.nodes, owners)
    meter = BlockMeter(
        artifact.model,
        precision,
        ranges,
        owners,
        groups,
        validation.engine,
        progress,
    )
    search = _Search(meter, validation, bounds)
    if search.holds(()):
        point = replace(search.point(()), front=True)
        reason = f"all {len(groups)} blocks run in integers: they keep {bounds}"
        return Mixed(True, reason, point, bounds, pareto=(point,))
    known = state()
    measured = meter.measure(batches(), timed, known)
    whole, int8_ms = known.whole, known.int8_ms
    assert whole is not None
    assert int8_ms is not None  # as all of it: measure() fills them in
    search.blocks, search.int8_ms = ordered(measured, int8_ms), int8_ms
    chosen = search.chosen()
    met = search.holds(chosen)
    names = ", ".join(chosen) or "none"
    reason = (
        f"{len(chosen)} of {len(groups)} blocks stay in float ({names}) to keep {bounds}"
        if met
        else f"no choice of blocks keeps {bounds}; the best one has {len(chosen)} of {len(groups)} "
        "in float"
    )
    return Mixed(
        met,
        reason,
        search.point(chosen),
        bounds,
        tuple(search.blocks),
        sum(block.noise for block in measured) / whole if whole else None,
        tuple(search.front()),
        len(search.tried),
    )


@dataclass
class _Search:
    """Choices of blocks, and what the validation images said of those that were tried."""

    meter: BlockMeter
    validation: Validation
    bounds: Bounds
    blocks: list[BlockSensitivity] = field(default_factory=list)
    int8_ms: float | None = None
    tried: dict[frozenset[str], ParityReport] = field(default_factory=dict)

    def holds(self, floats: Sequence[str]) -> bool:
        """Whether the bounds hold with these blocks in float; each choice is tried once."""
        key = frozenset(floats)
        if key not in self.tried:
            self.tried[key] = self.validation.try_out(self.meter.lowered(floats))
        return self.bounds.hold(self.tried[key])

    def chosen(self) -> tuple[str, ...]:
        """The shortest prefix of the order that keeps the bounds, less what is in it needlessly.

        Where none keeps them, the tried choice with the least error.
        """
        names = [block.block for block in self.blocks]
        found = least(len(names), lambda count: self.holds(names[:count]), self._guess())
        if found is None:
            best = max(self.tried, key=lambda key: (self._quality(key), -len(key)))
            return tuple(name for name in names if name in best)
        return self._pruned(names[:found])

    def point(self, floats: Sequence[str]) -> Point:
        """What is predicted, and known, of a choice."""
        point = Point(
            tuple(floats),
            predicted_sqnr_db=self._predicted(floats),
            predicted_ms=self._milliseconds(floats),
        )
        report = self.tried.get(frozenset(floats))
        if report is None:
            return point
        return replace(
            point,
            sqnr_db=report.sqnr_db,
            top1_drop=report.top1_drop,
            exact=report.exact,
            measured=True,
        )

    def front(self) -> list[Point]:
        """Every prefix of the order and every choice that was tried, as points."""
        names = [block.block for block in self.blocks]
        choices = {frozenset(names[:count]): None for count in range(len(names) + 1)}
        choices |= dict.fromkeys(self.tried)
        return pareto([self.point([n for n in names if n in choice]) for choice in choices])

    def _guess(self) -> int | None:
        """How many blocks it takes by prediction; None where only top-1 is bounded."""
        if self.bounds.min_sqnr is None:
            return None
        names = [block.block for block in self.blocks]
        for count in range(1, len(names)):
            predicted = self._predicted(names[:count])
            if predicted is None or predicted >= self.bounds.min_sqnr:
                return count
        return len(names)

    def _pruned(self, floats: Sequence[str]) -> tuple[str, ...]:
        """Without blocks that the last one made needless: they must be quieter than it is.

        The costliest are tried first, and few of them, for every trial goes over all images.
        """
        known = {block.block: block for block in self.blocks}
        kept, slack = list(floats), known[floats[-1]].noise
        candidates = sorted(floats[:-1], key=lambda name: -known[name].extra_ms)
        trials = 0
        for name in candidates:
            if known[name].noise >= slack or trials == PRUNINGS:
                continue
            trials += 1
            without = [other for other in kept if other != name]
            if self.holds(without):
                kept, slack = without, slack - known[name].noise
        return tuple(kept)

    def _predicted(self, floats: Sequence[str]) -> float | None:
        return predicted_sqnr(
            {block.block: block.noise for block in self.blocks},
            self.meter.standing(floats),
            self.tried[frozenset()].sqnr_db,
        )

    def _milliseconds(self, floats: Sequence[str]) -> float | None:
        if self.int8_ms is None:
            return None
        standing = set(self.meter.standing(floats))
        return self.int8_ms + sum(b.extra_ms for b in self.blocks if b.block not in standing)

    def _quality(self, key: frozenset[str]) -> float:
        found = self.tried[key].sqnr_db
        return float("inf") if found is None else found
