"""What a benchmark leaves in the bundles that took part: each one's own figures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from inception_deploy.bench import graph_name
from inception_deploy.bundle import Bundle
from inception_deploy.throughput import Scenario, ThroughputReport

__all__ = ["keep", "own_report"]


def keep(
    bundles: Sequence[Bundle], report: ThroughputReport, scenario: Scenario
) -> Iterator[tuple[Bundle, str]]:
    """Write each bundle's own figures into it, and say where: throughput.json.

    Other scenarios have files of their own, "throughput-offline.json". Baselines go with the first
    bundle, whose network they are.
    """
    name = "throughput.json" if scenario == "single-stream" else f"throughput-{scenario}.json"
    for number, bundle in enumerate(bundles):
        own = own_report(report, graph_name(bundle, bundles), with_baselines=number == 0)
        text = json.dumps(own.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        yield bundle.rewrite(name, text), name


def own_report(report: ThroughputReport, graph: str, *, with_baselines: bool) -> ThroughputReport:
    """What a report says of one graph, under the name that it has in its bundle."""
    others = ("torch", "reference.onnx") if with_baselines else ()

    def mine(name: str) -> bool:
        return name == graph or name.startswith(f"{graph}, ") or name in others

    def short(name: str) -> str:
        return name.replace(graph, "model.onnx", 1) if mine(name) else name

    def key_is_mine(key: str) -> bool:
        return mine(key.partition(":")[2])

    def short_key(key: str) -> str:
        engine, _, name = key.partition(":")
        return f"{engine}:{short(name)}" if name else short(key)

    own = [row for row in report.rows if mine(row.graph)]
    computed = {(row.engine, row.precision, row.threads) for row in own}
    strangers = [row.key for row in report.rows if not mine(row.graph)]
    return replace(
        report,
        rows=tuple(replace(row, graph=short(row.graph)) for row in own),
        peaks=tuple(p for p in report.peaks if (p.engine, p.precision, p.threads) in computed),
        warnings=tuple(
            warning.replace(f":{graph}", ":model.onnx", 1)
            for warning in report.warnings
            if not any(warning.startswith((f"{key} ", f"{key}:")) for key in strangers)
        ),
        ratios=tuple(
            replace(r, candidate=short_key(r.candidate), baseline=short_key(r.baseline))
            for r in report.ratios
            if key_is_mine(r.candidate) and key_is_mine(r.baseline)
        ),
        load_seconds={short_key(k): v for k, v in report.load_seconds.items() if key_is_mine(k)},
        footprints={short_key(k): v for k, v in report.footprints.items() if key_is_mine(k)},
        blocks={short_key(k): v for k, v in report.blocks.items() if key_is_mine(k)},
        knees=tuple(
            replace(knee, candidate=short_key(knee.candidate))
            for knee in report.knees
            if key_is_mine(knee.candidate) or mine(knee.candidate)
        ),
    )
