"""Writes the figures of README.md and docs from result files, so that no figure is typed by hand.

    python -m benchmarks.readme record build/demo     figures of a bundle → results/demo.json
    python -m benchmarks.readme                       results → marked places of the documents

A marked place lies between `<!-- figures: NAME -->` and `<!-- end -->`. A test renders again and
compares.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from benchmarks.environments import environments_table
from benchmarks.gpu_table import gpu_table
from benchmarks.rounding import rounding_table
from benchmarks.speed_tables import (
    contenders_table,
    export_time_table,
    harness_table,
    peers_table,
    sweep_table,
)

__all__ = ["DOCUMENTS", "RESULTS", "record_demo", "render"]

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENTS = (
    ROOT / "README.md",
    ROOT / "docs" / "bench.md",
    ROOT / "docs" / "versions.md",
    ROOT / "docs" / "decisions" / "009-weights-by-what-is-read.md",
)

_PLACE = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def record_demo(bundle: Path) -> dict[str, Any]:
    """The figures of an exported bundle that the README shows."""
    manifest, parity, speed = (
        json.loads((bundle / name).read_text(encoding="utf-8"))
        for name in ("manifest.json", "parity.json", "throughput.json")
    )
    return {
        "command": "inception-deploy export --fp16",
        "network": manifest["network"],
        "weights": manifest["weights"]["source"],
        "precision": manifest["precision"],
        "target": manifest["target"],
        "image_size": manifest["preprocessing"]["size"],
        "bytes": {"reference": manifest["reference"]["bytes"], "model": manifest["graph"]["bytes"]},
        "nodes": {"reference": manifest["reference"]["nodes"], "model": manifest["graph"]["nodes"]},
        "parity": {
            name: parity[name]
            for name in (
                *("top1_reference", "top1_deployed", "top1_drop", "drop_ci95"),
                *("top1_agreement", "max_rel_error", "sqnr_db", "flips"),
            )
        }
        | {"images": parity["data"]["images"]},
        "throughput": {"rows": speed["rows"], "ratios": speed["ratios"]},
        "machine": speed["machine"],
        "versions": speed["versions"],
    }


def _demo(facts: Mapping[str, Any]) -> str:
    parity, sizes = facts["parity"], facts["bytes"]
    low, high = parity["drop_ci95"]
    lines = [
        "| | PyTorch FP32 | deployed FP16 | |",
        "|---|---:|---:|---|",
        f"| top-1 on {parity['images']:,} labelled images | {parity['top1_reference']:.2f} % "
        f"| {parity['top1_deployed']:.2f} % "
        f"| drop {parity['top1_drop']:.2f} points, 95 % interval {low:.2f} to {high:.2f} |",
        f"| same first choice | | {parity['top1_agreement']:.2f} % "
        f"| SQNR {parity['sqnr_db']:.1f} dB |",
    ]
    rows = {(row["engine"], row["batch"]): row for row in facts["throughput"]["rows"]}
    for ratio in facts["throughput"]["ratios"]:
        batch = ratio["batch"]
        before, after = (
            rows[name, batch]["latency_ms"]["p50"] for name in ("pytorch", facts["target"])
        )
        low, high = ratio["ci95"]
        lines.append(
            f"| latency p50, batch {batch} | {before:.2f} ms | {after:.2f} ms "
            f"| {ratio['ratio']:.2f}× faster ({low:.2f}–{high:.2f}) |"
        )
    lines.append(
        f"| graph file | {sizes['reference'] / 1e6:.2f} MB | {sizes['model'] / 1e6:.2f} MB "
        f"| {sizes['reference'] / sizes['model']:.2f}× smaller |"
    )
    machine, versions = facts["machine"], facts["versions"]
    lines.append("")
    lines.append(
        f"{facts['network']['title']}, embedded weights, {facts['image_size']} px, on "
        f"{machine['cores']} cores of an {machine['cpu']} ({', '.join(machine['isa'])}); "
        f"torch {versions['torch']}, onnxruntime {versions['onnxruntime']}."
    )
    return "\n".join(lines) + "\n"


_SECTIONS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "demo": _demo,
    "harness": harness_table,
    "sweep": sweep_table,
    "export_time": export_time_table,
    "peers": peers_table,
    "contenders": contenders_table,
    "rounding": rounding_table,
    "gpu": gpu_table,
    "environments": environments_table,
}
"""Name of a marked place, and of its file in benchmarks/results → how it is written."""

_FILES = {"contenders": "peers"}
"""Of places that are not called as their file is."""


def render(document: str) -> str:
    """The document with every marked place written anew from its result file."""

    def replace(place: re.Match[str]) -> str:
        name = place.group(2)
        file = RESULTS / f"{_FILES.get(name, name)}.json"
        facts = json.loads(file.read_text(encoding="utf-8"))
        return place.group(1) + _SECTIONS[name](facts) + place.group(3)

    return _PLACE.sub(replace, document)


@click.group(invoke_without_command=True)
@click.pass_context
def main(context: click.Context) -> None:
    """Render the documents' figures from the result files."""
    if context.invoked_subcommand is None:
        for path in DOCUMENTS:
            path.write_text(render(path.read_text(encoding="utf-8")), encoding="utf-8")


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
def record(bundle: Path) -> None:
    """Keep the figures of BUNDLE as benchmarks/results/demo.json."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record_demo(bundle), indent=2) + "\n"
    (RESULTS / "demo.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
