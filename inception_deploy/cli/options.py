"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, get_args

import click

from inception_deploy.build_options import BatchProfile, BuildOptions, Compatibility
from inception_deploy.cli.console import Terminal
from inception_deploy.errors import RecipeError

__all__ = [
    "BUNDLE",
    "BUNDLES",
    "GroupedCommand",
    "build_options",
    "data_options",
    "parse_batches",
    "parse_build",
    "parse_triple",
    "with_terminal",
]

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


class _BuildOption(click.Option):
    """An option that is listed apart in --help."""


class GroupedCommand(click.Command):
    """A command whose options for the building of engines have a section of their own."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        params = self.get_params(ctx)
        apart = [param for param in params if isinstance(param, _BuildOption)]
        for title, chosen in (
            ("Options", [param for param in params if param not in apart]),
            ("Engine building (TensorRT, TensorRT-RTX)", apart),
        ):
            rows = [row for param in chosen if (row := param.get_help_record(ctx)) is not None]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


_BUILD: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        "--sm",
        {
            "metavar": "89,120",
            "help": "Compute capabilities to build for, without a GPU (TensorRT-RTX): "
            "75, 80, 86, 89, 120, 121.  [the GPU here]",
        },
    ),
    (
        "--profile",
        {
            "metavar": "MIN:OPT:MAX",
            "multiple": True,
            "help": "A further range of batch sizes with kernels of its own; may be repeated.",
        },
    ),
    (
        "--builder-level",
        {"type": click.IntRange(0, 5), "help": "How long the builder searches.  [3]"},
    ),
    (
        "--workspace",
        {"type": click.IntRange(1), "metavar": "MIB", "help": "Most scratch memory of a kernel."},
    ),
    (
        "--aux-streams",
        {"type": click.IntRange(0), "metavar": "N", "help": "Most extra streams per inference."},
    ),
    ("--tf32/--no-tf32", {"default": None, "help": "FP32 products may round to 10 bits.  [no]"}),
    ("--timing-cache", {"metavar": "FILE", "help": "Kernel timings to reuse and add to."}),
    (
        "--timing-cache-sha256",
        {
            "metavar": "HEX",
            "help": "Only read the timings, which must be these; a kernel they lack is an error.",
        },
    ),
    (
        "--version-compatible",
        {
            "is_flag": True,
            "default": None,
            "help": "Later versions of TensorRT can load the engine.",
        },
    ),
    (
        "--hardware-compatible",
        {
            "type": click.Choice(get_args(Compatibility)),
            "help": "Other GPUs that can load a TensorRT engine.  [none]",
        },
    ),
    (
        "--stripped",
        {"is_flag": True, "default": None, "help": "Leave the weights in model.onnx alone."},
    ),
)


def build_options(command: Callable[..., R]) -> Callable[..., R]:
    """Adds the options of `BuildOptions`; `parse_build` takes them out again."""
    for name, settings in reversed(_BUILD):
        command = click.option(name, cls=_BuildOption, **settings)(command)
    return command


def parse_build(base: BuildOptions, options: dict[str, Any]) -> BuildOptions:
    """`base`, overridden by the build options among `options`, which are taken out of them.

    Raises:
        RecipeError: a value that cannot be.
    """
    names = [name.partition("/")[0].removeprefix("--").replace("-", "_") for name, _ in _BUILD]
    given = {name: options.pop(name, None) for name in names}
    profiles = given.pop("profile")
    if profiles:
        given["profiles"] = tuple(map(BatchProfile.parse, profiles))
    if given["sm"] is not None:
        parts = [part.strip().upper().removeprefix("SM") for part in given["sm"].split(",")]
        if not all(part.isdecimal() for part in parts):
            raise RecipeError(f"--sm needs numbers like 89,120, not '{given['sm']}'")
        given["sm"] = tuple(map(int, parts))
    return replace(base, **{name: value for name, value in given.items() if value is not None})


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
