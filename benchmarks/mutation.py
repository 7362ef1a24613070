"""Mutation score: faults planted in correct bundles, and who notices.

    python -m benchmarks.mutation                     everything → results/mutation.json
    python -m benchmarks.mutation --network xception  one network (more than one may be named)
    python -m benchmarks.mutation --fault ceil_mode   one kind of fault
    python -m benchmarks.mutation --page docs/mutation.md       the results as a page

For every network of the family, and the trained ones of the package, correct small bundles are made
(`benchmarks/subjects.py`). Then one fault at a time is planted (`benchmarks/faults/`), and the gate
and `locate` are asked about the bundle as if nothing was known. Every case is appended to a file of
its own as soon as it is done, so that a run can be stopped and taken up again.

How a fault is planted. Seeds 0, 1 and 2 take a bundle in FP32, FP16 and INT8. A fault of the graph
is put into the exported graph, which then goes through the same rewrites and the same lowering as
the correct one. With seed 0 the bundle's reference.onnx has it too (the export went wrong), with
the others only model.onnx has (a rewrite went wrong). A wrong preprocessing is in the manifest and
in the graphs' metadata; with seed 0 the golden was recorded with it as well. Faults of one
precision take that one with every seed.

A wrong pipeline writes consistent records. So hashes, digests of stages, facts of graphs and
parity.json are written anew, as the export of the faulty graph itself would have written them:
nothing is caught because a record is of another bundle. Wrong labels are in the data that the gate
is given, and leave the bundle alone.

A mutant is equivalent where the deployed graph puts out the very same bits on all images. Such a
fault is none, and is not counted. Located means: the first finding of `locate` names a block that
the fault is in.
"""

from __future__ import annotations

import json
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.faults import FAULTS, Fault, Planted
from benchmarks.gardens import Garden, plant
from benchmarks.mutation_table import (
    PRECISION_OF_SEED,
    SEEDS,
    Case,
    append,
    page,
    read,
    summary,
    write,
)
from benchmarks.subjects import Subject, subjects
from inception_deploy.bundle import Bundle
from inception_deploy.engines import ENGINES
from inception_deploy.errors import InceptionDeployError
from inception_deploy.gate import gate
from inception_deploy.locate import LocateReport, Place, locate
from inception_deploy.locate.inputs import images_of
from inception_deploy.pipeline import deploy
from inception_deploy.recipe import PrecisionName

__all__ = ["RESULTS", "clean_case", "main", "run_case"]

RESULTS = Path(__file__).parent / "results" / "mutation.json"

CLEAN, EXPORTED_ANEW = 4, 3
"""Runs without a fault per bundle, and which of them exports it anew."""


def run_case(garden: Garden, fault: Fault, seed: int, folder: Path) -> Case | None:
    """Plant `fault`, ask gate and locate; None where the network has no place for it."""
    rng = np.random.default_rng(
        [seed, zlib.crc32(garden.subject.name.encode()), zlib.crc32(fault.name.encode())]
    )
    planted = fault.plant(garden.site, rng)
    if planted is None:
        return None
    blocks = _blocks(garden, planted.nodes)
    facts: dict[str, Any] = {
        "network": garden.subject.name,
        "fault": fault.name,
        "precision": garden.precision,
        "seed": seed,
        "level": fault.level,
        "detail": planted.detail,
        "blocks": blocks,
    }
    path = folder / "bundle"
    try:
        bundle, data = plant(garden, planted, seed, path)
    except InceptionDeployError as error:
        # the pipeline's own checks refuse to make such a bundle: nothing is left to catch
        said = f"not made: {error}"
        return Case(
            **facts,
            equivalent=False,
            moved=None,
            top1_changed=0.0,
            caught=True,
            by=said[:200],
            located="",
            right=_named(str(error), (*planted.nodes, *blocks)),
            cause="",
            seconds=0.0,
        )
    equivalent, moved, top1 = _effect(garden, bundle, planted)
    started = time.perf_counter()
    found = _located(garden, bundle, data)
    caught, by = _gate(garden, bundle, data, found)
    located, right, cause = _first(found, blocks)
    return Case(
        **facts,
        equivalent=equivalent,
        moved=moved,
        top1_changed=top1,
        caught=caught,
        by=by,
        located=located,
        right=right,
        cause=cause,
        seconds=round(time.perf_counter() - started, 2),
    )


def _named(message: str, places: Sequence[str]) -> bool:
    return any(place in message for place in places)


def _blocks(garden: Garden, nodes: Sequence[str]) -> tuple[str, ...]:
    """Blocks of the nodes; those that are in none stand for themselves."""
    return tuple(dict.fromkeys(Place.of(node, "", garden.blocks).block for node in nodes))


def _effect(garden: Garden, bundle: Bundle, planted: Planted) -> tuple[bool, float | None, float]:
    """Whether nothing changes at all, how far outputs move, and how many first choices change."""
    if planted.labels is not None:
        return False, None, float((planted.labels(garden.labels) != garden.labels).mean())
    before = garden.outputs
    if planted.preprocessing is not None:
        changed = images_of(bundle, None)
        inputs = np.concatenate([batch.inputs for batch in changed.batches()])
        same = np.array_equal(inputs, garden.inputs)
        with ENGINES.get("onnxruntime").session(bundle.model, threads=1) as session:
            after = np.concatenate(
                [session.run(inputs[i : i + 16]) for i in range(0, len(inputs), 16)]
            )
    else:
        try:
            after = garden.run(bundle.model)
        except InceptionDeployError:
            return False, None, 1.0
        same = np.array_equal(before, after)
    if before.shape != after.shape or not np.isfinite(after).all():
        return False, None, 1.0
    moved = float(np.abs(after - before).max() / np.abs(before).max())
    return bool(same), moved, float((after.argmax(1) != before.argmax(1)).mean())


