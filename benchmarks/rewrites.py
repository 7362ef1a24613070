"""What each rewrite that a target may choose gains or costs, and what all of them gain together.

    python -m benchmarks.rewrites                     all networks → results/rewrites.json
    python -m benchmarks.rewrites inception_v3        one network, its rows in the file written anew
    python -m benchmarks.rewrites --prepare …         only make the graphs; needs no quiet machine
    python -m benchmarks.rewrites --processor-time …  of one thread, where others use the machine
    python -m benchmarks.rewrites --summarise         the figures anew from the rows, e.g. for
                                                      another choice in a target's profile

Rewrites of the phases CANONICAL and FOLD always run. The graphs of one network, engine and
precision, one per combination of the others, alternate in blocks in one run. A ratio is the time
without a rewrite over the time with it. Weights are random and sizes native; the ranges for INT8
are exact ones of a few images, for where a grid lies does not change the time.

Each entry of `STEPS` is a key of the file, by which `Choice.evidence` in inception_deploy/targets
refers to it. Where a rewrite finds no place in a network, the network is not in its mean.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx

from benchmarks.native import (
    CACHE,
    cycled,
    geometric_mean,
    kept_rows,
    noise_images,
    provenance,
)
from inception_deploy.artifact import Applied, FloatArray, model_digest
from inception_deploy.calibrate import observe
from inception_deploy.engines import ENGINES
from inception_deploy.errors import InceptionDeployError
from inception_deploy.export import export
from inception_deploy.fuse import rewrite
from inception_deploy.fusions import FUSIONS, Phase
from inception_deploy.golden import record_golden
from inception_deploy.precisions import PRECISIONS
from inception_deploy.reference import load_reference
from inception_deploy.targets import TARGETS, Target
from inception_deploy.throughput import Candidate, measure

__all__ = ["NETWORKS", "PAYS", "PLAIN", "RESULTS", "STEPS", "Step", "main", "summary"]

RESULTS = Path(__file__).parent / "results" / "rewrites.json"

NETWORKS = (
    *("googlenet", "googlenet_lrn", "bn_inception", "inception_v3", "inception_v4"),
    *("inception_resnet_v2", "xception", "inception_next_tiny"),
)

BATCHES = (1, 8)
IMAGES = 4

PAYS = 1.01
"""Geometric mean from which on a rewrite belongs into a profile; below, noise would decide."""

PLAIN = "plain"
"""The graph as exported, without any rewrite."""


@dataclass(frozen=True)
class Step:
    """One more rewrite, and those that ran before it."""

    adds: str
    given: tuple[str, ...] = ()

    @property
    def before(self) -> str:
        """The combination it starts from, as rows name it."""
        return combination(self.given)

    @property
    def after(self) -> str:
        """The combination it leads to."""
        return combination((*self.given, self.adds))


def combination(names: Sequence[str]) -> str:
    """How rows name a set of rewrites: "fold" for none, else joined by "+"."""
    return "+".join(names) or "fold"


STEPS: Mapping[str, Step] = {
    "pool_projection": Step("pool_projection"),
    "pool_as_conv": Step("pool_as_conv", ("pool_projection",)),
    "pool_edges": Step("pool_edges", ("pool_projection", "pool_as_conv")),
    "aligned_depthwise": Step("aligned_depthwise"),
    "lrn_as_conv": Step("lrn_as_conv"),
    "sibling_merge": Step("sibling_merge"),
    "sibling_merge/pool_projection": Step("sibling_merge", ("pool_projection",)),
    "sibling_merge/pool_as_conv": Step("sibling_merge", ("pool_projection", "pool_as_conv")),
}
"""Key in the results → what is compared."""

COMBINATIONS = tuple(dict.fromkeys(c for step in STEPS.values() for c in (step.before, step.after)))


def prepare(network: str, target: Target, precisions: Sequence[str], folder: Path) -> None:
    """Write the graphs of one network that are not there yet, and what was applied in each.

    The files are FOLDER/NETWORK/images.npy, plain.onnx, and for every precision a folder
    TARGET.PRECISION with one graph per combination that differs from the ones before it, and
    graphs.json: combination → the file, and the number of places of each rewrite.
    """
    place = folder / network
    place.mkdir(parents=True, exist_ok=True)
    todo = [p for p in precisions if not (place / f"{target.name}.{p}" / "graphs.json").exists()]
    if not todo and (place / PLAIN).with_suffix(".onnx").exists():
        return
    reference = load_reference(network, "random:0")
    images = noise_images(reference.preprocessing, IMAGES)
    golden = record_golden(reference.module, images)
    plain = export(
        reference.module,
        golden,
        network=network,
        preprocessing=reference.preprocessing,
        class_names=(),
    ).model
    np.save(place / "images.npy", images)
    onnx.save(plain, place / f"{PLAIN}.onnx")
    keep = tuple(golden.blocks)
    for precision in todo:
        _prepare(plain, keep, images, target, precision, place / f"{target.name}.{precision}")


def _prepare(
    plain: onnx.ModelProto,
    keep: Sequence[str],
    images: FloatArray,
    target: Target,
    precision: str,
    folder: Path,
) -> None:
    folder.mkdir(exist_ok=True)
    lowers = PRECISIONS.get(precision).at(target.placement)
    graphs: dict[str, Any] = {}
    seen: dict[str, str] = {}
    for name in COMBINATIONS:
        model, applied = _rewritten(plain, set(name.split("+")), keep)
        digest = model_digest(model)
        if digest not in seen:
            ranges = None
            if lowers.needs_ranges:
                engine = ENGINES.get("onnxruntime")
                ranges = observe(model, [images], engine=engine, data_digest="", total=1)
            seen[digest] = f"{len(seen)}.onnx"
            onnx.save(lowers.lower(model, ranges).model, folder / seen[digest])
        places = {f.name: sum(a.rewrite == f.name for a in applied) for f in FUSIONS}
        chosen = {n: c for n, c in places.items() if FUSIONS.get(n).phase > Phase.FOLD}
        graphs[name] = {"file": seen[digest], "applied": chosen}
    (folder / "graphs.json").write_text(json.dumps(graphs, indent=1) + "\n", encoding="utf-8")


def _rewritten(
    model: onnx.ModelProto, names: set[str], keep: Sequence[str]
) -> tuple[onnx.ModelProto, list[Applied]]:
    """As `fuse` does it, without the proofs, which are the tests' business."""
    running = (f for f in FUSIONS if f.phase <= Phase.FOLD or f.name in names)
    done: list[Applied] = []
    for fusion in sorted(running, key=lambda fusion: fusion.phase):
        model, applied, _ = rewrite(model, fusion, keep=keep)
        done += applied
    return model, done


