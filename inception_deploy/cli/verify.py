"""`inception-deploy verify`: every hash, schema and version of a bundle."""

from __future__ import annotations

from pathlib import Path

import click
from rich.markup import escape

from inception_deploy.cli.console import Terminal
from inception_deploy.cli.options import BUNDLE, with_terminal

__all__ = ["command"]


@click.command("verify")
@BUNDLE
@with_terminal
def command(bundle: Path, terminal: Terminal) -> int:
    """Check that BUNDLE still holds what its manifest says. Exit code 1 where it does not."""
    from inception_deploy.bundle import Bundle
    from inception_deploy.verify import verify

    checks = verify(Bundle.open(bundle))
    failed = [check for check in checks if not check.ok]
    if terminal.as_json:
        terminal.result(
            {
                "bundle": str(bundle),
                "ok": not failed,
                "checks": [{"subject": c.subject, "problem": c.problem} for c in checks],
            }
        )
    else:
        for check in checks:
            mark = "[green]ok[/]  " if check.ok else "[red]FAIL[/]"
            problem = "" if check.ok else f": {check.problem}"
            terminal.out.print(f"{mark} {escape(check.subject + problem)}")
        terminal.out.print(
            f"[red]{len(failed)} of {len(checks)} checks failed[/]"
            if failed
            else f"[green]all {len(checks)} checks hold[/]"
        )
    return 1 if failed else 0
