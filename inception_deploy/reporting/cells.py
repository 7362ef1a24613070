"""Table cells: a figure, or "not measured" with the reason."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from inception_deploy.reporting.numerals import significant

__all__ = ["BLANK", "Cell", "Row", "cell", "merged", "plain", "plain_rows"]


_LABELS = {
    "cpu": "CPU",
    "gpu": "GPU",
    "isa": "instruction sets",
    "memory_gib": "memory, GiB",
    "pixel_max": "largest pixel value",
    "python": "Python",
    "sha256": "SHA-256",
}


@dataclass(frozen=True)
class Cell:
    """One table cell.

    Args:
        text: the figure, formatted.
        note: a smaller second line.
        kind: "" as usual, "missing" where nothing was measured, "alarm" for NaN and broken bounds,
            "blank" where the column does not apply.
        span: how many columns it stands for.
    """

    text: str
    note: str = ""
    kind: str = ""
    span: int = 1


BLANK = Cell("", kind="blank")


@dataclass(frozen=True)
class Row:
    """A row of cells under its heading."""

    label: str
    cells: tuple[Cell, ...]


def cell(value: float | None, form: Callable[[float], str], why: str = "", note: str = "") -> Cell:
    """`value` formatted by `form`; None becomes "not measured" and says `why`."""
    if value is None:
        return Cell("not measured", why or "the run recorded no value", "missing")
    if math.isnan(value):
        return Cell("NaN", "not a number: the computation broke", "alarm")
    return Cell(form(value), note)


def merged(columns: Sequence[str], cells: Sequence[Cell]) -> list[tuple[str, Cell]]:
    """Headings and cells of a row; neighbours missing for the same reason become one."""
    found: list[tuple[str, Cell]] = []
    for column, one in zip(columns, cells, strict=True):
        heading, last = found[-1] if found else ("", BLANK)
        if one.kind == "missing" and one == replace(last, span=1):
            found[-1] = (f"{heading}, {column}", replace(last, span=last.span + 1))
        else:
            found.append((column, one))
    return found


def plain(value: Any) -> str:
    """A JSON value as text; integers ungrouped, for they may be seeds, opsets or years."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}" if math.isfinite(value) else significant(value)
    if isinstance(value, list):
        return ", ".join(plain(item) for item in value) or "–"
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def plain_rows(values: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Label and text of each entry; underscores in keys are shown as spaces."""
    return [
        (_LABELS.get(key, key.replace("_", " ")), plain(value))
        for key, value in (values or {}).items()
    ]
