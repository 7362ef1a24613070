"""`inception-deploy networks`: the family, its facts and its published weights."""

from __future__ import annotations

import click
from rich import box
from rich.table import Table

from inception_deploy.cli.console import Terminal
from inception_deploy.cli.options import with_terminal

__all__ = ["command"]


@click.command("networks")
@with_terminal
def command(terminal: Terminal) -> None:
    """List the networks: parameters, multiply-adds, input, checkpoints that are recognised."""
    from inception_deploy.networks import NETWORKS
    from inception_deploy.reference import embedded_networks

    embedded = embedded_networks()
    if terminal.as_json:
        terminal.result(
            [
                {
                    "name": spec.name,
                    "title": spec.title,
                    "paper": f"https://arxiv.org/abs/{spec.paper}",
                    "params": spec.params,
                    "macs": spec.macs,
                    "input_size": spec.input_size,
                    "min_size": spec.min_size,
                    "preprocessing": spec.preprocessing.to_dict(),
                    "layouts": [layout.name for layout in spec.layouts],
                    "pretrained": [
                        {"tag": w.tag, "repo": w.repo, "top1": w.top1, "source": w.source}
                        for w in spec.pretrained
                    ],
                    "embedded": spec.name in embedded,
                }
                for spec in NETWORKS
            ]
        )
        return
    table = Table(title="Networks", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("network", no_wrap=True, style="bold")
    for header in ("params", "MACs", "input", "min"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("weights, and layouts of files")
    for spec in NETWORKS:
        tags = [f"{w.tag} {w.top1:.2f}" for w in spec.pretrained]
        weights = ", ".join((["embedded"] if spec.name in embedded else []) + tags)
        layouts = ", ".join(dict.fromkeys(layout.name for layout in spec.layouts))
        table.add_row(
            spec.name,
            f"{spec.params / 1e6:.2f} M",
            f"{spec.macs / 1e9:.2f} G",
            str(spec.input_size),
            str(spec.min_size),
            f"{weights}\n[dim]{layouts}[/]" if weights else f"[dim]{layouts}[/]",
        )
    terminal.out.print(table)
    terminal.out.print(
        "[dim]weights: with their published ImageNet top-1; --weights takes any of them, or a "
        "file in one of the checkpoint layouts[/]"
    )
