"""What the commands print with: rich on a terminal, plain lines in a pipe, JSON when asked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["Terminal"]

T = TypeVar("T")


@dataclass
class Terminal:
    """Progress and notes go to stderr, results to stdout; implements `progress.Progress`.

    Args:
        quiet: no progress and no notes.
        as_json: results are one JSON document on stdout, tables are not printed.
    """

    quiet: bool = False
    as_json: bool = False
    out: RichConsole = field(default_factory=lambda: RichConsole(highlight=False))
    err: RichConsole = field(default_factory=lambda: RichConsole(stderr=True, highlight=False))

    def track(self, items: Iterable[T], description: str, total: int) -> Iterator[T]:
        """Pass `items` through under a bar with the time that is left."""
        if self.quiet:
            yield from items
            return
        with Progress(
            TextColumn("{task.description:<44}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.err,
            transient=not self.err.is_terminal,
        ) as bar:
            task = bar.add_task(description, total=total)
            for item in items:
                yield item
                bar.advance(task)

    @contextmanager
    def stage(self, description: str) -> Iterator[None]:
        """A spinner while work of unknown length goes on."""
        if self.quiet:
            yield
            return
        with Progress(
            TextColumn("{task.description:<44}"),
            SpinnerColumn(finished_text="[green]done[/]"),
            TimeElapsedColumn(),
            console=self.err,
        ) as bar:
            task = bar.add_task(description, total=1)
            yield
            bar.advance(task)

    def note(self, message: str) -> None:
        """One line that the user should see."""
        if not self.quiet:
            self.err.print(message)

    def result(self, value: Any) -> None:
        """The command's result for machines, on stdout, when --json was given."""
        if self.as_json:
            print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))
