"""`inception-deploy report`: one HTML page about one bundle or several."""

from __future__ import annotations

from pathlib import Path

import click

from inception_deploy.cli.console import Terminal
from inception_deploy.cli.options import BUNDLES, with_terminal

__all__ = ["command"]


@click.command("report")
@BUNDLES
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The HTML file. Default: report.html in the bundle, or here for several bundles.",
)
@with_terminal
def command(bundles: tuple[Path, ...], output: Path | None, terminal: Terminal) -> None:
    """Write the report of one BUNDLE, or one that compares several."""
    from inception_deploy.bundle import Bundle
    from inception_deploy.report import load_bundle, render

    page = render([load_bundle(path) for path in bundles])
    if output is None and len(bundles) == 1:
        Bundle.open(bundles[0]).rewrite("report.html", page)
        output = bundles[0] / "report.html"
    else:
        output = output or Path("report.html")
        temporary = output.with_name(output.name + ".tmp")
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(output)
    terminal.result({"report": str(output), "bytes": output.stat().st_size})
    terminal.note(f"wrote {output} ({output.stat().st_size / 1024:.0f} KiB)")
