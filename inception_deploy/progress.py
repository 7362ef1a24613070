"""How stages tell of their progress without knowing who listens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeVar

__all__ = ["Progress", "SilentProgress"]

T = TypeVar("T")


class Progress(Protocol):
    """A listener for long work; the command line draws bars, a library caller may stay silent."""

    def track(self, items: Iterable[T], description: str, total: int) -> Iterator[T]:
        """Pass `items` through, showing how many of `total` are done."""
        ...

    def stage(self, description: str) -> AbstractContextManager[None]:
        """Work of unknown length."""
        ...

    def note(self, message: str) -> None:
        """One line that the user should see."""
        ...


class SilentProgress:
    """Says nothing."""

    def track(self, items: Iterable[T], description: str, total: int) -> Iterator[T]:
        yield from items

    def stage(self, description: str) -> AbstractContextManager[None]:
        return nullcontext()

    def note(self, message: str) -> None:
        del message
