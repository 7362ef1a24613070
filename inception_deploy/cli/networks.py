"""`inception-deploy networks`: the family, its facts, its weights, published accuracies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.table import Table

from inception_deploy.cli.console import Terminal
from inception_deploy.cli.options import with_terminal

if TYPE_CHECKING:
    from inception_deploy.networks import NetworkSpec
    from inception_deploy.preprocess import Preprocessing

__all__ = ["command"]


@click.command("networks")
@click.argument("network", required=False)
@with_terminal
def command(network: str | None, terminal: Terminal) -> None:
    """List the networks: parameters, multiply-adds, input, weights, published accuracies.

    With NETWORK, everything about that one.
    """
    from inception_deploy.networks import NETWORKS

    shown = [NETWORKS.get(network)] if network else list(NETWORKS)
    if terminal.as_json:
        terminal.result([_facts(spec) for spec in shown])
    elif network:
        _detail(shown[0], terminal)
    else:
        _overview(shown, terminal)


def _facts(spec: NetworkSpec) -> dict[str, Any]:
    from dataclasses import asdict

    from inception_deploy.reference import embedded_networks

    return {
        "name": spec.name,
        "title": spec.title,
        "paper": f"https://arxiv.org/abs/{spec.paper}",
        "params": spec.params,
        "macs": spec.macs,
        "input_size": spec.input_size,
        "min_size": spec.min_size,
        "size_step": spec.size_step,
        "num_classes": spec.num_classes,
        "preprocessing": spec.preprocessing.to_dict(),
        "layouts": list(_layouts(spec)),
        "pretrained": [asdict(weights) for weights in spec.pretrained],
        "download": spec.download,
        "published": [asdict(accuracy) for accuracy in spec.published],
        "embedded": spec.name in embedded_networks(),
    }


def _layouts(spec: NetworkSpec) -> tuple[str, ...]:
    return tuple(dict.fromkeys(layout.name for layout in spec.layouts))


def _overview(specs: list[NetworkSpec], terminal: Terminal) -> None:
    from inception_deploy.reference import embedded_networks

    facts = _table("Networks")
    facts.add_column("network", no_wrap=True, style="bold")
    for header in ("params\nM", "MACs\nG", "input\npx"):
        facts.add_column(header, justify="right", no_wrap=True)
    facts.add_column("mean/std", no_wrap=True)
    for header in ("FP32\n%", "INT8\n%"):
        facts.add_column(header, justify="right", no_wrap=True)
    sources = _table("Weights")
    sources.add_column("network", no_wrap=True, style="bold")
    sources.add_column("to fetch, and layouts of files")
    for spec in specs:
        fp32, int8 = _quoted(spec)
        facts.add_row(
            spec.name,
            f"{spec.params / 1e6:.2f}",
            f"{spec.macs / 1e9:.2f}",
            str(spec.input_size),
            _pixels(spec.preprocessing),
            fp32,
            int8,
        )
        tags = [*(["embedded"] if spec.name in embedded_networks() else [])]
        tags += [f"{w.tag} {w.top1:.2f}" for w in spec.pretrained]
        layouts = f"[dim]{', '.join(_layouts(spec))}[/]"
        sources.add_row(spec.name, f"{', '.join(tags)}\n{layouts}" if tags else layouts)
    terminal.out.print(facts)
    terminal.out.print(
        "[dim]FP32, INT8: ImageNet top-1 in percent as published for one set of weights; which, "
        "and by whom: inception-deploy networks NETWORK[/]\n"
    )
    terminal.out.print(sources)
    terminal.out.print(
        "[dim]--weights takes `embedded`, `pretrained:TAG` (with its published top-1), or a file "
        "in one of the layouts[/]"
    )


def _quoted(spec: NetworkSpec) -> tuple[str, str]:
    """The pair of FP32 and INT8 that is quoted first, or the hub's FP32 alone."""
    for accuracy in spec.published:
        if accuracy.int8 is not None:
            return f"{accuracy.fp32:.2f}", f"{accuracy.int8:.2f}"
    alone = [w.top1 for w in spec.pretrained] + [a.fp32 for a in spec.published]
    return (f"{alone[0]:.2f}" if alone else "–"), "–"


def _pixels(preprocessing: Preprocessing) -> str:
    """What is subtracted from pixels and what they are divided by, in few letters."""
    from inception_deploy.preprocess import IMAGENET_MEAN, IMAGENET_STD

    mean, std = preprocessing.mean, preprocessing.std
    if (mean, std) == (IMAGENET_MEAN, IMAGENET_STD):
        return "ImageNet"
    order = "" if preprocessing.channel_order == "RGB" else f"{preprocessing.channel_order} "
    if std == (1.0, 1.0, 1.0):
        return f"{order}−{_few(mean)}"
    return f"{order}{_few(mean)}/{_few(std)}"


def _few(triple: tuple[float, float, float]) -> str:
    return "/".join(f"{value:.4g}" for value in dict.fromkeys(triple))


def _detail(spec: NetworkSpec, terminal: Terminal) -> None:
    from inception_deploy.reference import embedded_networks

    pixels = spec.preprocessing
    facts = _table(spec.title, show_header=False)
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column()
    steps = f", in steps of {spec.size_step}" if spec.size_step > 1 else ""
    rows = {
        "name": spec.name,
        "paper": f"https://arxiv.org/abs/{spec.paper}",
        "params": f"{spec.params:,} ({spec.num_classes} classes, without auxiliary heads)",
        "MACs": f"{spec.macs:,} at {spec.input_size}×{spec.input_size}",
        "input": f"{spec.input_size}×{spec.input_size}, at least {spec.min_size}{steps}",
        "preprocessing": (
            f"{pixels.interpolation} to {pixels.resize}, crop {pixels.size}; "
            f"{pixels.channel_order} in 0–{pixels.pixel_max:g}, "
            f"mean {_few(pixels.mean)}, std {_few(pixels.std)}"
        ),
        "embedded": "yes" if spec.name in embedded_networks() else "no",
        "to fetch": spec.download or ", ".join(w.repo for w in spec.pretrained) or "–",
        "layouts of files": ", ".join(_layouts(spec)),
    }
    for key, value in rows.items():
        facts.add_row(key, value)
    terminal.out.print(facts)
    accuracies = _table("Published ImageNet top-1, percent")
    accuracies.add_column("weights", overflow="fold")
    for header in ("FP32", "INT8"):
        accuracies.add_column(header, justify="right", no_wrap=True)
    accuracies.add_column("method")
    accuracies.add_column("source", style="dim")
    for weights in spec.pretrained:
        accuracies.add_row(f"timm {weights.tag}", f"{weights.top1:.2f}", "–", "", weights.source)
    for a in spec.published:
        int8 = "–" if a.int8 is None else f"{a.int8:.2f}"
        accuracies.add_row(a.weights, f"{a.fp32:.2f}", int8, a.method, a.source)
    if accuracies.row_count:
        terminal.out.print(accuracies)
    else:
        terminal.out.print("[dim]no ImageNet accuracy of these weights was published[/]")


def _table(title: str, *, show_header: bool = True) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_header=show_header,
    )
