"""The rows of the report's tables: summary, comparison, timings, blocks, hashes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from inception_deploy.reporting.cells import BLANK, Cell, Row, cell
from inception_deploy.reporting.data import Record
from inception_deploy.reporting.facts import Facts, Ratio, Timing
from inception_deploy.reporting.numerals import (
    MINUS,
    THIN,
    count,
    file_size,
    percent,
    points,
    quantity,
    significant,
    times,
)
from inception_deploy.reporting.words import baseline_name, shrinkage

__all__ = [
    "BLOCK_COLUMNS",
    "COMPARISON_COLUMNS",
    "TIMING_COLUMNS",
    "block_rows",
    "comparison_rows",
    "hash_rows",
    "summary_columns",
    "summary_rows",
    "timing_rows",
]

COMPARISON_COLUMNS = (
    "Verdict",
    "Top-1 before",
    "Top-1 after",
    "Drop, points",
    "Agreement",
    "Latency p50",
    "Images/s",
    "Against PyTorch",
    "Size",
)
TIMING_COLUMNS = (
    "Batch",
    "Images/s",
    "min",
    "p50",
    "p90",
    "p95",
    "p99",
    "max",
    "mean",
    "first",
    "std/mean",
    "Runs",
)
BLOCK_COLUMNS = ("Max relative error", "Max absolute error", "SQNR", "Cosine")

_GOLDEN_KEYS = ("max_rel_error", "sqnr_db")
_INTERVAL = f"95{THIN}% interval "
_decibels = partial(quantity, unit="dB")
_milliseconds = partial(quantity, unit="ms")


def _cosine(value: float) -> str:
    """Close to 1, where only the distance from it tells anything, "1 − 4.2×10⁻⁸"."""
    if 0.99 < value < 1:
        return f"1 {MINUS} {significant(1 - value, 2)}"
    return significant(value, 4)


def _why_unlabelled(facts: Facts) -> str:
    if facts.parity is None:
        return "there is no parity.json"
    return "" if facts.labelled else "the images have no labels"


def summary_columns(facts: Facts) -> tuple[str, str, str]:
    """Headings of the summary's three columns."""
    return f"{facts.reference_name} FP32", f"Deployed {facts.precision}", "Difference"


def summary_rows(facts: Facts) -> list[Row]:
    """Accuracy, agreement, error, speed and size, each before, after and compared."""
    return [*_accuracy_rows(facts), *_error_rows(facts), *_speed_rows(facts), _size_row(facts)]


def _no_agreement(facts: Facts) -> str:
    if facts.parity is None:
        return "there is no parity.json"
    return "features have no classes" if facts.manifest.values.get("head") == "features" else ""


def _sqnr(record: Record | None, why: str = "", note: str = "") -> Cell:
    """SQNR in dB; JSON knows no infinity, so bit-equal outputs are marked `exact` instead."""
    if record is not None and record.number("sqnr_db") is None and record.holds("exact"):
        return Cell("∞", "equal to the last bit")
    return cell(record.number("sqnr_db") if record else None, _decibels, why, note)


def _accuracy_rows(facts: Facts) -> list[Row]:
    why = _why_unlabelled(facts)
    rows = [
        Row(
            "Top-1 accuracy",
            (
                cell(facts.parity_percentage("top1_reference"), percent, why),
                cell(facts.parity_percentage("top1_deployed"), percent, why),
                _drop(facts),
            ),
        ),
        Row("Top-1 agreement", (BLANK, BLANK, _agreement(facts))),
    ]
    if facts.parity is None:
        return rows
    five = facts.parity_percentage("top5_agreement")
    rows.append(Row("Top-5 agreement", (BLANK, BLANK, cell(five, percent, _no_agreement(facts)))))
    if flips := facts.parity.maybe_record("flips"):
        harmful, helpful = flips.number("harmful"), flips.number("beneficial")
        if harmful is not None and helpful is not None:
            p_value = facts.parity.number("mcnemar_p")
            note = "" if p_value is None else f"McNemar p = {significant(p_value, 2)}"
            changed = f"{count(harmful)} harmful, {count(helpful)} beneficial"
            rows.append(Row("Changed predictions", (BLANK, BLANK, Cell(changed, note))))
    if ties := facts.parity.maybe_record("near_ties"):
        images, disagreeing = ties.number("images"), ties.number("disagreeing")
        if images is not None and disagreeing is not None:
            margin = cell(ties.number("margin"), significant).text
            text = f"{count(disagreeing)} of {count(images)} disagree" if images else "none"
            found = Cell(text, f"first choice leads by at most {margin}")
            rows.append(Row("Near ties", (BLANK, BLANK, found)))
    return rows


