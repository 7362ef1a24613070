"""`inception-deploy compare`: the parity of a bundle, measured again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape
from rich.table import Table

from inception_deploy.cli.console import Terminal
from inception_deploy.cli.options import BUNDLE, data_options, with_terminal
from inception_deploy.errors import BadInput

if TYPE_CHECKING:
    from inception_deploy.bundle import Bundle
    from inception_deploy.compare import Side
    from inception_deploy.parity import ParityReport

__all__ = ["command"]

_SHOWN = 3
"""Classes, and blocks without figures, that are printed."""


@click.command("compare")
@BUNDLE
@data_options(1000)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice of images.")
@click.option(
    "--between",
    type=click.Choice(["pytorch", "reference", "model", "engine"]),
    nargs=2,
    metavar="A B",
    help="Any two forms: pytorch, reference (.onnx), model (.onnx as written), engine. The one "
    "nearer to PyTorch is the reference. Default: pytorch engine.",
)
@click.option(
    "--against",
    type=click.Choice(["pytorch", "reference.onnx"]),
    default="pytorch",
    show_default=True,
    help="reference.onnx needs nothing but the bundle.",
)
@click.option("--max-drop", type=float, metavar="POINTS", help="Fail above this loss of top-1.")
@click.option("--resume", is_flag=True, help="Go on where an interrupted comparison left off.")
@click.option("--write", is_flag=True, help="Replace the bundle's parity.json with the result.")
@with_terminal
def command(
    bundle: Path,
    data: str | None,
    data_size: int,
    skip_bad_images: bool | None,
    seed: int,
    between: tuple[Side, Side] | None,
    against: str,
    max_drop: float | None,
    resume: bool,
    write: bool,
    terminal: Terminal,
) -> int:
    """Compare two forms of the network in BUNDLE on the same images, again.

    Exit code 1 where --max-drop is exceeded, 4 where the images are too few to tell.
    """
    from inception_deploy.bundle import Bundle
    from inception_deploy.cli.summary import EXIT_CODES, number
    from inception_deploy.compare import compare_bundle

    if write and between:
        raise BadInput("--write keeps a comparison with the engine; leave out --between")
    opened = Bundle.open(bundle)
    report = compare_bundle(
        opened,
        data=data,
        data_size=data_size,
        seed=seed,
        skip_bad=bool(skip_bad_images),
        against="pytorch" if against == "pytorch" else "reference.onnx",
        between=between or None,
        max_drop=max_drop,
        resume=resume,
        progress=terminal,
    )
    if write:
        opened.with_parity(report.to_dict())
    if terminal.as_json:
        terminal.result(report.to_dict())
        return EXIT_CODES[report.verdict]
    table = Table(
        title=f"{report.reference} → {report.candidate}", title_justify="left", show_header=False
    )
    rows = [
        ("images", f"{report.data.images:,} of {escape(report.data.name) or 'the built-in set'}"),
        ("skipped", escape(", ".join(report.data.skipped)) or "none"),
        ("top-1 reference", number(report.top1_reference, "%")),
        ("top-1 deployed", number(report.top1_deployed, "%")),
        ("drop, points", number(report.top1_drop)),
        ("drop, 95 % interval", _interval(report.drop_ci95)),
        ("same top-1", number(report.top1_agreement, "%")),
        ("same top-5", number(report.top5_agreement, "%")),
        ("largest error / largest output", number(report.max_rel_error)),
        ("SQNR", "exact" if report.exact else number(report.sqnr_db, "dB")),
        ("smallest cosine", f"{report.cosine:.7f}"),
    ]
    if report.flips is not None:
        flips = f"{report.flips.harmful} harmful, {report.flips.beneficial} beneficial"
        rows.append(("flips", flips))
        rows.append(("McNemar's exact p, no drop", number(report.mcnemar_p)))
    if report.calibration is not None:
        errors = (100 * report.calibration.reference, 100 * report.calibration.deployed)
        rows.append(("calibration error, before → after", "{:.2f} → {:.2f} %".format(*errors)))
    rows += [("largest drops of a class", line) for line in _worst_classes(report, opened)]
    if report.near_ties is not None:
        ties = report.near_ties
        rows.append(
            (
                f"near ties (lead ≤ {number(ties.margin)})",
                f"{ties.images}, of which {ties.disagreeing} disagree",
            )
        )
    weakest = [b for b in report.blocks if b.sqnr_db is not None]
    if weakest:
        block = min(weakest, key=lambda b: b.sqnr_db or 0.0)
        shown = f"{escape(block.name)}: {number(block.sqnr_db, 'dB')}"
        rows.append((f"weakest of {len(report.blocks)} blocks", shown))
    lost = [b for b in report.blocks if b.reason is not None]
    rows += [("not compared", escape(f"{b.name}: {b.reason}")) for b in lost[:_SHOWN]]
    for row in rows:
        table.add_row(*row)
    terminal.out.print(table)
    terminal.out.print(f"verdict  {report.verdict}: {report.verdict_reason}")
    return EXIT_CODES[report.verdict]


def _worst_classes(report: ParityReport, bundle: Bundle) -> list[str]:
    """The classes that lose most; nothing where none loses."""
    losing = sorted((c for c in report.classes if c.drop > 0), key=lambda c: -c.drop)[:_SHOWN]
    names = bundle.class_names
    return [
        escape(
            f"{names[c.label] if names else c.label}: {c.top1_reference:.1f} → "
            f"{c.top1_deployed:.1f} % of {c.images}"
        )
        for c in losing
    ]


def _interval(bounds: tuple[float, float] | None) -> str:
    return "–" if bounds is None else f"{bounds[0]:.2f} to {bounds[1]:.2f}"
