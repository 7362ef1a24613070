"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

from inception_deploy.cli.console import Terminal
from inception_deploy.errors import RecipeError

__all__ = ["BUNDLE", "BUNDLES", "data_options", "parse_batches", "parse_triple", "with_terminal"]

P = ParamSpec("P")
R = TypeVar("R")

_BUNDLE_PATH = click.Path(path_type=Path)

BUNDLE = click.argument("bundle", type=_BUNDLE_PATH)
BUNDLES = click.argument("bundles", type=_BUNDLE_PATH, nargs=-1, required=True)


def with_terminal(command: Callable[..., R]) -> Callable[..., R]:
    """Adds --json, -q and -v, and passes a `Terminal` as `terminal`."""

    @click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
    @click.option("-q", "--quiet", is_flag=True, help="No progress, no notes.")
    @click.option("-v", "--verbose", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(command)
    def wrapped(*args: Any, as_json: bool, quiet: bool, verbose: bool, **kwargs: Any) -> R:
        del verbose  # main() looks for it, since an error may come before any command runs
        return command(*args, terminal=Terminal(quiet=quiet, as_json=as_json), **kwargs)

    return wrapped


def data_options(default_size: int | None) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Adds --data, --data-size and --skip-bad-images."""

    def decorate(command: Callable[..., R]) -> Callable[..., R]:
        for option in (
            click.option(
                "--skip-bad-images",
                is_flag=True,
                default=None,
                help="Leave out images that cannot be read; they are counted and named.",
            ),
            click.option(
                "--data-size",
                type=click.IntRange(1),
                default=default_size,
                show_default=default_size is not None,
                help="Compare at most this many images, class-balanced and seeded.",
            ),
            click.option(
                "--data",
                metavar="PATH",
                help="Images: an ImageFolder directory, .csv of path,label, .npz, or 'shapes'.",
            ),
        ):
            command = option(command)
        return command

    return decorate


def parse_triple(text: str | None, option: str) -> tuple[float, float, float] | None:
    """ "0.5,0.5,0.5" → three numbers. Raises `RecipeError` naming the option."""
    if text is None:
        return None
    try:
        first, second, third = (float(part) for part in text.split(","))
    except ValueError:
        raise RecipeError(f"{option} needs three comma-separated numbers, not '{text}'") from None
    return first, second, third


def parse_batches(text: str) -> tuple[int, ...]:
    """ "1,8,32" → batch sizes. Raises `RecipeError`."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise RecipeError(f"--batch needs sizes like 1,8,32, not '{text}'")
    return tuple(dict.fromkeys(int(part) for part in parts))