def _drop(facts: Facts, *, terse: bool = False) -> Cell:
    """The loss of top-1; `terse` leaves out what the comparison's headings say."""
    drop = facts.parity_number("top1_drop")
    if drop is None or facts.parity is None:
        return cell(None, points, _why_unlabelled(facts))
    interval = facts.parity.interval("drop_ci95")
    note = "no interval recorded"
    if interval:
        ends = [points(end, signed=True) for end in interval]
        note = f"{'' if terse else _INTERVAL}{ends[0]} to {ends[1]}"
    return cell(drop, points if terse else lambda v: f"drop {points(v)} points", note=note)


def _agreement(facts: Facts) -> Cell:
    value, images = facts.parity_percentage("top1_agreement"), facts.images
    note = ""
    if value is not None and images:
        note = f"{count(value / 100 * images)} of {count(images)} images"
    return cell(value, percent, _no_agreement(facts), note)


def _error_rows(facts: Facts) -> list[Row]:
    why = "" if facts.parity else "there is no parity.json"
    golden = facts.parity.maybe_record("golden") if facts.parity else None
    relative, decibels = (golden.number(key) if golden else None for key in _GOLDEN_KEYS)
    where = "on the recorded golden"
    error = cell(
        facts.parity_number("max_rel_error"),
        significant,
        why,
        "" if relative is None else f"{significant(relative)} {where}",
    )
    sqnr = _sqnr(facts.parity, why, "" if decibels is None else f"{_decibels(decibels)} {where}")
    rows = [
        Row("Max relative error", (BLANK, BLANK, error)),
        Row("SQNR", (BLANK, BLANK, sqnr)),
    ]
    cosine = facts.parity_number("cosine")
    if cosine is not None:
        text = cell(cosine, _cosine, note="least over all images")
        rows.append(Row("Cosine similarity", (BLANK, BLANK, text)))
    return rows


def _speed_rows(facts: Facts) -> list[Row]:
    if not facts.timings:
        why = "there is no throughput.json" if facts.throughput is None else "no timings in it"
        return [Row("Latency p50 / p95", (cell(None, str, why),) * 2 + (BLANK,))]
    rows = []
    for batch in facts.batches:
        before, after, ratio = facts.baseline(batch), facts.deployed(batch), facts.ratio(batch)
        compared = _ratio(ratio) if (before and after) or ratio else BLANK
        pair = (_latency(before), _latency(after), compared)
        rows.append(Row(f"Batch {batch}: latency p50 / p95, images/s", pair))
    return rows


def _latency(timing: Timing | None) -> Cell:
    if timing is None:
        return cell(None, str, "not among the timed engines")
    p50, p95, rate = timing.p50, timing.latency.get("p95"), timing.images_per_second
    note = "images/s not measured" if rate is None else f"{significant(rate)} images/s"
    if p50 is None or p95 is None:
        return cell(p50, _milliseconds, note=f"p50 only; {note}")
    return Cell(f"{significant(p50)} / {_milliseconds(p95)}", note)


