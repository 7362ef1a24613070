"""What the report says of speed beside its charts: resources, knees, other scenarios."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from inception_deploy.reporting.cells import BLANK, Cell, Row, cell
from inception_deploy.reporting.data import Record
from inception_deploy.reporting.facts import Facts, Timing, engine_name
from inception_deploy.reporting.numerals import (
    THIN,
    count,
    duration,
    file_size,
    quantity,
    significant,
    times,
)

__all__ = ["SCENARIO_COLUMNS", "SpeedView"]

EFFORT_COLUMNS = ("Parts of a query, ms", "Processor time, ms", "Cores busy", "Of the peak")
_ENERGY = "Energy, mJ"

SCENARIO_COLUMNS = ("Batch", "Queries/s", "Images/s", "p50", "p99", "Outcome")

_KINDS = (
    ("vary by more than 2.5%", re.compile(r"latency varies by ([0-9.]+) ?%")),
    ("have outliers", re.compile(r"[0-9]+ of [0-9]+ runs are outliers")),
)

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class SpeedView:
    """Speed in rows and sentences.

    Args:
        resources: label and figure each.
        effort: what a query takes at each batch, in the order of `effort_columns`.
        knees: one sentence each.
        scenarios: offline and server runs, in the order of `SCENARIO_COLUMNS`.
        loadgen: one line for each of LoadGen's verdicts.
        warnings: those that are one of a kind, and one for each kind that came several times.
        all_warnings: every single one, where some were put together.
    """

    resources: Pairs
    effort_columns: tuple[str, ...]
    effort: list[Row]
    knees: list[str]
    scenarios: list[Row]
    loadgen: list[str]
    warnings: list[str]
    all_warnings: list[str]

    @classmethod
    def of(cls, facts: Facts) -> SpeedView:
        """Raises `BundleError` for fields of the wrong type."""
        said = [str(w) for w in facts.throughput.items("warnings")] if facts.throughput else []
        short = _condensed(said)
        return cls(
            resources=list(_resources(facts)),
            effort_columns=(*EFFORT_COLUMNS, _ENERGY) if _metered(facts) else EFFORT_COLUMNS,
            effort=_effort(facts),
            knees=list(_knees(facts)),
            scenarios=[row for record in facts.data.scenario_records for row in _scenario(record)],
            loadgen=[
                f"MLCommons LoadGen, {name}: Result is {verdict}"
                for name, verdict in facts.data.loadgen.items()
            ],
            warnings=short,
            all_warnings=said if len(short) < len(said) else [],
        )


def _condensed(warnings: list[str]) -> list[str]:
    """Several of one kind become one."""
    found, left = [], list(warnings)
    for what, pattern in _KINDS:
        kind = [w for w in warnings if pattern.search(w)]
        if len(kind) > 1:
            left = [w for w in left if w not in kind]
            shares = [float(m[1]) for w in kind if (m := pattern.search(w)) and pattern.groups]
            most = f", by up to {significant(max(shares))}{THIN}%" if shares else ""
            found.append(
                f"{len(kind)} timings {what.replace('%', THIN + '%')}{most}:"
                " the machine was not idle. Trust the medians and the ratios."
            )
    return [w[:1].upper() + w[1:] for w in (*left, *found)]


def _resources(facts: Facts) -> Iterator[tuple[str, str]]:
    throughput = facts.throughput
    if throughput is None:
        return
    labels = {timing.key: timing.label for timing in facts.timings}
    for key, found in _entries(throughput.maybe_record("footprints")):
        where = f"{labels.get(key, key)}, alone in a fresh process"
        yield from _footprint(found, where)
    for peak in throughput.records("peaks"):
        rate = peak.magnitude("macs_per_second")
        if rate:
            ran = peak.maybe_text("ran")
            said = f"{engine_name(peak.text('engine'))}, {peak.text('precision').upper()}"
            said += f", run in {ran}" if ran else ""
            yield (
                "Peak of this machine",
                f"{quantity(rate / 1e9, 'GMAC/s')} (matrix product on {said})",
            )
    harness = throughput.magnitude("harness_us")
    if harness is not None:
        shares = [t.harness_share for t in facts.timings if t.harness_share is not None]
        share = f", at most {_small_percent(max(shares))} of a figure here" if shares else ""
        yield "The harness itself", f"{quantity(harness, 'µs')} per query (null engine){share}"
    if energy := throughput.maybe_text("energy"):
        yield "Energy counter", energy
    clocks = throughput.maybe_record("clocks")
    for when, name in (("before", "Clock and load before"), ("after", "Clock and load after")):
        moment = clocks.maybe_record(when) if clocks else None
        if moment is not None and (told := _clock(moment)):
            yield name, told


def _entries(record: Record | None) -> Iterator[tuple[str, Record]]:
    for key in record.values if record else ():
        assert record is not None
        yield key, record.record(key)


def _footprint(found: Record, where: str) -> Iterator[tuple[str, str]]:
    peak, before = found.magnitude("peak_rss_bytes"), found.magnitude("import_rss_bytes")
    load, first = found.magnitude("load_seconds"), found.magnitude("first_ms")
    if load is not None and first is not None:
        batch = count(found.magnitude("batch") or 0.0)
        yield (
            "Load and first inference",
            f"{duration(load)}, then {duration(first / 1e3)} at batch {batch} ({where})",
        )
    if peak is not None and before is not None:
        yield (
            "Peak memory",
            f"{file_size(peak)}, {file_size(max(peak - before, 0.0))} more than the libraries"
            f" ({where})",
        )


def _effort(facts: Facts) -> list[Row]:
    """The deployed graph at each batch: `EFFORT_COLUMNS`, and energy where it was measured."""
    rows = []
    metered = _metered(facts)
    for batch in facts.batches:
        timing = facts.deployed(batch)
        if timing is None or (timing.cpu_ms is None and timing.utilisation is None):
            continue
        told = {name: value for name, value in timing.parts.items() if value is not None}
        parts = ", ".join(f"{name} {significant(value)}" for name, value in told.items())
        cores = timing.cpu_ms / timing.p50 if timing.cpu_ms is not None and timing.p50 else None
        rows.append(
            Row(
                str(batch),
                (
                    Cell(parts) if parts else cell(None, str, "the candidate does not tell"),
                    cell(timing.cpu_ms, significant),
                    cell(cores, lambda value: significant(value, 2)),
                    cell(timing.utilisation, _share, "no peak was measured; run bench"),
                    *((cell(timing.energy_mj, significant),) if metered else ()),
                ),
            )
        )
    return rows


def _metered(facts: Facts) -> bool:
    return any(timing.energy_mj is not None for timing in facts.timings)


def _share(value: float) -> str:
    return f"{100 * value:.0f}{THIN}%"


def _small_percent(share: float) -> str:
    return f"{significant(100 * share, 2)}{THIN}%"


def _clock(moment: Record) -> str:
    mhz, load = moment.magnitude("mhz"), moment.magnitude("load_average")
    said = [quantity(mhz / 1e3, "GHz")] if mhz else []
    said += [moment.text("governor")] if moment.maybe_text("governor") else []
    said += [f"load average {significant(load, 2)}"] if load is not None else []
    return ", ".join(said)


def _knees(facts: Facts) -> Iterator[str]:
    labels = {timing.key: timing.label for timing in facts.timings}
    for knee in facts.throughput.records("knees") if facts.throughput else ():
        who = labels.get(knee.text("candidate"), knee.text("candidate"))
        at, over = knee.magnitude("at"), knee.text("over")
        gain, of_best = knee.magnitude("gain"), knee.magnitude("of_best")
        where = f"{over} {count(at)}" if at is not None else f"no knee over {over}"
        said = f"{who}: {where}"
        if gain is not None and of_best is not None and at is not None:
            said += f", {times(gain)} the throughput of the first, {_share(of_best)} of the best"
        yield f"{said}; {knee.text('reason')}."


def _scenario(record: Record) -> Iterator[Row]:
    for row in record.records("rows"):
        timing, server = Timing.of(row), row.maybe_record("server")
        rate = cell(row.magnitude("queries_per_second"), significant)
        latencies = (
            BLANK if timing.scenario == "offline" else cell(timing.latency.get(p), significant)
            for p in ("p50", "p99")
        )
        yield Row(
            f"{timing.scenario}: {timing.label}",
            (
                Cell(f"up to {timing.batch}" if server else str(timing.batch)),
                rate,
                cell(timing.images_per_second, significant),
                *latencies,
                Cell("measured") if server is None else _served(server),
            ),
        )


def _served(server: Record) -> Cell:
    bound, offered = server.magnitude("bound_ms"), server.magnitude("offered_qps")
    searched = "highest rate found" if server.holds("searched") else "rate as asked"
    note = f"99{THIN}% within {significant(bound or 0.0)} ms at {significant(offered or 0.0)}/s"
    return Cell(server.text("verdict"), f"{note}, {searched}")
