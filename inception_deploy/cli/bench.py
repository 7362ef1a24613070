"""`inception-deploy bench`: latency and throughput of bundles, side by side."""

from __future__ import annotations

from pathlib import Path

import click
from rich.markup import escape
from rich.table import Table

from inception_deploy.cli.console import Terminal
from inception_deploy.cli.options import BUNDLES, parse_batches, with_terminal

__all__ = ["command"]


@click.command("bench")
@BUNDLES
@click.option("--batch", default="1,8", show_default=True, metavar="N,N", help="Batch sizes.")
@click.option(
    "--seconds", type=float, default=2.0, show_default=True, help="Per candidate and batch size."
)
@click.option("--threads", type=click.IntRange(1), help="Of the engines. Default: each its own.")
@click.option(
    "--pytorch/--no-pytorch", default=True, show_default=True, help="Time the PyTorch network, too."
)
@click.option("--reference", is_flag=True, help="Time reference.onnx, the plain export, too.")
@with_terminal
def command(
    bundles: tuple[Path, ...],
    batch: str,
    seconds: float,
    threads: int | None,
    pytorch: bool,
    reference: bool,
    terminal: Terminal,
) -> None:
    """Time BUNDLES on this machine, alternating in blocks, so that the ratios can be trusted."""
    batches = parse_batches(batch)
    from inception_deploy.bench import bench_bundles
    from inception_deploy.bundle import Bundle
    from inception_deploy.cli.summary import number

    report = bench_bundles(
        [Bundle.open(path) for path in bundles],
        batches=batches,
        seconds=seconds,
        threads=threads,
        with_pytorch=pytorch,
        with_reference=reference,
        progress=terminal,
    ).to_dict()
    if terminal.as_json:
        terminal.result(report)
        return
    table = Table(title="Latency per batch, milliseconds", title_justify="left")
    table.add_column("candidate", overflow="fold")
    for header in ("batch", "p50", "p90", "p99", "images/s", "faster (95 %)"):
        table.add_column(header, justify="right", no_wrap=True)
    ratios = {(r["candidate"], r["batch"]): r for r in report["ratios"]}
    for row in report["rows"]:
        key = f"{row['engine']}:{row['graph']}"
        ratio = ratios.get((key, row["batch"]))
        latency = row["latency_ms"]
        table.add_row(
            escape(f"{key} {row['precision']}"),
            str(row["batch"]),
            *(number(latency[p], digits=3) for p in ("p50", "p90", "p99")),
            f"{row['images_per_second']:,.0f}",
            "1" if ratio is None else _ratio(ratio["ratio"], *ratio["ci95"]),
        )
    terminal.out.print(table)
    for warning in report["warnings"]:
        terminal.out.print(f"[yellow]warning[/] {escape(warning)}")


def _ratio(ratio: float, low: float, high: float) -> str:
    return f"{ratio:.2f} ({low:.2f}–{high:.2f})"