def _ratio(ratio: Ratio | None, *, terse: bool = False) -> Cell:
    if ratio is None:
        return cell(None, str, "the two were not timed against each other")
    note = "no interval recorded"
    if ratio.interval:
        low, high = (significant(end) for end in ratio.interval)
        note = f"{'' if terse else _INTERVAL}{low} to {high}"
    if not ratio.baseline.startswith("pytorch:"):
        note += f", against {baseline_name(ratio.baseline)}"
    return cell(ratio.value, times if terse else lambda v: f"{times(v)} as fast", note=note)


def _size_row(facts: Facts) -> Row:
    sizes = [facts.size("reference"), facts.size("graph")]
    compared = BLANK
    if sizes[0] and sizes[1]:
        compared = Cell(shrinkage(sizes[0] / sizes[1], 3))
    cells = (
        cell(size, file_size, "not in the manifest", facts.manifest.record(key).text("file"))
        for size, key in zip(sizes, ("reference", "graph"), strict=True)
    )
    return Row("File size", (*cells, compared))


def comparison_rows(bundles: Sequence[Facts], batch: int | None) -> list[tuple[Cell, ...]]:
    """One tuple of cells per bundle, in the order of `COMPARISON_COLUMNS` after the verdict.

    Args:
        batch: the batch at which speeds are compared; None where nothing was timed.
    """
    rows: list[tuple[Cell, ...]] = []
    for facts in bundles:
        why = _why_unlabelled(facts)
        timing = facts.deployed(batch) if batch is not None else None
        ratio = facts.ratio(batch) if batch is not None else None
        untimed = "there is no throughput.json" if facts.throughput is None else f"batch {batch}"
        rows.append(
            (
                cell(facts.parity_percentage("top1_reference"), percent, why),
                cell(facts.parity_percentage("top1_deployed"), percent, why),
                _drop(facts, terse=True),
                _agreement(facts),
                cell(timing.p50 if timing else None, _milliseconds, untimed),
                cell(timing.images_per_second if timing else None, significant, untimed),
                _ratio(ratio, terse=True) if timing else cell(None, str, untimed),
                cell(facts.size("graph"), file_size),
            )
        )
    return rows


def timing_rows(facts: Facts) -> list[Row]:
    """Every timing, in the order of `TIMING_COLUMNS`; latencies in milliseconds."""
    return [
        Row(
            timing.label,
            (
                Cell(str(timing.batch)),
                cell(timing.images_per_second, significant),
                *(
                    cell(timing.latency.get(key), significant)
                    for key in ("min", "p50", "p90", "p95", "p99", "max", "mean")
                ),
                cell(timing.first, significant),
                cell(timing.cov, lambda value: significant(value, 2)),
                cell(timing.runs, count),
            ),
        )
        for timing in facts.timings
    ]


def block_rows(facts: Facts) -> list[Row]:
    """Every block's errors, in the order of `BLOCK_COLUMNS`."""
    rows = []
    for block in facts.parity.records("blocks") if facts.parity else ():
        why = block.maybe_text("reason") or ""
        cells = (
            cell(block.magnitude("max_rel_error"), significant, why),
            cell(block.magnitude("max_abs_error"), significant, why),
            _sqnr(block, why),
            cell(block.number("cosine"), _cosine, why),
        )
        rows.append(Row(block.text("name"), cells))
    return rows


def hash_rows(facts: Facts) -> list[tuple[str, str]]:
    """What it is, and its digest: files of the bundle, the weights, the data."""
    manifest = facts.manifest
    found: dict[str, str] = {}
    for key in ("graph", "reference", "engine"):
        part = manifest.maybe_record(key)
        if part and (digest := part.maybe_text("sha256")):
            found[part.text("file")] = digest
    if files := manifest.maybe_record("files"):
        # the page's own hash would be that of an earlier rendering
        found |= {name: files.text(name) for name in files.values if name != "report.html"}
    if digest := manifest.record("weights").maybe_text("sha256"):
        found["weights"] = digest
    if facts.parity and (digest := facts.parity.record("data").maybe_text("digest")):
        found["images used for parity"] = digest
    return list(found.items())
