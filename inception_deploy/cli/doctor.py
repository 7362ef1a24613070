"""`inception-deploy doctor`: what works on this machine, and what would add the rest."""

from __future__ import annotations

import click
from rich.table import Table

from inception_deploy.cli.console import Terminal
from inception_deploy.cli.options import with_terminal

__all__ = ["command"]


@click.command("doctor")
@with_terminal
def command(terminal: Terminal) -> int:
    """Show which engines work here; for each missing one, the command that adds it."""
    from inception_deploy.engines import ENGINES
    from inception_deploy.machine import describe, library_versions

    engines = {engine.name: engine.availability() for engine in ENGINES}
    machine, libraries = describe().to_dict(), library_versions()
    if terminal.as_json:
        terminal.result(
            {
                "engines": {
                    name: {
                        "ok": found.ok,
                        "version": found.version,
                        "devices": list(found.devices),
                        "remedy": found.remedy,
                        "detail": found.detail,
                        "obstacle": found.obstacle,
                    }
                    for name, found in engines.items()
                },
                "machine": machine,
                "versions": libraries,
            }
        )
    else:
        table = Table(title="Engines", title_justify="left", title_style="bold")
        for header in ("engine", "works", "version", "devices", "remarks"):
            table.add_column(header, overflow="fold")
        for name, found in engines.items():
            table.add_row(
                name,
                "[green]yes[/]" if found.ok else "[red]no[/]",
                found.version or "–",
                ", ".join(found.devices) or "–",
                found.remedy or found.detail,
            )
        terminal.out.print(table)
        facts = Table(title="Machine", title_justify="left", title_style="bold", show_header=False)
        for key, value in {**machine, **libraries}.items():
            shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            facts.add_row(key, shown)
        terminal.out.print(facts)
    return 0 if any(found.ok for found in engines.values()) else 3