def timed(
    network: str,
    target: Target,
    precision: str,
    folder: Path,
    *,
    seconds: float,
    batches: Sequence[int] = BATCHES,
    processor_time: bool = False,
) -> Iterator[dict[str, Any]]:
    """One row per batch size: medians of each graph, and the ratio of each step.

    Args:
        seconds: of measurement per graph and batch size.
        processor_time: of one thread, which other programs on the machine hardly touch; otherwise
            wall time, with as many threads as the engine takes.
    """
    place = folder / network
    lowered = place / f"{target.name}.{precision}"
    graphs = json.loads((lowered / "graphs.json").read_text(encoding="utf-8"))
    files = {name: lowered / graph["file"] for name, graph in graphs.items()}
    steps = [(s.before, s.after) for s in STEPS.values() if files[s.before] != files[s.after]]
    if precision == "fp32":
        files = {PLAIN: place / f"{PLAIN}.onnx", **files}
        steps += [(PLAIN, name) for name in graphs]
    first = {file: name for name, file in reversed(files.items())}
    engine = ENGINES.get(target.engine)
    pairs = [(first[files[before]], first[files[after]]) for before, after in steps]
    if not pairs:
        return
    threads = 1 if processor_time else None
    with ExitStack() as stack:
        candidates = [
            Candidate.of(
                stack.enter_context(engine.session(file, threads=threads)), name, "", precision
            )
            for file, name in first.items()
            if any(name in pair for pair in pairs)
        ]
        report = measure(
            candidates,
            cycled(np.load(place / "images.npy")),
            batches=batches,
            seconds=seconds,
            clock=time.process_time if processor_time else time.perf_counter,
            pairs=list(dict.fromkeys((f"{after}:", f"{before}:") for before, after in pairs)),
        )
    found = {(r.batch, r.baseline, r.candidate): r for r in report.ratios}
    for batch in batches:
        ratios = []
        for before, after in steps:
            ratio = found[batch, f"{first[files[before]]}:", f"{first[files[after]]}:"]
            ratios.append(
                {
                    **{"without": before, "with": after, "ratio": round(ratio.ratio, 4)},
                    "ci95": [round(end, 4) for end in ratio.ci95],
                }
            )
        yield {
            **{"network": network, "target": target.name, "precision": precision, "batch": batch},
            "clock": "processor, 1 thread" if processor_time else "wall",
            "median_ms": {
                row.engine: round(row.latency_ms.median, 3)
                for row in report.rows
                if row.batch == batch
            },
            "rounds": min(row.rounds for row in report.rows if row.batch == batch),
            "applied": {name: graph["applied"] for name, graph in graphs.items()},
            "ratios": ratios,
        }


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the rows say: per step, target and precision the geometric mean of the ratios.

    The key "whole" has the FP32 graph of each target's profile against the plain one.
    """
    found: dict[str, Any] = {
        key: _means(rows, {(r["target"], r["precision"]): (s.before, s.after) for r in rows})
        for key, s in STEPS.items()
    }
    found["whole"] = _means(
        rows, {(name, "fp32"): (PLAIN, _profile(TARGETS.get(name))) for name in TARGETS.names()}
    )
    return found


def _profile(target: Target) -> str:
    """The combination of STEPS that a target's FP32 graphs run."""
    chosen = {fusion.name for fusion in target.rewrites("fp32") if fusion.phase > Phase.FOLD}
    return next(name for name in COMBINATIONS if set(name.split("+")) - {"fold"} == chosen)


