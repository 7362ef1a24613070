"""`inception-deploy compare`: the parity of a bundle, measured again."""

from __future__ import annotations

from pathlib import Path

import click
from rich.markup import escape
from rich.table import Table

from inception_deploy.cli.console import Terminal
from inception_deploy.cli.options import BUNDLE, data_options, with_terminal

__all__ = ["command"]


@click.command("compare")
@BUNDLE
@data_options(1000)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice of images.")
@click.option(
    "--against",
    type=click.Choice(["pytorch", "reference.onnx"]),
    default="pytorch",
    show_default=True,
    help="reference.onnx needs nothing but the bundle.",
)
@click.option("--max-drop", type=float, metavar="POINTS", help="Fail above this loss of top-1.")
@click.option("--write", is_flag=True, help="Replace the bundle's parity.json with the result.")
@with_terminal
def command(
    bundle: Path,
    data: str | None,
    data_size: int,
    skip_bad_images: bool | None,
    seed: int,
    against: str,
    max_drop: float | None,
    write: bool,
    terminal: Terminal,
) -> int:
    """Compare the deployed graph of BUNDLE with its reference on the same images, again.

    Exit code 1 where --max-drop is exceeded, 4 where the images are too few to tell.
    """
    from inception_deploy.bundle import Bundle
    from inception_deploy.cli.summary import EXIT_CODES, number
    from inception_deploy.compare import compare_bundle

    opened = Bundle.open(bundle)
    report = compare_bundle(
        opened,
        data=data,
        data_size=data_size,
        seed=seed,
        skip_bad=bool(skip_bad_images),
        against="pytorch" if against == "pytorch" else "reference.onnx",
        max_drop=max_drop,
        progress=terminal,
    )
    if write:
        opened.with_parity(report.to_dict())
    if terminal.as_json:
        terminal.result(report.to_dict())
        return EXIT_CODES[report.verdict]
    table = Table(title=f"{against} → {report.candidate}", title_justify="left", show_header=False)
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
    if report.near_ties is not None:
        ties = report.near_ties
        rows.append(("near ties", f"{ties.images}, of which {ties.disagreeing} disagree"))
    for row in rows:
        table.add_row(*row)
    terminal.out.print(table)
    terminal.out.print(f"verdict  {report.verdict}: {report.verdict_reason}")
    return EXIT_CODES[report.verdict]


def _interval(bounds: tuple[float, float] | None) -> str:
    return "–" if bounds is None else f"{bounds[0]:.2f} to {bounds[1]:.2f}"
