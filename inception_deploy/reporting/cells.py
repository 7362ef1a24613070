"""Table cells: a figure, or "not measured" with the reason."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from inception_deploy.reporting.numerals import significant

__all__ = ["BLANK", "Cell", "Row", "cell", "plain", "plain_rows"]


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
    """

    text: str
    note: str = ""
    kind: str = ""


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
