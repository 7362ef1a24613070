"""`inception-deploy gate`: may this bundle be shipped?"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape
from rich.table import Table

from inception_deploy.cli.console import Terminal
from inception_deploy.cli.options import BUNDLE, parse_batches, with_terminal
from inception_deploy.errors import BadInput

if TYPE_CHECKING:
    from inception_deploy.gate import GateVerdict

__all__ = ["command", "parse_size"]

_STYLES = {"PASS": "green", "FAIL": "bold red", "INCONCLUSIVE": "yellow", "NOT_ASKED": "dim"}
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("gate")
@BUNDLE
@click.option(
    "--data",
    metavar="PATH",
    help="Images: an ImageFolder directory, .csv of path,label, .npz, or 'shapes'. "
    "Default: those of the export.",
)
@click.option(
    "--data-size",
    type=click.IntRange(1),
    metavar="N",
    help="Compare at most N images. Default: all, of 'shapes' 4000; fewer where the answer is "
    "sure before.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice and the order.")
@click.option("--skip-bad-images", is_flag=True, help="Leave out images that cannot be read.")
@click.option(
    "--max-drop", type=float, metavar="POINTS", help="Largest loss of top-1. Default: 0.5."
)
@click.option(
    "--min-agreement",
    type=float,
    metavar="PERCENT",
    help="Least share of images with the same first choice. Default: 99; bf16 98, int8 97, fp8 95.",
)
@click.option(
    "--min-sqnr",
    type=float,
    metavar="DB",
    help="Least SQNR of the outputs. Default: fp32 60, fp16 30, bf16 15, int8 10, fp8 5.",
)
@click.option(
    "--max-p99-ms", type=float, metavar="MS", help="Largest 99th percentile of a batch's latency."
)
@click.option(
    "--min-speedup",
    type=float,
    metavar="X",
    help="Least speed-up over PyTorch, timed beside it.",
)
@click.option("--max-size", metavar="SIZE", help="Largest deployed files together, e.g. 25MB.")
@click.option("--no-defaults", is_flag=True, help="Hold only the bounds that are given.")
@click.option("--batch", metavar="N,N", help="Batch sizes to time. Default: the bundle's optimum.")
@click.option(
    "--seconds", type=float, default=2.0, show_default=True, help="To time each of them for."
)
@click.option("--threads", type=click.IntRange(1), help="Of the engine. Default: its own choice.")
@click.option("--baseline", type=_FILE, metavar="FILE", help="Hold to an earlier build, as well.")
@click.option(
    "--update-baseline",
    type=_FILE,
    metavar="FILE",
    help="Write the figures for later builds, if the verdict is PASS. Measures speed, too.",
)
@click.option(
    "--no-pieces", is_flag=True, help="Leave out what `locate` would find; quicker, less thorough."
)
@click.option("--resume", is_flag=True, help="Go on where an interrupted gate left off.")
@click.option("--junit", type=_FILE, metavar="FILE", help="Write the checks as JUnit XML.")
@click.option(
    "--summary",
    type=_FILE,
    metavar="FILE",
    help="Append a summary in Markdown. Default: $GITHUB_STEP_SUMMARY, where it is set.",
)
@with_terminal
def command(
    bundle: Path,
    data: str | None,
    data_size: int | None,
    seed: int,
    skip_bad_images: bool,
    max_drop: float | None,
    min_agreement: float | None,
    min_sqnr: float | None,
    max_p99_ms: float | None,
    min_speedup: float | None,
    max_size: str | None,
    no_defaults: bool,
    batch: str | None,
    seconds: float,
    threads: int | None,
    baseline: Path | None,
    update_baseline: Path | None,
    no_pieces: bool,
    resume: bool,
    junit: Path | None,
    summary: Path | None,
    terminal: Terminal,
) -> int:
    """Decide whether BUNDLE may be shipped.

    Files, graphs and images are looked at, in this order, until something fails or every bound is
    settled. Bounds on accuracy and agreement are held by 95 % intervals that stay valid under early
    stopping. A bound that nobody named can fail a bundle, but not leave it undecided.

    Exit code 0 PASS, 1 FAIL, 4 INCONCLUSIVE (more images are needed, and how many).
    """
    from inception_deploy.bundle import Bundle
    from inception_deploy.gate import Baseline, Bounds, Timing, gate, load_baseline

    opened = Bundle.open(bundle)
    bounds = Bounds.asked(
        str(opened.manifest["precision"]),
        defaults=not no_defaults,
        max_drop=max_drop,
        min_agreement=min_agreement,
        min_sqnr=min_sqnr,
        max_p99_ms=max_p99_ms,
        min_speedup=min_speedup,
        max_size=None if max_size is None else parse_size(max_size),
    )
    verdict = gate(
        opened,
        bounds,
        data=data,
        data_size=data_size,
        seed=seed,
        skip_bad=skip_bad_images,
        baseline=None if baseline is None else load_baseline(baseline),
        pieces=not no_pieces,
        resume=resume,
        timing=Timing(
            batches=None if batch is None else parse_batches(batch),
            seconds=seconds,
            threads=threads,
            always=update_baseline is not None,
        ),
        progress=terminal,
    )
    _write(verdict, junit, summary, terminal)
    if terminal.as_json:
        terminal.result(verdict.to_dict())
    else:
        _print(verdict, terminal)
    if update_baseline is not None:
        if verdict.outcome == "PASS" and verdict.parity is not None:
            Baseline.of(opened, verdict.parity, verdict.speed).save(update_baseline)
            terminal.note(f"baseline written to {update_baseline}")
        else:
            terminal.note(f"{update_baseline} is left as it was: the verdict is {verdict.outcome}")
    return verdict.exit_code


def parse_size(text: str) -> int:
    """ "25MB" → bytes; units of 1000 (kB, MB, GB) and 1024 (KiB, MiB, GiB). Raises `BadInput`."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = None if found is None else _UNITS.get(found[2].upper())
    if found is None or unit is None:
        raise BadInput(f"--max-size needs a size like 25MB or 24MiB, not '{text}'")
    return round(float(found[1]) * unit)


