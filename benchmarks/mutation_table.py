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

__all__ = [
    "GOALS",
    "PRECISION_OF_SEED",
    "SEEDS",
    "Case",
    "append",
    "goals",
    "page",
    "read",
    "summary",
    "write",
]

GOALS = {
    "caught_of_those_percent": 99.0,
    "caught_percent": 95.0,
    "located_percent": 95.0,
    "clean_runs": 200,
    "false_alarms": 0,
}
"""What is to be reached: of the faults that change a first choice, of all, named by block; and the
fewest runs without a fault, with the most alarms in them."""

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


def goals(values: Mapping[str, Any]) -> dict[str, bool]:
    """Whether a summary reaches what is asked, by name of the goal."""
    total, clean = values["total"], values["clean"]
    reached = {
        name: total[name] is not None and total[name] >= GOALS[name]
        for name in ("caught_of_those_percent", "caught_percent", "located_percent")
    }
    alarms = max(clean["gate_failed"], clean["located"])
    return {
        **reached,
        "clean_runs": clean["runs"] >= GOALS["clean_runs"],
        "false_alarms": alarms <= GOALS["false_alarms"],
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
    table = summary(cases)
    values = {
        "machine": describe().to_dict(),
        "versions": library_versions(),
        "seeds": SEEDS,
        "waiting": waiting,
        "networks": sorted({c.network for c in cases}),
        "no_place": sum(case is None for case in known.values()),
        "goals": GOALS,
        "reached": goals(table),
        **table,
        "missed": [_short(c) for c in missed],
        "located_elsewhere": [_short(c) for c in astray],
    }
    out.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


_HEADER = """\
# Planted faults

What `python -m benchmarks.mutation` found, from `benchmarks/results/mutation.json`; written by
`python -m benchmarks.mutation --page docs/mutation.md`. A fault is planted in a correct bundle, and
`gate` and `locate` are asked, at their defaults, as if nothing was known. Equal: the deployed graph
puts out the very same bits on all images, so that there is nothing to notice. Turning: some image
has another first choice. Named: the first finding of `locate` is in a block that the fault is in.
"""


def page(values: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    total, clean = values["total"], values["clean"]
    faults = total["planted"] - total["equivalent"]
    lines = [
        _HEADER,
        f"- {len(values['networks'])} networks, {len(values['faults'])} kinds of faults, "
        f"{values['seeds']} seeds: {total['planted']:,} faults planted, {total['equivalent']} of "
        f"them equal; {values['no_place']} times a network had no place for a fault"
        + (f"; {values['waiting']:,} cases are waiting" if values["waiting"] else ""),
        f"- caught: {total['caught']:,} of {faults:,} ({total['caught_percent']} %); of those that "
        f"turn a first choice {total['caught_of_those']:,} of {total['changing_top1']:,} "
        f"({total['caught_of_those_percent']} %)",
        f"- named: {total['located']:,} of {faults:,} ({total['located_percent']} %)",
        f"- clean bundles: {clean['runs']} runs, {clean['gate_failed']} stopped by the gate, "
        f"{clean['located']} with a finding of `locate`",
        "",
        "| fault | planted | equal | turning | caught | named | caught first by |",
        "|---|---:|---:|---:|---:|---:|---|",
        *(_line(name, row) for name, row in values["faults"].items()),
    ]
    for title, cases in (
        ("Not caught", values["missed"]),
        ("Not named, or another block first", values["located_elsewhere"]),
    ):
        lines += ["", f"## {title}", "", *(map(_entry, cases) if cases else ("None.",))]
    return "\n".join(lines) + "\n"


def _line(name: str, row: Mapping[str, Any]) -> str:
    by = ", ".join(f"{check} {count}" for check, count in sorted(row["by"].items()))
    faults = row["planted"] - row["equivalent"]
    return (
        f"| {name} | {row['planted']} | {row['equivalent']} | {row['changing_top1']} | "
        f"{row['caught']}/{faults} | {row['located']}/{faults} | {by} |"
    )


def _entry(case: Mapping[str, Any]) -> str:
    moved = "" if case["moved"] is None else f", moves the outputs by {case['moved']:.2g}"
    found = f"; `locate`: {case['located']}" if case["located"] else ""
    return f"- {case['network']} {case['precision']}: {case['detail']}{moved}{found}"


def _short(case: Case) -> dict[str, Any]:
    values = asdict(case)
    kept = ("network", "fault", "precision", "seed", "detail", "moved", "top1_changed", "by")
    return {name: values[name] for name in (*kept, "located", "cause")}