def _means(
    rows: Sequence[Mapping[str, Any]], wanted: Mapping[tuple[str, str], tuple[str, str]]
) -> dict[str, Any]:
    """Target → precision → the mean over networks and batch sizes, the worst one, and each."""
    found: dict[str, Any] = {}
    for (target, precision), (before, after) in wanted.items():
        ratios = {
            f"{row['network']}, batch {row['batch']}": ratio["ratio"]
            for row in rows
            if (row["target"], row["precision"]) == (target, precision)
            for ratio in row["ratios"]
            if (ratio["without"], ratio["with"]) == (before, after)
        }
        if ratios:
            worst = min(ratios, key=lambda name: ratios[name])
            found.setdefault(target, {})[precision] = {
                **{"without": before, "with": after},
                "geometric_mean": round(geometric_mean(ratios.values()), 4),
                "worst": {worst: ratios[worst]},
                "ratios": ratios,
            }
    return found


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[part] for part in ("network", "target", "precision", "batch"))


def _write(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
    order = {name: index for index, name in enumerate(NETWORKS)}
    rows = sorted(rows, key=lambda row: order.get(row["network"], len(order)))
    text = json.dumps(
        {"command": "python -m benchmarks.rewrites", **summary(rows), **facts, "rows": rows},
        indent=1,
    )
    RESULTS.write_text(text + "\n", encoding="utf-8")


@click.command()
@click.argument("networks", nargs=-1)
@click.option("--target", "target_name", default="onnxruntime", show_default=True)
@click.option("--precision", "precisions", multiple=True, help="fp32 and int8 unless given.")
@click.option("--seconds", default=1.5, show_default=True, help="Per graph and batch size.")
@click.option("--batch", "batches", multiple=True, type=int, default=BATCHES, show_default=True)
@click.option("--processor-time", is_flag=True, help="Of one thread, on a machine in use.")
@click.option("--graphs", type=click.Path(path_type=Path), default=CACHE / "rewrites")
@click.option("--prepare", "only_prepare", is_flag=True, help="Make the graphs, time nothing.")
@click.option("--summarise", "only_summarise", is_flag=True, help="Sum the rows up anew.")
def main(
    networks: tuple[str, ...],
    target_name: str,
    precisions: tuple[str, ...],
    seconds: float,
    batches: tuple[int, ...],
    processor_time: bool,
    graphs: Path,
    only_prepare: bool,
    only_summarise: bool,
) -> None:
    """Measure NETWORKS, all where none is named, and write their rows."""
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    if only_summarise:
        _write(results["rows"], {key: results[key] for key in ("machine", "versions")})
        return
    target, now = TARGETS.get(target_name), provenance()
    if not ENGINES.get(target.engine).availability().ok:
        raise click.ClickException(
            f"{target.engine} does not work here; see inception-deploy doctor"
        )
    precisions = precisions or ("fp32", "int8")
    for network in networks or NETWORKS:
        try:
            prepare(network, target, precisions, graphs)
            if only_prepare:
                continue
            rows = [
                row
                for precision in precisions
                for row in timed(
                    network,
                    target,
                    precision,
                    graphs,
                    seconds=seconds,
                    batches=batches,
                    processor_time=processor_time,
                )
            ]
        except InceptionDeployError as error:
            raise click.ClickException(str(error)) from error
        for row in rows:
            told = ", ".join(f"{r['with']}/{r['without']} {r['ratio']:.3f}" for r in row["ratios"])
            click.echo(f"{network} {row['precision']} batch {row['batch']}: {told}")
        new = {_key(row) for row in rows}
        kept = [row for row in kept_rows(results, now) if _key(row) not in new]
        results = {**now, "rows": [*kept, *rows]}
        _write(results["rows"], now)


if __name__ == "__main__":
    main()
