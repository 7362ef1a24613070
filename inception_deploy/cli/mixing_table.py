"""The mixing of an INT8 graph on the terminal: the choices worth having, and the one taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = ["print_mixing"]


def print_mixing(mixing: Mapping[str, Any], out: Console) -> None:
    """The Pareto set of the manifest's `mixing` as a table, and its verdict as a line.

    Nothing but the line where all blocks run in integers, since there was nothing to choose.
    """
    style = "green" if mixing["met"] else "red"
    if mixing["sensitivity"]:
        out.print(_table(mixing))
    out.print(f"mixing    [{style}]{escape(mixing['reason'])}[/]")


def _table(mixing: Mapping[str, Any]) -> Table:
    table = Table(title="Blocks in float: accuracy against time", title_justify="left")
    table.add_column("", width=1)
    table.add_column("in float", justify="right")
    table.add_column("and then", overflow="fold")
    table.add_column("SQNR", justify="right")
    table.add_column("top-1 drop", justify="right")
    table.add_column("ms", justify="right")
    before: set[str] = set()
    for point in mixing["pareto"]:
        kept = set(point["kept_float"])
        chosen = point["kept_float"] == mixing["kept_float"]
        if not (point["front"] or chosen):
            continue
        added = [name for name in point["kept_float"] if name not in before]
        table.add_row(
            "→" if chosen else "",
            str(len(kept)),
            escape(", ".join(added)) or "–",
            _sqnr(point),
            "" if point["top1_drop"] is None else f"{point['top1_drop']:.2f}",
            "" if point["predicted_ms"] is None else f"{point['predicted_ms']:.3g}",
            style="bold" if chosen else "" if point["measured"] else "dim",
        )
        before = kept
    table.caption = "SQNR in dB; ~ predicted by adding up the noise of single blocks"
    return table


def _sqnr(point: Mapping[str, Any]) -> str:
    if point["measured"]:
        return "exact" if point["exact"] else f"{point['sqnr_db']:.1f}"
    if point["predicted_sqnr_db"] is None:
        return "~float"
    return f"~{point['predicted_sqnr_db']:.1f}"
