"""Which charts a report shows, made from the bundles' figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from inception_deploy.reporting.canvas import PALETTE_SIZE, Heading
from inception_deploy.reporting.charts import Bar, Dot, Line, Panel, bars, depth, lines
from inception_deploy.reporting.facts import Facts, Timing
from inception_deploy.reporting.numerals import file_size, percent, quantity, significant
from inception_deploy.reporting.scatter import Bubble, bubbles

__all__ = ["Plot", "blocks", "common_batch", "latency", "series_of", "throughput", "tradeoff"]


@dataclass(frozen=True)
class Plot:
    """A chart with its caption, or the reason why there is none."""

    title: str
    svg: Markup | None
    caption: str


@dataclass(frozen=True)
class _Candidate:
    label: str
    detail: str
    latency: float | None
    accuracy: float | None
    size: float | None
    reference: bool = False
    interval: tuple[float, float] | None = None

    def lacks(self) -> str | None:
        """What keeps it out of the plot."""
        for value, name in (
            (self.accuracy, "accuracy"),
            (self.latency, "latency"),
            (self.size, "size"),
        ):
            if value is None or not math.isfinite(value) or value < 0:
                return f"no {name}"
        return None


def tradeoff(bundles: Sequence[Facts], ident: str) -> Plot:
    """Accuracy over latency, size as area, every bundle and each distinct reference."""
    title = "Accuracy, latency and size"
    batch = common_batch(bundles)
    if batch is None:
        return Plot(title, None, "no bundle holds timings of the deployed graph (throughput.json)")
    labelled = any(facts.labelled for facts in bundles)
    candidates: list[_Candidate] = []
    seen: set[str] = set()
    several = len(bundles) > 1
    for number, facts in enumerate(bundles, 1):
        drawn_from = facts.manifest.record("reference").maybe_text("sha256") or str(number)
        if drawn_from not in seen:
            seen.add(drawn_from)
            name = f"R{len(seen)}" if several else f"{facts.reference_name} FP32"
            candidates.append(_reference(facts, name, batch, labelled))
        name = str(number) if several else facts.precision
        candidates.append(_deployed(facts, name, batch, labelled))
    omitted = _omitted(candidates)
    kept = [c for c in candidates if c.lacks() is None]
    if not any(not c.reference for c in kept):
        return Plot(title, None, f"nothing to plot: {omitted}")
    what = "top-1 accuracy" if labelled else f"top-1 agreement with {bundles[0].reference_name}"
    points = [_bubble(c, kept) for c in kept]
    heading = Heading(
        ident,
        f"{what[0].upper()}{what[1:]} over latency at batch {batch}",
        "; ".join(f"{c.label}: {c.detail}" for c in kept),
    )
    svg = bubbles(
        points,
        heading,
        x_label=f"p50 latency at batch {batch}, ms",
        y_label=f"{what}, %",
        limit=100.0,
    )
    caption = "Further left and up is better; area is the size of the file."
    if several:
        caption += " Numbers are the table's; R1, R2 … are the FP32 references."
    if len(kept) > 2:
        caption += (
            " Filled: no other is at once as accurate, as fast and as small (Pareto front);"
            " hollow: some other is. Dashed: the best accuracy at each latency."
        )
    if any(c.interval for c in kept):
        caption += " Whiskers: 95 % interval of the accuracy drop."
    if omitted:
        caption += f" Not shown: {omitted}."
    return Plot(title, svg, caption)


def _omitted(candidates: Sequence[_Candidate]) -> str:
    """Who is kept out of the plot, by what they lack: "R2, 2 (no accuracy), 5 (no latency)"."""
    labels: dict[str, list[str]] = {}
    for candidate in candidates:
        if reason := candidate.lacks():
            labels.setdefault(reason, []).append(candidate.label)
    return ", ".join(f"{', '.join(names)} ({reason})" for reason, names in labels.items())


def common_batch(bundles: Sequence[Facts]) -> int | None:
    """The batch at which most bundles timed the deployed graph; the smallest of those."""
    timed = [b for facts in bundles for b in facts.batches if facts.deployed(b)]
    return min(timed, key=lambda batch: (-timed.count(batch), batch), default=None)


def _reference(facts: Facts, label: str, batch: int, labelled: bool) -> _Candidate:
    timing = facts.baseline(batch)
    same = 100.0 if facts.parity is not None else None
    return _candidate(
        label,
        f"{facts.title}, {facts.reference_name} FP32",
        timing,
        facts.parity_percentage("top1_reference") if labelled else same,
        facts.size("reference"),
        reference=True,
    )


def _deployed(facts: Facts, label: str, batch: int, labelled: bool) -> _Candidate:
    accuracy = facts.parity_percentage("top1_deployed" if labelled else "top1_agreement")
    drop = facts.parity.interval("drop_ci95") if facts.parity and labelled else None
    before = facts.parity_percentage("top1_reference")
    interval = None
    if drop and before is not None and all(map(math.isfinite, drop)):
        interval = before - drop[1], before - drop[0]
    detail = f"{facts.title}, {facts.deployment}{'' if facts.trained else ', NOT TRAINED'}"
    timing = facts.deployed(batch)
    return _candidate(label, detail, timing, accuracy, facts.size("graph"), interval=interval)


def _candidate(
    label: str,
    detail: str,
    timing: Timing | None,
    accuracy: float | None,
    size: float | None,
    *,
    reference: bool = False,
    interval: tuple[float, float] | None = None,
) -> _Candidate:
    latency = timing.p50 if timing else None
    if accuracy is not None and latency is not None and size is not None:
        detail += f": {percent(accuracy)}, {quantity(latency, 'ms')}, {file_size(size)}"
    return _Candidate(label, detail, latency, accuracy, size, reference, interval)


def _bubble(candidate: _Candidate, others: Sequence[_Candidate]) -> Bubble:
    """Filled unless another is at least as good in all three figures and better in one."""

    def costs(c: _Candidate) -> tuple[float, float, float]:
        return -(c.accuracy or 0.0), c.latency or 0.0, c.size or 0.0

    own = costs(candidate)
    dominated = any(
        all(a <= b for a, b in zip(costs(other), own, strict=True)) and costs(other) != own
        for other in others
    )
    low, high = candidate.interval or (None, None)
    return Bubble(
        label=candidate.label,
        detail=candidate.detail,
        x=own[1],
        y=-own[0],
        size=own[2],
        low=low,
        high=high,
        reference=candidate.reference,
        front=not dominated,
    )


def series_of(facts: Facts) -> dict[str, int]:
    """A colour for each engine and graph: PyTorch 0, the deployed graph 1, others from 2 on."""
    keys = list(dict.fromkeys(timing.key for timing in facts.timings))
    first = next((t.key for b in facts.batches if (t := facts.deployed(b))), None)
    chosen = {key: 0 for key in keys if key.startswith("pytorch:")}
    if first:
        chosen[first] = 1
    rest = [key for key in keys if key not in chosen]
    return chosen | {key: 2 + n % (PALETTE_SIZE - 2) for n, key in enumerate(rest)}


def _why_untimed(facts: Facts) -> str:
    missing = "there is no throughput.json; measure with inception-deploy bench"
    return missing if facts.throughput is None else "throughput.json has no rows"


def latency(facts: Facts, ident: str) -> Plot:
    """p50, p95 and p99 per batch and engine."""
    title = "Latency"
    if not facts.timings:
        return Plot(title, None, _why_untimed(facts))
    series, panels = series_of(facts), []
    for batch in facts.batches:
        drawn = []
        for timing in facts.timings:
            ends = (timing.p50, timing.latency.get("p95"), timing.latency.get("p99"))
            if timing.batch != batch or timing.p50 is None:
                continue
            known = tuple(end for end in ends if end is not None)
            text = " · ".join(significant(end) for end in known) + " ms"
            drawn.append(Bar(timing.label, known, text, series[timing.key]))
        panels.append(Panel(f"batch {batch}", tuple(drawn)))
    heading = Heading(
        ident,
        "Latency percentiles per batch and engine",
        "; ".join(f"{p.heading}, {b.label}: {b.text}" for p in panels for b in p.bars),
    )
    svg = bars(panels, ("p50", "p95", "p99"), heading, shared=False)
    return Plot(title, svg, "p50 · p95 · p99 of one call, ms; each batch has its own scale.")


def throughput(facts: Facts, ident: str) -> Plot:
    """Images per second by batch: lines, or bars where only one batch was run."""
    title = "Throughput"
    if not facts.timings:
        return Plot(title, None, _why_untimed(facts))
    series = series_of(facts)
    shown = {(t.key, t.batch): t.images_per_second for t in facts.timings}
    labels = {t.key: t.label for t in facts.timings}
    spoken = "; ".join(
        f"batch {batch}, {labels[key]}: {significant(rate)}"
        for (key, batch), rate in shown.items()
        if rate is not None
    )
    heading = Heading(ident, "Images per second by batch and engine", spoken)
    if len(facts.batches) == 1:
        drawn = tuple(
            Bar(labels[key], (rate,), f"{significant(rate)} images/s", series[key])
            for (key, _), rate in shown.items()
            if rate is not None
        )
        svg = bars([Panel(f"batch {facts.batches[0]}", drawn)], (), heading, shared=True)
    else:
        knees = _knees(facts)
        drawn_lines = [
            Line(
                labels[key],
                tuple(shown.get((key, b)) for b in facts.batches),
                colour,
                knees.get(key),
            )
            for key, colour in series.items()
        ]
        svg = lines(
            [str(batch) for batch in facts.batches],
            drawn_lines,
            heading,
            x_label="batch",
            y_label="images/s",
        )
    knee = " Ringed: the knee, where larger batches stop paying." if _knees(facts) else ""
    return Plot(title, svg, f"Images per second, higher is better.{knee}")


def _knees(facts: Facts) -> dict[str, int]:
    """Candidate → the position of its knee among the batch sizes."""
    found = {}
    for knee in facts.throughput.records("knees") if facts.throughput else ():
        at = knee.magnitude("at")
        if knee.text("over") == "batch" and at in facts.batches:
            found[knee.text("candidate")] = facts.batches.index(int(at))
    return found


def blocks(facts: Facts, ident: str) -> Plot:
    """The largest relative error of each architecture block, in processing order."""
    title = "Error per block"
    rows = [] if facts.parity is None else facts.parity.records("blocks")
    if not rows:
        why = "parity.json lists no blocks; the target may not expose intermediate outputs"
        return Plot(title, None, "there is no parity.json" if facts.parity is None else why)
    dots = [Dot(row.text("name"), row.magnitude("max_rel_error")) for row in rows]
    known = [dot for dot in dots if dot.value is not None and not math.isnan(dot.value)]
    worst = max(known, key=lambda dot: dot.value or 0.0, default=None)
    spoken = f"{len(dots)} blocks in processing order"
    if worst is not None and worst.value is not None:
        spoken += f"; the largest error is {significant(worst.value)} in {worst.label}"
    heading = Heading(ident, "Largest relative error of each block", spoken)
    svg = depth(dots, heading, x_label="max relative error, log scale")
    caption = (
        "Each block's output against the golden recorded from PyTorch, relative to the block's"
        " largest magnitude; processing order from top to bottom."
    )
    return Plot(title, svg, caption)
