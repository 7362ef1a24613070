"""What the gate says: every check with its figure and bound, and one verdict over all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from inception_deploy.parity.paired import Outcome
from inception_deploy.parity.report import ParityReport
from inception_deploy.throughput import ThroughputReport

__all__ = ["EXIT_CODES", "SCHEMA", "Check", "GateVerdict", "Group", "at_least", "at_most", "judged"]

SCHEMA = 1

Group: TypeAlias = Literal["integrity", "fidelity", "accuracy", "speed", "size", "baseline"]

EXIT_CODES: Mapping[str, int] = {"PASS": 0, "NOT_ASKED": 0, "FAIL": 1, "INCONCLUSIVE": 4}


@dataclass(frozen=True)
class Check:
    """One thing that was held against a bound.

    Args:
        name: stable, for machines: "top1_drop", "preprocessing", …
        group: what kind of check it is; a test suite of the JUnit report.
        outcome: of this check alone.
        reason: one sentence: what was found, and what was allowed.
        value: the figure that was judged, in `unit`; None for a check that has none.
        bound: what it was held against.
        interval: that holds the true value, and decides; None for an exact figure.
        unit: of all three.
        counts: whether an INCONCLUSIVE is one of the verdict's too.
        images_needed: how many would settle an INCONCLUSIVE at the rates seen.
        block: the architecture block that it concerns.
    """

    name: str
    group: Group
    outcome: Outcome
    reason: str
    value: float | None = None
    bound: float | None = None
    interval: tuple[float, float] | None = None
    unit: str = ""
    counts: bool = True
    images_needed: int | None = None
    block: str | None = None

    @property
    def failed(self) -> bool:
        return self.outcome == "FAIL"

    @property
    def undecided(self) -> bool:
        """INCONCLUSIVE, and on something that was asked for."""
        return self.outcome == "INCONCLUSIVE" and self.counts


@dataclass(frozen=True)
class GateVerdict:
    """PASS: everything holds. FAIL: something does not. INCONCLUSIVE: too little was seen to tell.

    Args:
        outcome, reason: the verdict, and the check that decided it.
        checks: all of them, in the order they were made.
        bundle, network, precision, target: what was judged.
        truth: what it was held to: "pytorch", "reference.onnx", or "nothing" where its files were
            not in order.
        images: how many were compared.
        stopped_early: the answer was sure before all images had been seen.
        seconds: what the whole took.
        warnings: what the user should know and no bound speaks of.
        parity: of the images that were compared; None where no image had to be.
        speed: None where nothing was timed.
    """

    outcome: Outcome
    reason: str
    checks: tuple[Check, ...]
    bundle: str
    network: str
    precision: str
    target: str
    truth: str
    images: int
    stopped_early: bool
    seconds: float
    warnings: tuple[str, ...] = ()
    parity: ParityReport | None = None
    speed: ThroughputReport | None = None

    @property
    def exit_code(self) -> int:
        """0 pass, 1 fail, 4 inconclusive."""
        return EXIT_CODES[self.outcome]

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.failed)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        plain = {
            name: getattr(self, name)
            for name in (
                *("outcome", "reason", "bundle", "network", "precision", "target", "truth"),
                *("images", "stopped_early", "seconds"),
            )
        }
        return {
            "schema": SCHEMA,
            **plain,
            "warnings": list(self.warnings),
            "checks": [
                {**asdict(c), "interval": None if c.interval is None else list(c.interval)}
                for c in self.checks
            ],
            "parity": None if self.parity is None else self.parity.to_dict(),
            "speed": None if self.speed is None else self.speed.to_dict(),
        }


def at_most(low: float, high: float, bound: float) -> Outcome:
    """An interval against the largest allowed value: all of it, none of it, or neither."""
    return "PASS" if high <= bound else "FAIL" if low > bound else "INCONCLUSIVE"


def at_least(low: float, high: float, bound: float) -> Outcome:
    """An interval against the least allowed value."""
    return "PASS" if low >= bound else "FAIL" if high < bound else "INCONCLUSIVE"


def judged(checks: Iterable[Check]) -> tuple[Outcome, str]:
    """The verdict over all checks: the worst of them, and its reason."""
    found = list(checks)
    failed = [check for check in found if check.failed]
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        return "FAIL", f"{failed[0].reason}{more}"
    undecided = [check for check in found if check.undecided]
    if undecided:
        return "INCONCLUSIVE", undecided[0].reason
    held = sum(check.outcome == "PASS" for check in found)
    open_ones = sum(check.outcome == "INCONCLUSIVE" for check in found)
    rest = f"; undecided, but not asked for: {open_ones}" if open_ones else ""
    return "PASS", f"checks that hold: {held}{rest}"