def _write(
    verdict: GateVerdict, junit: Path | None, summary: Path | None, terminal: Terminal
) -> None:
    """The files for continuous integration, and annotations where GitHub listens."""
    from inception_deploy.gate.github import (
        annotation_lines,
        append_summary,
        on_github,
        summary_path,
    )
    from inception_deploy.gate.junit import write_junit

    if junit is not None:
        write_junit(junit, verdict)
    page = summary_path(summary, os.environ)
    if page is not None:
        append_summary(page, verdict)
    if on_github(os.environ):
        for line in annotation_lines(verdict):
            click.echo(line, err=terminal.as_json)  # the runner reads both, JSON must stay whole


def _print(verdict: GateVerdict, terminal: Terminal) -> None:
    """The table of checks and the verdict; readable on an 80-column terminal."""
    title = f"{verdict.network} {verdict.precision} on {verdict.target}, held to {verdict.truth}"
    table = Table(title=escape(title), title_justify="left")
    table.add_column("check", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("found and allowed", overflow="fold")
    for check in verdict.checks:
        style = _STYLES[check.outcome]
        counted = (
            " (does not count)" if check.outcome == "INCONCLUSIVE" and not check.counts else ""
        )
        table.add_row(
            escape(check.name), f"[{style}]{check.outcome}[/]", escape(check.reason + counted)
        )
    terminal.out.print(table)
    for warning in verdict.warnings:
        terminal.out.print(f"[yellow]warning[/]  {escape(warning)}")
    early = ", stopped early: the answer is sure" if verdict.stopped_early else ""
    terminal.out.print(f"images   {verdict.images:,} compared in {verdict.seconds:.1f} s{early}")
    style = _STYLES[verdict.outcome]
    terminal.out.print(f"verdict  [{style}]{verdict.outcome}[/] {escape(verdict.reason)}")
