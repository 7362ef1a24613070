"""The summary an export ends with: accuracy, agreement, error, latency, sizes, the bundle."""

from __future__ import annotations

import re
from typing import Any

from rich.markup import escape
from rich.table import Table

from inception_deploy.bundle import Bundle
from inception_deploy.cli.console import Terminal
from inception_deploy.cli.mixing_table import print_mixing

__all__ = ["EXIT_CODES", "number", "print_summary", "short_warnings", "verdict_exit_code"]

_VERDICT_STYLE = {"PASS": "green", "FAIL": "red", "INCONCLUSIVE": "yellow", "NOT_ASKED": "dim"}
_NOISE = re.compile(r"latency varies by ([0-9.]+) ?%")  # as throughput words it
_STALLS = re.compile(r"[0-9]+ of [0-9]+ runs are outliers")
EXIT_CODES = {"PASS": 0, "NOT_ASKED": 0, "FAIL": 1, "INCONCLUSIVE": 4}


def verdict_exit_code(bundle: Bundle) -> int:
    """0 pass or not asked, 1 fail or a bound that no choice of blocks keeps, 4 inconclusive."""
    mixing = bundle.manifest.get("mixing")
    if mixing is not None and not mixing["met"]:
        return EXIT_CODES["FAIL"]
    return EXIT_CODES[bundle.manifest["parity"]["verdict"]]


def number(value: float | None, unit: str = "", digits: int = 4) -> str:
    """A figure with its unit; "–" where it was not measured."""
    if value is None:
        return "–"
    shown = f"{value:.{digits}g}" if abs(value) < 10_000 else f"{value:,.0f}"
    return f"{shown}{' ' if unit else ''}{unit}"


def print_summary(bundle: Bundle, terminal: Terminal) -> None:
    """The table on stdout; readable on an 80-column terminal."""
    manifest, parity = bundle.manifest, bundle.read_json("parity.json")
    speed = bundle.read_json("throughput.json")
    title = (
        f"{manifest['network']['title']} · {manifest['precision'].upper()} on {manifest['target']}"
    )
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    made_from = "PyTorch FP32" if parity["reference"] == "pytorch" else "file as given"
    table.add_column(made_from, justify="right")
    table.add_column("deployed", justify="right")
    table.add_column("change", justify="right")
    for row in [*_parity_rows(parity), *_speed_rows(speed), *_size_rows(manifest)]:
        table.add_row(*row)
    out = terminal.out
    if not manifest["weights"]["trained"]:
        out.print("[bold white on red] NOT TRAINED [/] random weights: accuracy means nothing here")
    out.print(table)
    engine = manifest.get("engine") or {}
    if engine.get("not_executed"):
        out.print(f"[bold black on yellow] NOT EXECUTED [/] {escape(_unexecuted(engine))}")
    if not terminal.quiet:
        weights = manifest["weights"]
        out.print(f"weights   {escape(weights['source'] + ': ' + weights['detail'])}")
        out.print(f"stages    {_stages(manifest)}")
        if parity["data"]["skipped"]:
            out.print(f"[yellow]skipped[/]   {len(parity['data']['skipped'])} unreadable images")
    if manifest.get("mixing") is not None:
        print_mixing(manifest["mixing"], out)
    for warning in short_warnings((speed or {}).get("warnings", [])):
        out.print(f"[yellow]warning[/]   {escape(warning)}")
    style = _VERDICT_STYLE[parity["verdict"]]
    out.print("[dim]in brackets: 95 % intervals[/]")
    out.print(f"verdict   [{style}]{parity['verdict']}[/] {escape(parity['verdict_reason'])}")
    out.print(
        f"bundle    {escape(str(bundle.path))}  (open {escape(str(bundle.path / 'report.html'))})"
    )


def short_warnings(warnings: list[str]) -> list[str]:
    """Those of noise as one line; report.html has each of them in full."""
    noise = [found for text in warnings if (found := _NOISE.search(text))]
    stalls = sum(bool(_STALLS.search(text)) for text in warnings)
    others = [t for t in warnings if not _NOISE.search(t) and not _STALLS.search(t)]
    if noise:
        widest = max(float(found[1]) for found in noise)
        times = f"{len(noise)} timings vary" if len(noise) > 1 else "a timing varies"
        others.append(f"{times} by up to {widest:.0f} %: trust the medians, or measure idle")
    if stalls:
        times = f"{stalls} timings have" if stalls > 1 else "a timing has"
        others.append(f"{times} outliers: something else takes the processor now and then")
    return others


