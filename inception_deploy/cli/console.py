"""What the commands print with: rich on a terminal, plain lines in a pipe, JSON when asked."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
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
        with self._line(description, total) as advance:
            for item in items:
                yield item
                advance()

    @contextmanager
    def stage(self, description: str) -> Iterator[None]:
        """A spinner while work of unknown length goes on."""
        with self._line(description, None):
            yield

    @contextmanager
    def _line(self, description: str, total: int | None) -> Iterator[Callable[[], None]]:
        """One line of progress: live on a terminal, printed once when done elsewhere."""
        if self.quiet:
            yield lambda: None
        elif self.err.is_terminal:
            columns: list[ProgressColumn] = [
                TextColumn("{task.description:<32}"),
                BarColumn(bar_width=24),
            ]
            columns += [MofNCompleteColumn()] if total is not None else []
            columns += [TimeElapsedColumn()]
            columns += [TimeRemainingColumn()] if total is not None else []
            with Progress(*columns, console=self.err) as bar:
                task = bar.add_task(description, total=total)
                yield lambda: bar.advance(task)
                bar.update(task, total=total or 1, completed=total or 1)
        else:
            started = time.perf_counter()
            yield lambda: None
            self.err.print(f"{description:<32} {time.perf_counter() - started:6.1f} s")

    def note(self, message: str) -> None:
        """One line that the user should see."""
        if not self.quiet:
            self.err.print(message, markup=False, style="dim")

    def result(self, value: Any) -> None:
        """The command's result for machines, on stdout, when --json was given."""
        if self.as_json:
            print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))
