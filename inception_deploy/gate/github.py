"""The verdict where GitHub shows it: a step summary, and annotations on the run.

Both formats are GitHub's documented ones ("Workflow commands for GitHub Actions"): the summary is
Markdown appended to the file that GITHUB_STEP_SUMMARY names, an annotation is a line of output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from inception_deploy.gate.verdict import Check, GateVerdict

__all__ = [
    "annotation_lines",
    "append_summary",
    "figure",
    "on_github",
    "summary_markdown",
    "summary_path",
]

_SIGNS = {"PASS": "✅", "FAIL": "❌", "INCONCLUSIVE": "❔", "NOT_ASKED": "➖"}


def on_github(environment: Mapping[str, str]) -> bool:
    """Whether a GitHub Actions runner is listening."""
    return environment.get("GITHUB_ACTIONS") == "true"


def summary_path(asked: Path | None, environment: Mapping[str, str]) -> Path | None:
    """Where the summary goes: where the user says, else where GitHub does, else nowhere."""
    if asked is not None:
        return asked
    named = environment.get("GITHUB_STEP_SUMMARY")
    return Path(named) if named else None


def append_summary(path: Path, verdict: GateVerdict) -> None:
    """Append the summary: several gates of one step share the file. Raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(summary_markdown(verdict) + "\n")


def summary_markdown(verdict: GateVerdict) -> str:
    """A heading, the reason, and a table with a row per check."""
    compared = (
        f"{verdict.images:,} images against {verdict.truth}" if verdict.images else "no image"
    )
    early = ", stopped early" if verdict.stopped_early else ""
    lines = [
        f"### {_SIGNS[verdict.outcome]} {verdict.outcome}: {_cell(verdict.network)} "
        f"{verdict.precision} on {verdict.target}",
        "",
        f"{_cell(verdict.reason)}  ",
        f"{compared}{early}, {verdict.seconds:.1f} s, `{_cell(verdict.bundle)}`",
        "",
        "| | check | found | allowed | |",
        "|---|---|---:|---:|---|",
        *(_row(check) for check in verdict.checks),
    ]
    lines += ["", *(f"> ⚠️ {_cell(warning)}" for warning in verdict.warnings)]
    return "\n".join(lines).rstrip() + "\n"


def annotation_lines(verdict: GateVerdict) -> Iterator[str]:
    """Workflow commands: an error per failed check, a warning per undecided one and per warning."""
    where = f"{verdict.network} {verdict.precision}"
    for check in verdict.checks:
        if check.failed:
            yield _command("error", f"gate: {check.name} ({where})", check.reason)
        elif check.undecided:
            yield _command("warning", f"gate: {check.name} ({where})", check.reason)
    for warning in verdict.warnings:
        yield _command("warning", f"gate ({where})", warning)


def _command(kind: str, title: str, message: str) -> str:
    escaped = _escape(title).replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} title={escaped}::{_escape(message)}"


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _row(check: Check) -> str:
    found, allowed = figure(check.value, check.unit), figure(check.bound, check.unit)
    if check.interval is not None:
        low, high = check.interval
        found += f" ({low:.2f} … {high:.2f})"
    sign = _SIGNS[check.outcome]
    return f"| {sign} | {_cell(check.name)} | {found} | {allowed} | {_cell(check.reason)} |"


def figure(value: float | None, unit: str) -> str:
    """A figure with its unit; empty where there is none."""
    if value is None:
        return ""
    shown = f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.3g}"
    return f"{shown} {unit}".strip()


def _cell(text: str) -> str:
    """Text that stays within a table's cell, and starts no markup."""
    for sign in "\\|`<*_[":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())
