"""`inception-deploy bench`: latency and throughput of bundles, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click

from inception_deploy.cli.console import Terminal
from inception_deploy.cli.options import BUNDLES, parse_batches, with_terminal
from inception_deploy.errors import RecipeError

__all__ = ["command"]

SCENARIOS = ("single-stream", "offline", "server")


@click.command("bench")
@BUNDLES
@click.option(
    "--scenario",
    type=click.Choice(SCENARIOS),
    default=SCENARIOS[0],
    show_default=True,
    help="One query after the other; all at once; or at random times, within a bound.",
)
@click.option("--batch", default="1,8", show_default=True, metavar="N,N", help="Batch sizes.")
@click.option(
    "--seconds", type=float, default=2.0, show_default=True, help="Per candidate and batch size."
)
@click.option("--latency-bound", type=float, metavar="MS", help="Server: for 99 % of the queries.")
@click.option("--qps", type=float, help="Server: queries per second. Default: the most that hold.")
@click.option("--threads", metavar="N,N", help="Of the engines. Default: each its own.")
@click.option("--streams", default="1", metavar="N,N", help="Offline: sessions side by side.")
@click.option("--end-to-end", is_flag=True, help="From JPEG files: decode and preprocess, too.")
@click.option("--data", metavar="PATH", help="Images for --end-to-end. Default: the bundle's.")
@click.option(
    "--pytorch/--no-pytorch", default=True, show_default=True, help="Time the PyTorch network, too."
)
@click.option("--reference", is_flag=True, help="Time reference.onnx, the plain export, too.")
@click.option(
    "--brief", is_flag=True, help="Times only: no utilisation, blocks, memory in a fresh process."
)
@click.option("--loadgen", is_flag=True, help="Driven by MLCommons LoadGen; logs: BUNDLE/loadgen.")
@click.option("--save", is_flag=True, help="Keep the figures in the bundle and its report.")
@with_terminal
def command(
    bundles: tuple[Path, ...],
    scenario: str,
    batch: str,
    seconds: float,
    latency_bound: float | None,
    qps: float | None,
    threads: str | None,
    streams: str,
    end_to_end: bool,
    data: str | None,
    pytorch: bool,
    reference: bool,
    brief: bool,
    loadgen: bool,
    save: bool,
    terminal: Terminal,
) -> None:
    """Time BUNDLES on this machine, alternating in blocks, so that the ratios can be trusted."""
    batches = parse_batches(batch)
    threads_asked = (None,) if threads is None else _counts(threads, "--threads")
    streams_asked = _counts(streams, "--streams")
    if data is not None and not end_to_end:
        raise RecipeError("--data belongs to --end-to-end; the other figures need no images")
    from inception_deploy.bench import BenchOptions, bench_bundles, run_loadgen
    from inception_deploy.bench_record import keep
    from inception_deploy.bundle import Bundle
    from inception_deploy.cli.bench_tables import print_bench, print_loadgen
    from inception_deploy.throughput import Scenario

    options = BenchOptions(
        batches=batches,
        seconds=seconds,
        scenario=cast(Scenario, scenario),
        threads=threads_asked,
        streams=streams_asked,
        bound=None if latency_bound is None else latency_bound / 1e3,
        rate=qps,
        with_pytorch=pytorch,
        with_reference=reference,
        end_to_end=end_to_end,
        data=data,
        thorough=not brief,
    )
    opened = [Bundle.open(path) for path in bundles]
    if loadgen:
        results = run_loadgen(opened, options, terminal)
        terminal.result([result.to_dict() for result in results])
        if not terminal.as_json:
            print_loadgen(results, terminal)
        return
    report = bench_bundles(opened, options, terminal)
    if save:
        from inception_deploy.report import load_bundle, render

        for bundle, name in keep(opened, report, options.scenario):
            bundle.rewrite("report.html", render([load_bundle(bundle.path)]))
            terminal.note(f"wrote {bundle.path / name} and its report")
    terminal.result(report.to_dict())
    if not terminal.as_json:
        print_bench(report, terminal)


def _counts(text: str, option: str) -> tuple[int, ...]:
    """ "1,2,4" → numbers of threads or streams."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise RecipeError(f"{option} needs numbers like 1,2, not '{text}'")
    return tuple(dict.fromkeys(int(part) for part in parts))