def _gate(
    garden: Garden,
    bundle: Bundle,
    data: str | None,
    found: LocateReport | str,
    seed: int = 0,
) -> tuple[bool, str]:
    """Whether the gate stops the bundle, and what of it did.

    `locate` is a part of the gate. It has been run already, and is not run twice.
    """
    located = found if isinstance(found, LocateReport) and data is None else None
    try:
        verdict = gate(bundle, data=data, seed=seed, reference=garden.reference, located=located)
    except InceptionDeployError as error:
        return True, f"{type(error).__name__}: {error}"[:160]
    if verdict.outcome == "FAIL":
        return True, ", ".join(check.name for check in verdict.failed)
    return False, verdict.outcome


def _located(garden: Garden, bundle: Bundle, data: str | None) -> LocateReport | str:
    """What `locate` says; its error where it cannot."""
    try:
        return locate(bundle, data=data, reference=garden.reference, memory=garden.memory)
    except InceptionDeployError as error:
        return f"{type(error).__name__}: {error}"


def _first(found: LocateReport | str, blocks: Sequence[str]) -> tuple[str, bool, str]:
    """What `locate` names first, whether that is right, and the cause it names."""
    if isinstance(found, str):
        return found[:160], False, ""
    first = found.first
    if first is None:
        return "", False, ""
    cause = first.causes[0] if first.causes else first.said
    return f"{first.stage} {first.place.block}", first.place.block in blocks, cause[:160]


def _planned(
    chosen: Sequence[Subject], faults: Sequence[Fault]
) -> Iterator[tuple[Subject, PrecisionName, Fault | None, int]]:
    """All cases, those of one bundle together; None is a clean run."""
    for subject in chosen:
        for number, precision in enumerate(PRECISION_OF_SEED):
            for fault in faults:
                for seed in range(SEEDS):
                    own = fault.precisions
                    wanted = PRECISION_OF_SEED[seed] if len(own) == 3 else own[seed % len(own)]
                    if wanted == precision:
                        yield subject, precision, fault, seed
            for run in range(CLEAN):
                yield subject, precision, None, CLEAN * number + run


def _key(planned: tuple[Subject, PrecisionName, Fault | None, int]) -> tuple[str, str, int]:
    subject, _, fault, seed = planned
    return subject.name, fault.name if fault else "none", seed


def clean_case(garden: Garden, run: int, folder: Path) -> Case:
    """The gate and `locate` without any fault: whatever they find is a false alarm.

    Args:
        run: 0 asks about the bundle that faults are planted in; 1 and 2 judge it on images in
            another order; 3 on a bundle exported anew, with other golden and calibration images.
        folder: empty.
    """
    bundle = garden.bundle
    if run == EXPORTED_ANEW:
        recipe = garden.subject.recipe(garden.precision)
        bundle = deploy(recipe.but(seed=run), folder / "bundle")
    started = time.perf_counter()
    found = _located(garden, bundle, None)
    caught, by = _gate(garden, bundle, None, found, seed=run)
    located, _, cause = _first(found, ())
    return Case(
        garden.subject.name,
        "none",
        garden.precision,
        run,
        "none",
        "clean",
        (),
        True,
        0.0,
        0.0,
        caught,
        by,
        located,
        False,
        cause,
        round(time.perf_counter() - started, 2),
    )


@click.command()
@click.option("--network", "networks", multiple=True, help="Only these.")
@click.option("--fault", "names", multiple=True, help="Only these.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path("build/mutation"))
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
@click.option("--tabulate", is_flag=True, help="Run nothing; write the table of what there is.")
@click.option(
    "--page", "markdown", type=click.Path(path_type=Path), help="Run nothing; write --out as text."
)
def main(
    networks: tuple[str, ...],
    names: tuple[str, ...],
    folder: Path,
    out: Path,
    tabulate: bool,
    markdown: Path | None,
) -> None:
    """Plant every fault in every network, and write who noticed."""
    if markdown is not None:
        markdown.write_text(page(json.loads(out.read_text(encoding="utf-8"))), encoding="utf-8")
        return
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / "cases.jsonl"
    known = read(state)
    everything = list(_planned(subjects(folder), list(FAULTS)))
    chosen = [s for s in subjects(folder) if not networks or s.name in networks]
    faults = [fault for fault in FAULTS if not names or fault.name in names]
    planned = list(_planned(chosen, faults))
    started = time.perf_counter()
    waiting = [] if tabulate else [p for p in planned if _key(p) not in known]
    garden: Garden | None = None
    for done, (subject, precision, fault, seed) in enumerate(waiting, 1):
        if garden is None or (garden.subject, garden.precision) != (subject, precision):
            garden = Garden(subject, precision)
        key = _key((subject, precision, fault, seed))
        if fault is None:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                found = clean_case(garden, seed % CLEAN, Path(place))
                case: Case | None = replace(found, seed=seed)
        else:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                case = run_case(garden, fault, seed, Path(place))
        known[key] = case
        here = {"network": key[0], "fault": key[1], "seed": seed, "no_place": True}
        append(state, here if case is None else asdict(case))
        if done % 20 == 0 or done == len(waiting):
            left = (time.perf_counter() - started) / done * (len(waiting) - done)
            click.echo(
                f"{done}/{len(waiting)}  {subject.name} {precision}  {left / 60:.0f} min left"
            )
    cases = [case for case in known.values() if case is not None]
    if out == RESULTS and (networks or names):
        click.echo("a part of the cases only: the results are left as they are")
    else:
        write(cases, known, out, waiting=sum(_key(p) not in known for p in everything))
    click.echo(json.dumps(summary(cases)["total"], indent=2))


if __name__ == "__main__":
    main()
