"""A bundle as the templates see it: everything decided and formatted, nothing left to compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from inception_deploy.reporting import plots, speed_plots, tables, words
from inception_deploy.reporting.canvas import Heading
from inception_deploy.reporting.cells import Cell, Row, cell, merged, plain, plain_rows
from inception_deploy.reporting.charts import span
from inception_deploy.reporting.data import Record
from inception_deploy.reporting.depth_plot import located_section
from inception_deploy.reporting.facts import Facts, engine_name
from inception_deploy.reporting.mixing_plot import mixing_plot
from inception_deploy.reporting.numerals import brief, count, duration, percent, significant
from inception_deploy.reporting.precision import PrecisionView
from inception_deploy.reporting.rewrites import RewritesView
from inception_deploy.reporting.speed import SpeedView

__all__ = ["BundleView", "ComparisonView", "SampleView", "StageView"]

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class StageView:
    """One line of the timeline.

    Args:
        applied: how many rewrites were applied; `applied_groups` has (rewrite, detail, nodes).
        refused: (rewrite, node, reason) each.
    """

    name: str
    seconds: Cell
    strip: Markup
    applied: int
    applied_groups: list[tuple[str, str, list[str]]]
    refused: list[tuple[str, str, str]]
    error: Cell
    bound: Cell
    facts: Pairs


@dataclass(frozen=True)
class SampleView:
    """One picture: (class, reference's probability, deployed's probability) per row.

    Args:
        image: a data URL; empty where it is left out.
        picture: id of the picture, where the page has it more than once; `again` after the first.
    """

    name: str
    image: str
    label: str | None
    verdict: str
    kind: str
    rows: list[tuple[str, str, str]]
    picture: str | None = None
    again: bool = False


@dataclass(frozen=True)
class BundleView:
    """One bundle's section.

    Args:
        pictured_in: anchor of the bundle further up that has the same `step_pictures`.
    """

    number: int
    anchor: str
    name: str
    title: str
    deployment: str
    precision: str
    reference: str
    verdict: str | None
    verdict_name: str
    verdict_reason: str
    sentence: str
    banner: str | None
    weights: str
    data: str
    skipped: list[str]
    summary_columns: tuple[str, str, str]
    summary: list[Row]
    charts: list[plots.Plot]
    timings: list[Row]
    loading: Pairs
    blocks: list[Row]
    speed: SpeedView
    rewrites: RewritesView
    precisions: PrecisionView
    mixing: Markup | None
    located: Markup | None
    stages: list[StageView]
    idle: list[str]
    total: str
    samples: list[SampleView]
    missing_samples: str
    step_pictures: list[tuple[str, str, str]]
    pictured_in: str | None
    preprocessing_steps: list[str]
    preprocessing: Pairs
    tensors: list[tuple[str, str, str, str]]
    environment: list[tuple[str, Pairs]]
    hashes: Pairs
    command: str | None
    recipe: Pairs
    made: str

    @classmethod
    def of(cls, facts: Facts, number: int) -> BundleView:
        """Raises `BundleError` for fields of the wrong type."""
        anchor, manifest = f"b{number}", facts.manifest
        stages = manifest.records("stages")
        preprocessing = manifest.record("preprocessing")
        tool = manifest.record("tool")
        return cls(
            number=number,
            anchor=anchor,
            name=facts.data.name,
            title=facts.title,
            deployment=facts.deployment,
            precision=facts.precision,
            reference=facts.reference_name,
            verdict=facts.verdict,
            verdict_name=words.verdict_name(facts.verdict),
            verdict_reason=_as_sentence(
                (facts.parity.maybe_text("verdict_reason") or "")
                if facts.parity
                else "there is no parity.json; measure with inception-deploy compare"
            ),
            sentence=words.sentence(facts),
            banner=None if facts.trained else words.NOT_TRAINED,
            weights=_weights(facts),
            data=_data(facts),
            skipped=[plain(s) for s in facts.parity.record("data").items("skipped")]
            if facts.parity
            else [],
            summary_columns=tables.summary_columns(facts),
            summary=tables.summary_rows(facts),
            charts=[
                plots.latency(facts, f"{anchor}-latency"),
                plots.throughput(facts, f"{anchor}-throughput"),
                speed_plots.distribution(facts, f"{anchor}-distribution"),
                speed_plots.time_and_error(facts, f"{anchor}-blocks")
                or plots.blocks(facts, f"{anchor}-blocks"),
            ],
            timings=tables.timing_rows(facts),
            loading=_loading(facts),
            blocks=tables.block_rows(facts),
            speed=SpeedView.of(facts),
            rewrites=RewritesView.of(facts, anchor),
            precisions=PrecisionView.of(facts),
            mixing=mixing_plot(facts.data.manifest.get("mixing"), f"{anchor}-mixing"),
            located=located_section(facts.data.located, f"{anchor}-depth"),
            stages=_stages(stages, anchor),
            idle=[s.text("name").removeprefix("fuse/") for s in stages if _is_idle(s)],
            total=duration(sum(stage.magnitude("seconds") or 0.0 for stage in stages)),
            samples=[_sample(sample) for sample in facts.data.sample_records],
            missing_samples="there is no samples.json"
            if facts.data.samples is None
            else "samples.json is empty",
            step_pictures=[
                (step.text("name"), step.text("detail"), step.text("image"))
                for sample in facts.data.sample_records[:1]
                for step in sample.records("steps")
            ],
            pictured_in=None,
            preprocessing_steps=words.preprocessing_steps(preprocessing),
            preprocessing=plain_rows(preprocessing.values),
            tensors=_tensors(manifest.record("graph")),
            environment=_environment(facts),
            hashes=tables.hash_rows(facts),
            command=manifest.maybe_text("command"),
            recipe=plain_rows(manifest.record("recipe").values),
            made=f"{tool.text('name')} {tool.text('version')}, {manifest.text('created')}",
        )


@dataclass(frozen=True)
class ComparisonView:
    """What several bundles share: one table, one chart, and what limits the comparison."""

    columns: tuple[str, ...]
    rows: list[list[tuple[str, Cell]]]
    warnings: list[str]

    @classmethod
    def of(cls, bundles: Sequence[Facts]) -> ComparisonView:
        batch = plots.common_batch(bundles)
        at = f", batch {batch}" if batch is not None else ""
        speeds = ("Latency p50", "Images/s", "Against PyTorch")
        columns = tuple(c + at if c in speeds else c for c in tables.COMPARISON_COLUMNS)
        rows = [merged(columns[1:], row) for row in tables.comparison_rows(bundles, batch)]
        return cls(columns, rows, _caveats(bundles))


def _caveats(bundles: Sequence[Facts]) -> list[str]:
    machines = {
        (machine.maybe_text("cpu"), machine.number("threads"))
        for facts in bundles
        if facts.throughput and (machine := facts.throughput.maybe_record("machine"))
    }
    data = {
        facts.parity.record("data").maybe_text("digest")
        for facts in bundles
        if facts.parity and facts.labelled
    }
    found = []
    if len(machines) > 1:
        found.append(
            f"Timings come from {len(machines)} machines or thread counts:"
            " compare ratios, not milliseconds."
        )
    if len(data) > 1:
        found.append(
            f"Accuracies come from {len(data)} sets of images: compare drops, not accuracies."
        )
    return found


def _weights(facts: Facts) -> str:
    weights = facts.manifest.record("weights")
    said = f"Weights: {weights.text('source')}"
    if layout := weights.maybe_text("layout"):
        said += f", {layout} layout"
    classes = weights.number("num_classes")
    if classes is not None:
        said += f", {count(classes)} classes"
    params = facts.manifest.record("network").number("params")
    if params is not None:
        said += f", {count(params)} parameters"
    return f"{said}. {_as_sentence(weights.maybe_text('detail') or '')}".rstrip()


def _as_sentence(text: str) -> str:
    """With a capital and a full stop; the first word keeps its spelling otherwise."""
    text = text.strip().removesuffix(".")
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _data(facts: Facts) -> str:
    if facts.parity is None:
        return "Parity was not measured: there is no parity.json."
    data = facts.parity.record("data")
    labelled = "labelled" if data.flag("labelled") else "unlabelled"
    images = data.magnitude("images")
    many = "an unknown number of" if images is None else count(images)
    name = data.maybe_text("name")
    said = f"Parity on {many} {labelled} images{f' of {name}' if name else ''}"
    candidate = engine_name(facts.parity.text("candidate"))
    return f"{said}, {candidate} against {facts.reference_name}."


def _loading(facts: Facts) -> Pairs:
    """Each session and how long it took to load."""
    loading = facts.throughput.maybe_record("load_seconds") if facts.throughput else None
    labels = {timing.key: timing.label for timing in facts.timings}
    return [
        (labels.get(key, key), duration(seconds))
        for key in (loading.values if loading else ())
        if loading and (seconds := loading.magnitude(key)) is not None
    ]


def _stages(stages: Sequence[Record], anchor: str) -> list[StageView]:
    total = sum(stage.magnitude("seconds") or 0.0 for stage in stages)
    views, start = [], 0.0
    for number, stage in enumerate(stages):
        seconds, error = stage.magnitude("seconds"), stage.magnitude("error")
        bound = stage.magnitude("bound")
        stop = start + (seconds or 0.0)
        told = f"from {duration(start)} to {duration(stop)}"
        unchanged = stage.values.get("before") == stage.values.get("after")
        if _is_idle(stage):
            start = stop
            continue
        shown = cell(error, significant, "the stage measures none")
        if error is None and unchanged:
            shown = Cell("graph unchanged", kind="missing")
        if error is not None and bound is not None and not error <= bound:
            shown = Cell(shown.text, shown.note or "beyond the bound", "alarm")
        views.append(
            StageView(
                name=stage.text("name"),
                seconds=cell(seconds, duration),
                strip=span(start, stop, total, Heading(f"{anchor}-stage{number}", told, told)),
                applied=len(stage.items("applied")),
                applied_groups=_groups(stage.records("applied")),
                refused=[
                    (r.text("rewrite"), r.text("node"), r.text("reason"))
                    for r in stage.records("refused")
                ],
                error=shown,
                bound=cell(bound, brief) if bound is not None else Cell("none", kind="missing"),
                facts=plain_rows(fields.values) if (fields := stage.maybe_record("facts")) else [],
            )
        )
        start = stop
    return views


def _is_idle(stage: Record) -> bool:
    """A rewrite that found nothing to do, nor anything to refuse."""
    unchanged = stage.values.get("before") == stage.values.get("after")
    touched = stage.items("applied") or stage.items("refused")
    return stage.text("name").startswith("fuse/") and unchanged and not touched


def _groups(applied: Sequence[Record]) -> list[tuple[str, str, list[str]]]:
    """The nodes of each distinct rewrite and detail, in order of appearance."""
    found: dict[tuple[str, str], list[str]] = {}
    for record in applied:
        key = (record.text("rewrite"), record.maybe_text("detail") or "")
        found.setdefault(key, []).append(record.text("node"))
    return [(rewrite, detail, nodes) for (rewrite, detail), nodes in found.items()]


def _sample(sample: Record) -> SampleView:
    reference, deployed = _top(sample, "reference"), _top(sample, "deployed")
    names = list(dict.fromkeys([*reference, *deployed]))
    label = sample.maybe_text("label")
    first, now = next(iter(reference), None), next(iter(deployed), None)
    if first is None and now is None:
        verdict, kind = "the head gives no classes", ""
    elif now != first:
        verdict, kind = "prediction changed", "changed"
        if label in (first, now):
            verdict += ", right to wrong" if label == first else ", wrong to right"
    elif label is None:
        verdict, kind = "same prediction", ""
    else:
        verdict, kind = ("correct", "right") if now == label else ("wrong in both", "wrong")
    return SampleView(
        name=sample.text("name"),
        image=sample.text("image"),
        label=label,
        verdict=verdict,
        kind=kind,
        rows=[(n, reference.get(n, "–"), deployed.get(n, "–")) for n in names],
    )


def _top(sample: Record, key: str) -> dict[str, str]:
    """Class name → probability in percent, most likely first."""
    found: dict[str, str] = {}
    for entry in sample.items(key):
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
            raise sample.mismatch(key, "pairs of class name and probability")
        value = Record(f"{sample.where}: {key}", {"probability": entry[1]}).number("probability")
        found[entry[0]] = cell(value, lambda p: percent(round(p * 100, 2))).text
    return found


def _tensors(graph: Record) -> list[tuple[str, str, str, str]]:
    """(direction, name, dtype, shape) of the graph's inputs and outputs."""
    return [
        (kind, t.text("name"), t.text("dtype"), " × ".join(map(plain, t.items("shape"))))
        for kind in ("input", "output")
        for t in graph.records(f"{kind}s")
    ]


def _environment(facts: Facts) -> list[tuple[str, Pairs]]:
    manifest, throughput = facts.manifest, facts.throughput
    machine = throughput.maybe_record("machine") if throughput else None
    made_on = manifest.maybe_record("environment")
    groups: list[tuple[str, Record | None]] = [("Exported and timed on", machine)]
    if machine is None or made_on is None or machine.values != made_on.values:
        groups = [("Timed on", machine), ("Exported on", made_on)]
    groups += [
        ("Library versions", manifest.maybe_record("versions")),
        ("Calibration", manifest.maybe_record("calibration")),
        ("Compiled engine", manifest.maybe_record("engine")),
    ]
    timed = throughput.maybe_record("versions") if throughput else None
    exported = manifest.maybe_record("versions")
    if timed and (exported is None or timed.values != exported.values):
        groups.append(("Library versions while timing", timed))
    graph = manifest.record("graph")
    opset = graph.values.get("opset")
    graph_facts = Record(graph.where, {"opset": opset, "head": manifest.values.get("head")})
    groups.append(("Graph", graph_facts))
    return [(title, plain_rows(group.values)) for title, group in groups if group]
