"""Our networks against everybody else's implementation: `python -m benchmarks.sources`.

Each of `ORIGINS` gets random weights at full width, saves them as it does,
and computes logits for a small noise image; the file then takes the way of `--weights FILE`. The
error is max |ours − theirs| / max |theirs|, float32 on the CPU. The table goes to the terminal,
and with the versions to `benchmarks/results/sources.json`. Takes minutes, no network.
"""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.keras_networks import KERAS, KERAS_3
from benchmarks.peer_networks import (
    Origin,
    TorchOrigin,
    cadene_network,
    pytorch_fid_inception,
    timm_network,
    torchvision_googlenet,
    torchvision_inception_v3,
)
from inception_deploy.reference import load_reference

__all__ = ["BOUND", "ORIGINS", "RESULTS", "Comparison", "compare", "main", "to_json"]

RESULTS = Path(__file__).parent / "results" / "sources.json"

BOUND = 1e-5
"""Largest error: float32 sums in another order."""


def _torchvision(network: str, size: int, build: Callable[[], Any]) -> TorchOrigin:
    return TorchOrigin(network, "torchvision", network, "torchvision", size, build)


def _timm(network: str, size: int, model: str = "", gain: float = 2.0) -> TorchOrigin:
    model = model or network
    return TorchOrigin(
        network,
        "timm",
        model,
        "timm",
        size,
        lambda: timm_network(model),
        suffix=".safetensors",
        gain=gain,
    )


def _cadene(
    network: str,
    size: int,
    model: str,
    layout: str = "cadene",
    classes: int = 1000,
    gain: float = 2,
) -> TorchOrigin:
    return TorchOrigin(
        network,
        "pretrainedmodels",
        model,
        layout,
        size,
        lambda: cadene_network(model, classes),
        gain=gain,
    )


ORIGINS: tuple[Origin, ...] = (
    _torchvision("googlenet", 83, torchvision_googlenet),
    _torchvision("inception_v3", 97, torchvision_inception_v3),
    _timm("inception_v3", 111),
    _timm("inception_v4", 97),
    _timm("inception_resnet_v2", 97),
    _timm("xception", 75, "legacy_xception", gain=1.0),
    *(_timm(f"xception{depth}", 43, gain=1.0) for depth in ("41", "65", "71", "41p", "65p")),
    *(_timm(f"inception_next_{size}", 64, gain=1.0) for size in ("atto", "tiny", "small", "base")),
    # their heads pool the native size's map
    _cadene("bn_inception", 224, "bninception"),
    _cadene("inception_v4", 299, "inceptionv4", layout="timm", classes=1001),
    _cadene("inception_resnet_v2", 299, "inceptionresnetv2", classes=1001),
    _cadene("xception", 75, "xception", gain=1.0),
    TorchOrigin(
        "inception_v3_fid",
        "pytorch-fid",
        "fid_inception_v3",
        "pytorch-fid",
        97,
        pytorch_fid_inception,
    ),
    *KERAS,
    *KERAS_3,
)


@dataclass(frozen=True)
class Comparison:
    """One origin, and how far our logits are from its.

    Args:
        layout: as recognised in the file.
        file: its ending.
        size: side of the image, pixels.
        classes: rows of the classifier in use; a background row is dropped.
        max_relative_error: max |ours − theirs| / max |theirs| over the logits.
    """

    network: str
    package: str
    model: str
    layout: str
    file: str
    size: int
    classes: int
    max_relative_error: float


@torch.no_grad()
def compare(origin: Origin, folder: Path) -> Comparison:
    """Save random weights of `origin` in `folder`, load them, compare the logits.

    Raises:
        ValueError: where another network or layout than the origin's is recognised, or where its
            logits have no scale to compare with.
    """
    sample = origin.sample(folder)
    reference = load_reference(None, str(sample.path))
    found = (reference.name, reference.weights.layout)
    if found != (origin.network, origin.layout):
        raise ValueError(f"{sample.path.name} was taken for {found}, not {origin}")
    theirs = sample.logits[:, sample.logits.shape[1] - reference.weights.num_classes :]
    scale = float(theirs.abs().max())
    if not 1e-3 < scale < 1e6:
        raise ValueError(f"{origin}: logits of size {scale} show nothing")
    ours = reference.module(sample.images)
    return Comparison(
        network=origin.network,
        package=origin.package,
        model=origin.model,
        layout=origin.layout,
        file="".join(sample.path.suffixes),
        size=sample.images.shape[-1],
        classes=reference.weights.num_classes,
        max_relative_error=float((ours - theirs).abs().max()) / scale,
    )


def to_json(comparisons: Iterable[Comparison], seconds: float) -> dict[str, Any]:
    """What `sources.json` holds."""
    found = list(comparisons)
    packages = sorted({"torch", *(comparison.package for comparison in found)})
    return {
        "bound": BOUND,
        "seconds": round(seconds, 1),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
        "comparisons": [asdict(comparison) for comparison in found],
    }


@click.command()
@click.option("--only", default="", help="Only networks or packages with this in their name.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def main(only: str, output: Path) -> None:
    """Measure how far our networks are from other people's implementations of them."""
    started = time.perf_counter()
    comparisons = []
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for header in ("network", "origin", "file", "layout", "error"):
        table.add_column(header, no_wrap=True)
    console = Console()
    for origin in ORIGINS:
        if only not in f"{origin.network} {origin.package}":
            continue
        with tempfile.TemporaryDirectory() as folder:
            found = compare(origin, Path(folder))
        comparisons.append(found)
        table.add_row(
            found.network,
            found.package,
            found.file,
            found.layout,
            f"{found.max_relative_error:.1e}" if found.max_relative_error else "0",
        )
    console.print(table)
    if not comparisons:
        raise click.UsageError(f"no origin is called '{only}'")
    result = to_json(comparisons, time.perf_counter() - started)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    worst = max(comparisons, key=lambda c: c.max_relative_error)
    console.print(
        f"worst {worst.max_relative_error:.1e} ({worst.network}, {worst.package}), "
        f"{result['seconds']} s, written to {output.name}"
    )
    if worst.max_relative_error > BOUND:
        raise click.ClickException(f"beyond the bound of {BOUND:g}")


if __name__ == "__main__":
    main()
