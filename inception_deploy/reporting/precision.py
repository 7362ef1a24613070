"""The report's section on precisions: what the lowering asked for, and what the engine ran."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from inception_deploy.reporting.block_graph import PRECISION_NAMES
from inception_deploy.reporting.cells import Cell, Row
from inception_deploy.reporting.data import Record
from inception_deploy.reporting.facts import Facts, engine_name
from inception_deploy.reporting.numerals import count
from inception_deploy.reporting.rewrites import blocks_of, grouped_reasons

__all__ = ["PrecisionView"]

_ASKED = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "int8", "fp8": "fp8"}
_BETWEEN = "between blocks"


@dataclass(frozen=True)
class PrecisionView:
    """One row per block, in processing order; `reasons` are the refusals', grouped.

    Args:
        sentence: how much of what was asked ran, over all blocks.
        absent: why there is no table, where there is none.
    """

    columns: tuple[str, ...]
    rows: list[Row]
    reasons: list[tuple[str, str]]
    sentence: str
    absent: str

    @classmethod
    def of(cls, facts: Facts) -> PrecisionView:
        """From the lowering's record, and the manifest's `executed` {node: precision} if present.

        Raises:
            BundleError: fields of the wrong type.
        """
        stages = facts.manifest.records("stages")
        lowering = [s for s in stages if s.text("name").startswith("lower/")]
        if not lowering:
            whole = PRECISION_NAMES["float32"]
            said = f"Nothing was lowered: every node is asked to run in {whole}."
            return cls((), [], [], said, "the graph was not lowered")
        asked = lowering[-1].text("name").removeprefix("lower/")
        name = PRECISION_NAMES.get(_ASKED.get(asked, ""), asked.upper())
        applied = [r for r in lowering[-1].records("applied") if r.text("rewrite") == asked]
        refused = [r for r in lowering[-1].records("refused") if r.text("rewrite") == asked]
        told = facts.manifest.maybe_record("executed")
        ran = None if told is None else {node: told.text(node) for node in told.values}
        table = _Table(facts, asked, ran)
        rows = table.rows(applied, refused)
        return cls(
            columns=(
                f"Asked {name}",
                "Left as it was",
                *((f"Ran in {name}", "Ran in something else") if told else ()),
            ),
            rows=rows,
            reasons=grouped_reasons(refused),
            sentence=table.sentence(applied, name),
            absent="" if rows else "the lowering lists no nodes",
        )


@dataclass(frozen=True)
class _Table:
    facts: Facts
    asked: str
    ran: dict[str, str] | None

    def sentence(self, applied: list[Record], name: str) -> str:
        many = f"{count(len(applied))} nodes were asked to run in {name}"
        engine = engine_name(self.facts.target)
        if self.ran is None:
            return f"{many}; what {engine} ran was not recorded."
        same, other, silent = self._outcome([r.text("node") for r in applied])
        unexecuted = self.facts.manifest.maybe_record("engine")
        why = None if unexecuted is None else unexecuted.values.get("not_executed")
        ran = f"{engine} ran" if why is None else f"{engine}'s plan runs"
        said = f"{many}; {ran} {count(same)} of them so"
        if other:
            said += f", {count(other.total())} in something else"
        said += f", and does not tell of {count(silent)}." if silent else "."
        if why is None:
            return said
        return (
            f"NOT EXECUTED: the engine was built and not run here ({why}). Parity is that of "
            f"model.onnx on ONNX Runtime's CPU, as written; the engine's own is unknown. {said}"
        )

    def rows(self, applied: list[Record], refused: list[Record]) -> list[Row]:
        blocks = blocks_of(self.facts)
        groups: dict[str, tuple[list[str], int]] = {n: ([], 0) for n in (*blocks.names, _BETWEEN)}
        for record in applied:
            groups[blocks.of(record.text("node")) or _BETWEEN][0].append(record.text("node"))
        for record in refused:
            place = blocks.of(record.text("node")) or _BETWEEN
            groups[place] = (groups[place][0], groups[place][1] + 1)
        return [
            Row(name, (Cell(count(len(nodes))), Cell(count(left)), *self._ran(nodes)))
            for name, (nodes, left) in groups.items()
            if nodes or left
        ]

    def _ran(self, nodes: list[str]) -> tuple[Cell, ...]:
        if self.ran is None:
            return ()
        same, other, silent = self._outcome(nodes)
        listed = ", ".join(f"{n} × {PRECISION_NAMES.get(p, p)}" for p, n in other.most_common())
        note = f"{count(silent)} not told" if silent else ""
        return Cell(count(same), note), Cell(listed or "0", kind="alarm" if other else "")

    def _outcome(self, nodes: list[str]) -> tuple[int, Counter[str], int]:
        """Nodes that ran as asked, precisions of those that ran otherwise, nodes not told of."""
        ran = self.ran or {}
        found = Counter(ran[node] for node in nodes if node in ran)
        same = found.pop(_ASKED.get(self.asked, self.asked), 0)
        return same, found, sum(node not in ran for node in nodes)