def _unexecuted(engine: dict[str, Any]) -> str:
    """That an engine was built and never run, and where parity was measured instead."""
    sms = ", ".join(f"SM{sm}" for sm in engine["sm"])
    return (
        f"{engine['file']} was built for {sms} and not run: {engine['not_executed']}. Parity is "
        "model.onnx's on ONNX Runtime's CPU, as written; the engine's own is unknown"
    )


def _parity_rows(parity: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    rows = []
    images = parity["data"]["images"]
    if parity["top1_reference"] is not None:
        low, high = parity["drop_ci95"]
        rows.append(
            (
                f"top-1 on {images:,} images",
                f"{parity['top1_reference']:.2f} %",
                f"{parity['top1_deployed']:.2f} %",
                f"drop {parity['top1_drop']:.2f} ({low:.2f}…{high:.2f})",
            )
        )
    if parity["top1_agreement"] is not None:
        rows.append(("same first choice", "", f"{parity['top1_agreement']:.2f} %", ""))
    sqnr = "exact" if parity["sqnr_db"] is None else f"SQNR {parity['sqnr_db']:.1f} dB"
    rows.append(("error / largest output", "", number(parity["max_rel_error"]), sqnr))
    return rows


def _speed_rows(speed: dict[str, Any] | None) -> list[tuple[str, str, str, str]]:
    rows = []
    for ratio in (speed or {}).get("ratios", []):
        base, ours = (
            _row(speed or {}, ratio["batch"], ratio[role]) for role in ("baseline", "candidate")
        )
        low, high = ratio["ci95"]
        rows.append(
            (
                f"latency p50, batch {ratio['batch']}",
                number(base["latency_ms"]["p50"], "ms"),
                number(ours["latency_ms"]["p50"], "ms"),
                f"{ratio['ratio']:.2f}× ({low:.2f}–{high:.2f})",
            )
        )
        rows.append(
            (
                f"throughput, batch {ratio['batch']}",
                f"{base['images_per_second']:,.0f}/s",
                f"{ours['images_per_second']:,.0f}/s",
                "",
            )
        )
    return rows


def _row(speed: dict[str, Any], batch: int, key: str) -> dict[str, Any]:
    """The measurement that a ratio's "engine:graph" and batch speak of."""
    for row in speed["rows"]:
        if row["batch"] == batch and f"{row['engine']}:{row['graph']}" == key:
            return dict(row)
    raise KeyError(f"throughput.json has no row for {key} at batch {batch}")


def _size_rows(manifest: dict[str, Any] | Any) -> list[tuple[str, str, str, str]]:
    before, after = manifest["reference"], manifest["graph"]
    return [
        (
            "graph file",
            f"{before['bytes'] / 1e6:.2f} MB",
            f"{after['bytes'] / 1e6:.2f} MB",
            f"{before['bytes'] / after['bytes']:.2f}× smaller",
        ),
        ("graph nodes", str(before["nodes"]), str(after["nodes"]), ""),
    ]


def _stages(manifest: dict[str, Any] | Any) -> str:
    """ "export 1.2 s → fuse/conv_bn 57 applied 0.9 s → …" """
    parts = []
    idle = [s for s in manifest["stages"] if s["name"].startswith("fuse/") and not _did(s)]
    for stage in manifest["stages"]:
        if stage in idle:
            continue
        counts = f"{len(stage['applied'])} applied " if stage["applied"] else ""
        counts += f"{len(stage['refused'])} refused " if stage["refused"] else ""
        parts.append(f"{stage['name']} [dim]{counts}{stage['seconds']:.1f} s[/]")
    rest = f" [dim]({len(idle)} more rewrites found nothing)[/]" if idle else ""
    return " → ".join(parts) + rest


def _did(stage: dict[str, Any]) -> bool:
    return bool(stage["applied"] or stage["refused"])
