"""Entry point: finds the command, runs it, turns errors into one line and an exit code.

Exit codes: 0 pass · 1 the gate failed or a stage broke its promise · 2 usage or bad input ·
3 a needed engine or dependency is missing · 4 inconclusive · 130 interrupted.
"""

from __future__ import annotations

import errno
import importlib
import sys
import traceback

import click

from inception_deploy import __version__
from inception_deploy.errors import InceptionDeployError

__all__ = ["cli", "main"]

# listed here, not discovered, so that --help need not import anything
_COMMANDS = {
    "networks": "List the networks, their facts and their published weights.",
    "doctor": "Show which engines work here, and what adds a missing one.",
    "export": "Take a network the whole way from PyTorch to a verified bundle.",
    "compare": "Measure the parity of a bundle against PyTorch, again.",
    "locate": "Find the first place where a bundle leaves its reference, by block.",
    "gate": "Decide whether a bundle may be shipped: PASS, FAIL or INCONCLUSIVE.",
    "bench": "Measure latency and throughput of bundles, side by side.",
    "predict": "Classify images with a bundle.",
    "verify": "Check every hash, schema and version of a bundle.",
    "report": "Write the HTML report of one bundle or several.",
}


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"inception_deploy.cli.{cmd_name}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in _COMMANDS:
            from inception_deploy.errors import UnknownName

            raise UnknownName("command", args[0], _COMMANDS)
        return super().resolve_command(ctx, args)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="inception-deploy")
def cli() -> None:
    """Export, rewrite, lower and verify Inception-family networks for deployment.

    Start with: inception-deploy export --fp16 -o build/demo
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit. Never shows a traceback unless -v was given."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        result = cli.main(arguments, prog_name="inception-deploy", standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except click.Abort:
        _fail("interrupted; nothing half-written was left behind", 130)
    except InceptionDeployError as error:
        _explain(arguments)
        _fail(str(error), error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away: not an error of ours
        sys.exit(0)
    except OSError as error:
        _explain(arguments)
        what = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        where = f": {error.filename}" if error.filename else ""
        _fail(f"{what}{where}", 2)
    except MemoryError:
        _explain(arguments)
        _fail("out of memory; use a smaller batch, --data-size or --calibration-size", 2)
    except Exception as error:  # noqa: BLE001 - the last line of defence, reported, not swallowed
        _explain(arguments)
        said = next(iter(str(error).splitlines()), "no message")
        _fail(f"internal error: {type(error).__name__}: {said}; run again with -v", 1)
    sys.exit(result if isinstance(result, int) else 0)


def _explain(arguments: list[str]) -> None:
    """With -v, the traceback behind the one line."""
    if any(a == "--verbose" or (a[:1] == "-" and a[1:2] != "-" and "v" in a) for a in arguments):
        traceback.print_exc()


def _fail(message: str, code: int) -> None:
    line = " ".join(message.split())
    click.echo(f"{click.style('error:', fg='red', bold=True)} {line}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
