"""The record of planted faults: a line per case, and the table over all of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from inception_deploy.machine import describe, library_versions
from inception_deploy.recipe import PrecisionName

__all__ = ["PRECISION_OF_SEED", "SEEDS", "Case", "append", "read", "summary", "write"]

PRECISION_OF_SEED: tuple[PrecisionName, ...] = ("fp32", "fp16", "int8")
SEEDS = len(PRECISION_OF_SEED)


@dataclass(frozen=True)
class Case:
    """One planted fault.

    Args:
        network, fault, precision, seed: which one.
        level: where the fault arises; "none" for a clean bundle.
        detail: what was planted.
        blocks: where it is.
        equivalent: every output bit is the same: no fault at all.
        moved: max |output with the fault − without| / max |without|; None where it does not run.
        top1_changed: share of images whose first choice is another one, of the deployed graph or
            against the label.
        caught: the gate does not pass it.
        by: what of the gate noticed it: the failed checks, or the error.
        located: the first finding of `locate`, as "stage block".
        right: it names a block that the fault is in.
        cause: the first cause that was named.
        seconds: of gate and locate together.
    """

    network: str
    fault: str
    precision: str
    seed: int
    level: str
    detail: str
    blocks: tuple[str, ...]
    equivalent: bool
    moved: float | None
    top1_changed: float
    caught: bool
    by: str
    located: str
    right: bool
    cause: str
    seconds: float

    @property
    def key(self) -> tuple[str, str, int]:
        """What makes it unique."""
        return self.network, self.fault, self.seed


def summary(cases: Iterable[Case]) -> dict[str, Any]:
    """The mutation table: per fault and in all."""
    known = list(cases)
    mutants = [c for c in known if c.level != "none"]
    clean = [c for c in known if c.level == "none"]
    faults = list(dict.fromkeys(c.fault for c in mutants))
    return {
        "total": _row(mutants),
        "clean": {
            "runs": len(clean),
            "gate_failed": sum(c.caught for c in clean),
            "located": sum(bool(c.located) for c in clean),
        },
        "faults": {f: _row([c for c in mutants if c.fault == f]) for f in faults},
        "precisions": {
            p: _row([c for c in mutants if c.precision == p]) for p in PRECISION_OF_SEED
        },
    }


def _row(cases: Sequence[Case]) -> dict[str, Any]:
    real = [c for c in cases if not c.equivalent]
    visible = [c for c in real if c.top1_changed > 0]
    return {
        "planted": len(cases),
        "equivalent": len(cases) - len(real),
        "caught": sum(c.caught for c in real),
        "caught_percent": _percent(sum(c.caught for c in real), len(real)),
        "changing_top1": len(visible),
        "caught_of_those": sum(c.caught for c in visible),
        "caught_of_those_percent": _percent(sum(c.caught for c in visible), len(visible)),
        "located": sum(c.right for c in real),
        "located_percent": _percent(sum(c.right for c in real), len(real)),
        "by": dict(Counter(c.by.split(":")[0].split(",")[0] for c in real if c.caught)),
    }


def _percent(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 2) if whole else None


def read(state: Path) -> dict[tuple[str, str, int], Case | None]:
    if not state.is_file():
        return {}
    found: dict[tuple[str, str, int], Case | None] = {}
    for line in state.read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        key = (values["network"], values["fault"], values["seed"])
        found[key] = None
        if not values.get("no_place"):
            found[key] = Case(**{**values, "blocks": tuple(values["blocks"])})
    return found


def append(state: Path, values: Mapping[str, Any]) -> None:
    with state.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values, ensure_ascii=False) + "\n")


def write(
    cases: Sequence[Case],
    known: Mapping[tuple[str, str, int], Case | None],
    out: Path,
    *,
    waiting: int,
) -> None:
    """The results, with what they were measured on.

    Args:
        waiting: cases that have not been run; 0 makes the table complete.
    """
    missed = [c for c in cases if not c.equivalent and c.level != "none" and not c.caught]
    astray = [c for c in cases if not c.equivalent and c.level != "none" and not c.right]
    values = {
        "machine": describe().to_dict(),
        "versions": library_versions(),
        "seeds": SEEDS,
        "waiting": waiting,
        "networks": sorted({c.network for c in cases}),
        "no_place": sum(case is None for case in known.values()),
        **summary(cases),
        "missed": [_short(c) for c in missed],
        "located_elsewhere": [_short(c) for c in astray],
    }
    out.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _short(case: Case) -> dict[str, Any]:
    values = asdict(case)
    kept = ("network", "fault", "precision", "seed", "detail", "moved", "top1_changed", "by")
    return {name: values[name] for name in (*kept, "located", "cause")}
