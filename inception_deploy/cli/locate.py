"""`inception-deploy locate`: the first place where a bundle leaves its reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape
from rich.table import Table

from inception_deploy.cli.console import Terminal
from inception_deploy.cli.options import BUNDLE, with_terminal

if TYPE_CHECKING:
    from inception_deploy.locate import Finding, LocateReport

__all__ = ["command"]

_SHOWN = 8
"""Findings, and tensors around the first one, that are printed."""


@click.command("locate")
@BUNDLE
@click.option(
    "--data",
    metavar="PATH",
    help="Compare on these images; otherwise on the golden inputs of the bundle.",
)
@click.option(
    "--images",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="How many images tensors are compared on.",
)
@click.option(
    "--report",
    "page",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.html",
    help="Write table and plot as a page of their own.",
)
@click.option("--write", is_flag=True, help="Keep the result in the bundle, as locate.json.")
@with_terminal
def command(
    bundle: Path, data: str | None, images: int, page: Path | None, write: bool, terminal: Terminal
) -> int:
    """Find the first place where BUNDLE leaves its reference, named by block.

    Exit code 1 where something is found, 0 where every error is explained by rounding.
    """
    from inception_deploy.bundle import Bundle
    from inception_deploy.locate import locate
    from inception_deploy.reporting.depth_plot import write_page

    opened = Bundle.open(bundle)
    report = locate(opened, data=data, images=images, progress=terminal)
    values = report.to_dict()
    if write:
        text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        opened.rewrite("locate.json", text)
    if page is not None:
        write_page(values, page)
    if terminal.as_json:
        terminal.result(values)
    else:
        _print(report, terminal)
    return 1 if report.findings else 0


def _print(report: LocateReport, terminal: Terminal) -> None:
    table = Table(title="stages", title_justify="left")
    for heading in ("stage", "between", "tensors", "largest own error", "allowed there", "found"):
        table.add_column(heading)
    for stage in report.transitions:
        rows = [r for r in report.rows if r.stage == stage.stage and r.own is not None]
        worst = max(rows, key=lambda r: (r.own or 0.0) / r.allowed, default=None)
        count = sum(f.stage == stage.stage for f in report.findings)
        table.add_row(
            stage.stage,
            stage.between,
            escape(f"not looked at: {stage.skipped}") if stage.skipped else f"{stage.tensors:,}",
            f"{worst.own:.2e} {escape(worst.place.tensor)}" if worst and worst.own else "–",
            f"{worst.allowed:.1e}" if worst else "–",
            f"[red]{count}[/]" if count else "nothing" if not stage.skipped else "–",
        )
    terminal.out.print(table)
    first = report.first
    if first is None:
        terminal.out.print("[green]nothing found[/]: rounding explains every error")
        return
    _first(first, report, terminal)
    for other in report.findings[1:_SHOWN]:
        terminal.out.print(
            f"also   {other.stage}: {escape(other.place.node)} {escape(other.said)}", style="dim"
        )
    if len(report.findings) > _SHOWN:
        terminal.out.print(f"and {len(report.findings) - _SHOWN} more; --json lists all")


def _first(first: Finding, report: LocateReport, terminal: Terminal) -> None:
    terminal.out.print(f"[red]first[/]  [bold]{escape(first.place.module)}[/], stage {first.stage}")
    terminal.out.print(f"block  {escape(first.place.block)}, node {escape(first.place.node)}")
    terminal.out.print(f"what   {escape(first.said)}")
    for cause in first.causes:
        terminal.out.print(f"cause  {escape(cause)}")
    rows = [r for r in report.rows if r.stage == first.stage]
    at = next((i for i, r in enumerate(rows) if r.place.node == first.place.node), None)
    if at is None:
        return
    table = Table(title=f"around it, {first.stage}", title_justify="left")
    for heading in ("tensor", "own error", "allowed", "accumulated"):
        table.add_column(heading, justify="left" if heading == "tensor" else "right")
    for row in rows[max(at - _SHOWN // 2, 0) : at + _SHOWN // 2 + 1]:
        style = "red" if row.jumps else ""
        table.add_row(
            escape(row.place.tensor),
            _number(row.own),
            f"{row.allowed:.1e}",
            _number(row.depth),
            style=style,
        )
    terminal.out.print(table)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.2e}"
