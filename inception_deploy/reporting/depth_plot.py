"""Error by depth: what each tensor adds by itself, and what has accumulated there."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from inception_deploy.errors import BundleError
from inception_deploy.reporting.canvas import CHARACTER, WIDTH, Canvas, Heading, shorten
from inception_deploy.reporting.numerals import power_of_ten, significant
from inception_deploy.reporting.scales import log_ticks

__all__ = ["depth_plot", "depth_table", "located_section", "write_page"]

_SMALLEST = 1e-9
"""Errors below it are drawn there: less than the last bit of a float32."""

_HEIGHT = 180.0


def depth_plot(located: Mapping[str, Any], stage: str, ident: str) -> Markup | None:
    """Errors over depth for one stage, on a log axis.

    The line is what has accumulated, dots are what each tensor adds to exact inputs; tensors that
    jump are drawn large, and the first is named.

    Args:
        located: locate.json.
        stage: one of its stages.
        ident: of the chart, unique on its page.

    Returns:
        None where no tensor was compared over this stage.
    """
    rows = [row for row in located["rows"] if row["stage"] == stage]
    if not rows:
        return None
    values = [v for row in rows for v in (row["own"], row["depth"], row["allowed"]) if v]
    reach = max((v for v in values if math.isfinite(v)), default=1.0)
    ticks = log_ticks(max(min(values, default=_SMALLEST), _SMALLEST), max(reach, 10 * _SMALLEST))
    low, high = math.log10(ticks[0]), math.log10(ticks[-1])
    canvas = Canvas()
    top = canvas.legend([("accumulated", 0), ("added by itself", 1)], 0.0) + 24
    left, bottom = 44.0, top + _HEIGHT

    def across(position: float) -> float:
        return left + (WIDTH - left - 8) * (position + 0.5) / len(rows)

    def up(value: float | None) -> float:
        if value is None:
            return top
        clamped = min(max(value, ticks[0]), ticks[-1])
        return bottom - _HEIGHT * (math.log10(clamped) - low) / (high - low)

    canvas.text(0, top - 10, "error of the largest value", "muted")
    for index, tick in enumerate(ticks):
        canvas.line(left, up(tick), WIDTH, up(tick), "grid")
        if index % max(len(ticks) // 6, 1) == 0:
            canvas.text(left - 6, up(tick) + 4, power_of_ten(tick), "muted", "end")
    canvas.path([(across(n), up(row["depth"])) for n, row in enumerate(rows)], "stroke s0")
    for n, row in enumerate(rows):
        own = "not finite" if row["own"] is None else significant(row["own"])
        tip = f"{row['place']['tensor']}: {own}, allowed {significant(row['allowed'])}"
        if row["jumps"]:
            canvas.mark(across(n), up(row["own"]), 1, tip)
        else:
            canvas.add("circle", tip=tip, cx=across(n), cy=up(row["own"]), r=1.6, class_="s1")
    first = next((n for n, row in enumerate(rows) if row["jumps"]), None)
    if first is not None:
        row = rows[first]
        x, y = across(first), up(row["own"])
        after = x < WIDTH / 2
        room = (WIDTH - x if after else x) - 16
        label = shorten(row["place"]["module"], room)
        canvas.text(
            x + 10 if after else x - 10,
            max(y - 8, top + 10),
            label,
            "strong halo",
            "start" if after else "end",
        )
    canvas.text(left, bottom + 18, _end(rows[0]), "muted")
    last = _end(rows[-1])
    if (len(last) + len(_end(rows[0]))) * CHARACTER < WIDTH - left:
        canvas.text(WIDTH, bottom + 18, last, "muted", "end")
    jumping = [row["place"]["tensor"] for row in rows if row["jumps"]]
    spoken = f"{len(rows)} tensors in processing order; " + (
        f"jumps at {', '.join(jumping[:5])}" if jumping else "none jumps"
    )
    return canvas.svg(bottom + 26, Heading(ident, f"Error by depth, {stage}", spoken))


def _end(row: Mapping[str, Any]) -> str:
    return str(row["place"]["block"])


def depth_table(located: Mapping[str, Any]) -> Markup:
    """What was found, a row each: stage, block, node, what, causes."""
    cells = []
    for found in located["findings"]:
        place = found["place"]
        texts = (found["stage"], place["block"], place["node"], found["said"])
        causes = "; ".join(found["causes"]) or "–"
        cells.append([*texts, causes])
    head = ("Stage", "Block", "Node", "What", "Likely causes")
    return _table(head, cells, "Divergences, the first on top")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> Markup:
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows
    )
    top = "".join(f'<th scope="col">{escape(text)}</th>' for text in head)
    return Markup(  # every text is escaped above
        f"<table><caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )


def located_section(located: Mapping[str, Any] | None, ident: str) -> Markup | None:
    """Table, plots and what was not looked at, of a locate.json; None where there is none.

    Args:
        ident: of the plots, unique on their page.
    """
    if located is None:
        return None
    found = (
        depth_table(located)
        if located["findings"]
        else Markup("<p>Nothing found: rounding explains every error.</p>")
    )
    plots = Markup()
    for number, stage in enumerate(dict.fromkeys(row["stage"] for row in located["rows"])):
        plot = depth_plot(located, stage, f"{ident}-{number}")
        plots += Markup("<figure><figcaption>{}</figcaption>{}</figure>").format(stage, plot)
    skipped = Markup().join(
        Markup("<li>{}: {}</li>").format(t["between"], t["skipped"])
        for t in located["transitions"]
        if t["skipped"]
    )
    return (
        found
        + Markup('<div class="figures">{}</div>').format(plots)
        + (Markup("<p>Not looked at:</p><ul>{}</ul>").format(skipped) if skipped else Markup())
    )


def write_page(located: Mapping[str, Any], output: Path) -> Path:
    """Table and plots of a locate.json as a page of their own, replaced as a whole.

    Raises:
        BundleError: the file cannot be written.
    """
    style = resources.files("inception_deploy.reporting").joinpath("style.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    title = f"{located['network']}, {located['precision']} on {located['target']}: where it leaves"
    title += " its reference"
    section = located_section(located, "depth")
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        f"style-src 'sha256-{digest}'\">"
        f"<title>{escape(title)}</title><style>{style}</style></head>"
        f"<body><main><h1>{escape(title)}</h1>{section}</main></body></html>\n"
    )
    temporary = output.with_name(f".{output.name}.tmp")
    try:
        temporary.write_text(page, encoding="utf-8", newline="\n")
        temporary.replace(output)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise BundleError(
            f"cannot write {output} ({error.strerror}); name a file in an existing folder"
        ) from error
    return output
