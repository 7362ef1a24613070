"""The shape of a target: the engine that will run the graph, and the rewrites that pay there."""

from __future__ import annotations

from dataclasses import dataclass

from inception_deploy.fusions import FUSIONS, Fusion, Phase
from inception_deploy.recipe import PrecisionName

__all__ = ["Choice", "Target"]


@dataclass(frozen=True)
class Choice:
    """Whether a rewrite runs for a target, and how that is known.

    Args:
        fusion: its name.
        precisions: those it runs for; empty where it pays for none.
        why: one line.
        evidence: the entry of a file in `benchmarks/results/` that shows it, "FILE#KEY".
    """

    fusion: str
    precisions: tuple[PrecisionName, ...]
    why: str
    evidence: str


@dataclass(frozen=True)
class Target:
    """What `--target` names.

    Args:
        name: as asked for on the command line.
        engine: name of the engine that runs its graphs.
        placement: name of the placement of its quantisers.
        choices: one for every rewrite of the phases `EXCHANGE` and `MERGE` that was measured here;
            a rewrite without one does not run.
    """

    name: str
    engine: str
    placement: str
    choices: tuple[Choice, ...] = ()

    def rewrites(self, precision: PrecisionName) -> tuple[Fusion, ...]:
        """The fusions for a graph that will be lowered to `precision`, in the order of phases."""
        chosen = {c.fusion for c in self.choices if precision in c.precisions}
        running = (f for f in FUSIONS if f.phase <= Phase.FOLD or f.name in chosen)
        return tuple(sorted(running, key=lambda fusion: fusion.phase))
