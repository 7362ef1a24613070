"""What `bench` prints: throughput and ratios, latencies as trtexec lists them, then the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.markup import escape
from rich.table import Table

from inception_deploy.cli.console import Terminal
from inception_deploy.cli.summary import number, short_warnings
from inception_deploy.throughput import Row, ThroughputReport
from inception_deploy.throughput.loadgen import LoadgenResult

__all__ = ["print_bench", "print_loadgen"]

_VERDICTS = {"VALID": "green", "INVALID": "red", "INCONCLUSIVE": "yellow"}


def print_bench(report: ThroughputReport, terminal: Terminal) -> None:
    """The tables on stdout; readable on an 80-column terminal."""
    out = terminal.out
    server = any(row.server for row in report.rows)
    out.print(_served(report.rows) if server else _throughput(report))
    if report.rows[0].scenario != "offline":  # there, time per query is but another throughput
        out.print(_latencies(report.rows))
    if not terminal.quiet:
        for line in _remarks(report):
            out.print(line)
    for warning in short_warnings(list(report.warnings)):
        out.print(f"[yellow]warning[/] {escape(warning)}")


def print_loadgen(results: Sequence[LoadgenResult], terminal: Terminal) -> None:
    """LoadGen's verdict per bundle, and its figures."""
    for result in results:
        said = "VALID" if result.valid else "INVALID"
        terminal.out.print(
            f"{escape(result.candidate)} {result.scenario}: "
            f"Result is : [{_VERDICTS[said]}]{said}[/]"
        )
        if not terminal.quiet:
            for label, value in result.figures.items():
                terminal.out.print(f"  {escape(label)}: {value:,.10g}")
            for advice in result.advice:
                terminal.out.print(f"  [yellow]{escape(advice)}[/]")
            terminal.out.print(f"  logs in {escape(str(result.folder))}")


def _throughput(report: ThroughputReport) -> Table:
    scenario = report.rows[0].scenario
    whole = ", JPEG to answer" if report.rows[0].end_to_end else ""
    table = Table(title=f"Throughput, {scenario}{whole}", title_justify="left")
    table.add_column("candidate", overflow="fold", min_width=15)
    for header in ("batch", "queries/s", "images/s", "of peak", "faster (95 %)"):
        table.add_column(header, justify="right", no_wrap=True)
    ratios = {(r.candidate, r.batch): r for r in report.ratios}
    for row in report.rows:
        ratio = ratios.get((row.key, row.batch))
        table.add_row(
            _name(row),
            str(row.batch),
            number(row.queries_per_second),
            number(row.images_per_second),
            "–" if row.utilisation is None else f"{row.utilisation:.0%}",
            "1" if ratio is None else _interval(ratio.ratio, *ratio.ci95),
        )
    return table


def _served(rows: Sequence[Row]) -> Table:
    table = Table(title="Server: single images at random times", title_justify="left")
    table.add_column("candidate", overflow="fold", min_width=15)
    for header in ("queries/s", "bound", "over it", "verdict", "batch", "busy"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        facts = row.server
        if facts is not None:
            table.add_row(
                _name(row),
                number(facts.offered_qps),
                f"{facts.bound_ms:g} ms",
                f"{facts.overruns}/{row.runs}",
                f"[{_VERDICTS[facts.verdict]}]{facts.verdict}[/]",
                f"{facts.mean_batch:.1f}",
                f"{facts.busy:.0%}",
            )
    return table


def _latencies(rows: Sequence[Row]) -> Table:
    table = Table(title="Latency per query, ms", title_justify="left")
    table.add_column("candidate", overflow="fold", min_width=15)
    heads = ("batch", "min", "mean", "median", "p90", "p95", "p99", "max")
    for header in heads:
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        latency = row.latency_ms.to_dict()
        figures = (number(latency[name], digits=3) for name in heads[1:])
        table.add_row(_name(row), str(row.batch), *figures)
    return table


def _name(row: Row) -> str:
    return escape(f"{row.engine}\n{row.graph} {row.precision}")


def _interval(ratio: float, low: float, high: float) -> str:
    return f"{ratio:.2f} ({low:.2f}–{high:.2f})"


def _remarks(report: ThroughputReport) -> Iterator[str]:
    """One line each on what no table shows."""
    for key, found in report.footprints.items():
        loaded = (found.peak_rss_bytes - found.import_rss_bytes) / 1e6
        yield (
            f"[dim]fresh process[/] {escape(key)}: loaded in {1e3 * found.load_seconds:.0f} ms, "
            f"first batch of {found.batch} in {found.first_ms:.1f} ms, peak memory "
            f"{found.peak_rss_bytes / 1e6:.0f} MB ({loaded:.0f} MB more than the libraries)"
        )
    for knee in report.knees:
        at = f"{knee.over} {knee.at}" if knee.at is not None else "none"
        yield (
            f"[dim]knee[/] {escape(knee.candidate)}: {at} ({knee.of_best:.0%} of the best, "
            f"{knee.gain:.2f}× the first; {knee.reason})"
        )
    for peak in report.peaks:
        ran = "" if peak.ran is None else f", run in {peak.ran}"
        yield (
            f"[dim]peak[/] {peak.engine} {peak.precision}: "
            f"{peak.macs_per_second / 1e9:,.0f} GMAC/s (matrix product{ran})"
        )
    for key, blocks in report.blocks.items():
        total = sum(block.ms for block in blocks)
        if not total:
            continue
        first = sorted(blocks, key=lambda block: -block.ms)[:3]
        named = ", ".join(f"{b.name or 'between blocks'} {b.ms / total:.0%}" for b in first)
        yield f"[dim]blocks[/] {escape(key)}: most time in {escape(named)}"
    for row in report.rows:
        if row.end_to_end and row.parts_ms:
            parts = ", ".join(f"{name} {value:.2f} ms" for name, value in row.parts_ms.items())
            yield f"[dim]parts[/] {escape(row.key)}, batch {row.batch}: {parts}"
    if report.harness_us is not None:
        share = max((row.harness_share or 0.0 for row in report.rows), default=0.0)
        yield (
            f"[dim]harness[/] {report.harness_us:.1f} µs per query (null engine), "
            f"at most {share:.2%} of a figure"
        )
    yield f"[dim]energy[/] {escape(report.energy)}"
