"""Charts of speed beyond its percentiles: the whole distribution, and the blocks' share."""

from __future__ import annotations

import math

from inception_deploy.reporting.block_chart import BlockBar, block_chart
from inception_deploy.reporting.canvas import Heading
from inception_deploy.reporting.facts import Facts, Timing
from inception_deploy.reporting.histograms import Histogram, histograms
from inception_deploy.reporting.numerals import THIN, count, significant
from inception_deploy.reporting.plots import Plot, series_of

__all__ = ["distribution", "time_and_error"]

_PANELS = 4


def distribution(facts: Facts, ident: str) -> Plot:
    """How the latencies are spread, for the deployed graph and its baseline at each batch."""
    title = "Latency distribution"
    chosen = [t for batch in facts.batches for t in _pair(facts, batch) if t.histogram is not None]
    if not chosen:
        return Plot(title, None, "the timings hold percentiles only; run inception-deploy bench")
    colours = series_of(facts)
    panels = []
    for timing in chosen[:_PANELS]:
        record = timing.histogram
        assert record is not None
        low, high = record.magnitude("low_ms"), record.magnitude("high_ms")
        counts = tuple(record.counts("counts"))
        if low is None or high is None or not counts:
            raise record.mismatch("counts", "bins between low_ms and high_ms")
        beyond = record.magnitude("beyond") or 0.0
        marks = {k: v for k, v in timing.latency.items() if v is not None and k.startswith("p")}
        runs = sum(counts) + beyond
        panels.append(
            Histogram(
                label=f"batch {timing.batch}, {timing.label}",
                text=f"{count(runs)} runs",
                low=low,
                high=high,
                counts=counts,
                beyond=round(beyond),
                marks=marks,
                series=colours[timing.key],
            )
        )
    spoken = "; ".join(
        f"{p.label}: {p.text} from {significant(p.low)} ms,"
        f" {p.beyond} beyond {significant(p.high)} ms"
        for p in panels
    )
    svg = histograms(panels, Heading(ident, "Histograms of latency", spoken), unit="ms")
    left_out = len(chosen) - len(panels)
    more = (
        f" {left_out} more {'is' if left_out == 1 else 'are'} in throughput.json."
        if left_out
        else ""
    )
    return Plot(
        title,
        svg,
        "All runs, from the fastest to the 99th percentile; heights by square root, so that rare"
        f" runs show.{more}",
    )


def _pair(facts: Facts, batch: int) -> list[Timing]:
    return [t for t in (facts.deployed(batch), facts.baseline(batch)) if t is not None]


def time_and_error(facts: Facts, ident: str) -> Plot | None:
    """Both of each block, in processing order; None where no profile was recorded."""
    profiled = facts.block_times
    if not profiled:
        return None
    total = math.fsum(profiled.values())
    errors = {
        row.text("name"): row.magnitude("max_rel_error")
        for row in (facts.parity.records("blocks") if facts.parity else [])
    }
    names = list(errors) + [name for name in profiled if name and name not in errors]
    rows = [BlockBar(name, _share(profiled.get(name), total), errors.get(name)) for name in names]
    if rest := profiled.get("", 0.0):
        rows.append(BlockBar("between blocks", _share(rest, total), None))
    slowest = max(rows, key=lambda row: row.share or 0.0)
    spoken = f"{len(rows)} blocks in processing order; most time, {slowest.share or 0:.1%}, in"
    spoken += f" {slowest.label}"
    worst = max((r for r in rows if r.error), key=lambda r: r.error or 0.0, default=None)
    if worst is not None and worst.error is not None:
        spoken += f"; the largest error, {significant(worst.error)}, in {worst.label}"
    svg = block_chart(rows, Heading(ident, "Time and error of each block", spoken))
    batch = facts.profiled_batch
    caption = (
        f"Left: share of {significant(total)}{THIN}ms in the engine's profile"
        f"{'' if batch is None else f' at batch {batch}'}. Right: largest error against the golden,"
        " relative to the block's largest magnitude, log scale. From the input at the top to the"
        " output."
    )
    return Plot("Time and error per block", svg, caption)


def _share(value: float | None, total: float) -> float | None:
    return None if value is None or not total else value / total
