"""Mutation score: faults planted in correct bundles, and who notices.

    python -m benchmarks.mutation                     everything → results/mutation.json
    python -m benchmarks.mutation --network xception  one network (more than one may be named)
    python -m benchmarks.mutation --fault ceil_mode   one kind of fault

For every network of the family, and the trained ones of the package, correct small bundles are made
(`benchmarks/subjects.py`). Then one fault at a time is planted (`benchmarks/faults/`), and the gate
and `locate` are asked about the bundle as if nothing was known. Every case is appended to a file of
its own as soon as it is done, so that a run can be stopped and taken up again.

How a fault is planted. Seeds 0, 1 and 2 take a bundle in FP32, FP16 and INT8. A fault of the graph
is put into the exported graph, which then goes through the same rewrites and the same lowering as
the correct one. With seed 0 the bundle's reference.onnx has it too (the export went wrong), with
the others only model.onnx has (a rewrite went wrong). Hashes, digests of stages and facts of graphs
are then written anew, so that the bundle agrees with itself. parity.json stays as it was measured
on the correct bundle. Faults of one precision take that one with every seed.

A mutant is equivalent where the deployed graph puts out the very same bits on all images. Such a
fault is none, and is not counted. Located means: the first finding of `locate` names a block that
the fault is in.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.faults import FAULTS, Fault, Planted, Site
from benchmarks.subjects import Subject, subjects
from inception_deploy.artifact import model_digest
from inception_deploy.bundle import Bundle
from inception_deploy.calibrate import observe
from inception_deploy.channels import observe_channels
from inception_deploy.compare import reference_of_bundle
from inception_deploy.engines import ENGINES, Engine
from inception_deploy.errors import InceptionDeployError
from inception_deploy.fuse import rewritings
from inception_deploy.gate import gate
from inception_deploy.images import ImageSet
from inception_deploy.locate import LocateReport, Place, locate
from inception_deploy.locate.inputs import images_of
from inception_deploy.machine import describe, library_versions
from inception_deploy.manifest import graph_facts
from inception_deploy.observation import observed
from inception_deploy.pipeline import CHANNEL_BATCH, CHANNEL_IMAGES, deploy
from inception_deploy.precisions import PRECISIONS, Precision
from inception_deploy.precisions.int8 import Int8
from inception_deploy.ranges import Ranges
from inception_deploy.recipe import PrecisionName, Recipe
from inception_deploy.reference import Reference
from inception_deploy.targets import TARGETS

__all__ = ["RESULTS", "Case", "Garden", "main", "run_case", "summary"]

RESULTS = Path(__file__).parent / "results" / "mutation.json"

PRECISION_OF_SEED: tuple[PrecisionName, ...] = ("fp32", "fp16", "int8")
SEEDS = 3
CLEAN, EXPORTED_ANEW = 4, 3
"""Runs without a fault per bundle, and which of them exports it anew."""


@dataclass(frozen=True)
class Case:
    """One planted fault.

    Args:
        network, fault, precision, seed: which one.
        level: where the fault arises; "none" for a clean bundle.
        detail: what was planted.
        blocks: where it is.
        equivalent: every output bit is the same: no fault at all.
        moved: max |output with the fault − without| / max |without|; None where it does not run.
        top1_changed: share of images whose first choice is another one, of the deployed graph or
            against the label.
        caught: the gate does not pass it.
        by: what of the gate noticed it: the failed checks, or the error.
        located: the first finding of `locate`, as "stage block".
        right: it names a block that the fault is in.
        cause: the first cause that was named.
        seconds: of gate and locate together.
    """

    network: str
    fault: str
    precision: str
    seed: int
    level: str
    detail: str
    blocks: tuple[str, ...]
    equivalent: bool
    moved: float | None
    top1_changed: float
    caught: bool
    by: str
    located: str
    right: bool
    cause: str
    seconds: float

    @property
    def key(self) -> tuple[str, str, int]:
        """What makes it unique."""
        return self.network, self.fault, self.seed


@dataclass(frozen=True)
class Garden:
    """A correct bundle with all that planting needs, made once per network and precision."""

    subject: Subject
    precision: PrecisionName

    @cached_property
    def memory(self) -> dict[Hashable, Any]:
        """What `locate` knows of the plain export, which most mutants share."""
        return {}

    @cached_property
    def bundle(self) -> Bundle:
        return self.subject.bundle(self.precision)

    @cached_property
    def reference(self) -> Reference:
        return reference_of_bundle(self.bundle)

    @cached_property
    def exported(self) -> onnx.ModelProto:
        return onnx.load(self.bundle.reference)

    @cached_property
    def deployed(self) -> onnx.ModelProto:
        return onnx.load(self.bundle.model)

    @cached_property
    def blocks(self) -> tuple[str, ...]:
        return tuple(b["name"] for b in self.bundle.read_json("parity.json")["blocks"])

    @cached_property
    def images(self) -> ImageSet:
        return images_of(self.bundle, None)

    @cached_property
    def inputs(self) -> NDArray[np.float32]:
        return np.concatenate([batch.inputs for batch in self.images.batches()])

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        labels = self.images.dataset.labels
        assert labels is not None
        return labels[self.images.indices]

    @cached_property
    def outputs(self) -> NDArray[np.float32]:
        """Of the correct bundle on all images."""
        return self.run(self.bundle.model)

    def run(self, model: Path) -> NDArray[np.float32]:
        """A graph on all images, as its engine runs it. Raises `StageError`."""
        with ENGINES.get(str(self.bundle.manifest["target"])).session(model, threads=1) as session:
            rows = [session.run(self.inputs[i : i + 16]) for i in range(0, len(self.inputs), 16)]
        return np.concatenate(rows)

    @cached_property
    def site(self) -> Site:
        return Site(
            reference=self.exported,
            lowered=self.deployed,
            precision=self.precision,
            preprocessing=self.bundle.manifest["preprocessing"],
            table=self.bundle.read_json("calibration.json"),
            classes=int(self.bundle.manifest["weights"]["num_classes"]),
        )

    def fused(self, exported: onnx.ModelProto) -> onnx.ModelProto:
        """What the rewrites of this target make of a graph, unproven."""
        model = exported
        rewrites = TARGETS.get(str(self.bundle.manifest["target"])).rewrites(self.precision)
        for turn in rewritings(exported, rewrites, keep=self.blocks):
            model = turn.model
        return model

    @cached_property
    def _precision(self) -> Precision:
        """As `deploy` had it: with what was seen of the channels, where it wants that."""
        recipe = Recipe.from_dict(dict(self.bundle.manifest["recipe"]))
        target = TARGETS.get(recipe.target)
        precision = PRECISIONS.get(self.precision)
        precision = precision.at(target.placement, reduce_range=recipe.reduce_range)
        fused = self.fused(self.exported)
        watched = precision.watched(fused) if precision.needs_ranges else None
        if watched is None:
            return precision
        from inception_deploy.images import choose_images

        chosen = choose_images(
            recipe.calibration or recipe.data or self.reference.default_data,
            self.reference.preprocessing,
            count=recipe.calibration_size,
            seed=recipe.seed + 1,
            skip_bad=False,
            split="train",
        ).spread(CHANNEL_IMAGES)
        statistics = observe_channels(
            fused,
            (batch.inputs for batch in chosen.batches(CHANNEL_BATCH)),
            tensors=tuple(watched),
            engine=_onnxruntime(),
            total=chosen.batch_count(CHANNEL_BATCH),
        )
        return precision.informed(statistics)

    def lowered(
        self, fused: onnx.ModelProto, table: Mapping[str, Any] | None = None
    ) -> onnx.ModelProto:
        """A rewritten graph in the bundle's precision, unproven, with the correct ranges."""
        values = table or self.site.table
        ranges = None if values is None else Ranges.from_dict(values)
        if ranges is not None:
            watched = self._precision.watched(fused) or observed(fused)
            if any(name not in ranges.tensors for name in watched):
                # a tensor that the fault brought along: its range is taken as it is
                seen = observe(
                    fused, [self.inputs[:16]], engine=_onnxruntime(), data_digest="", total=1
                )
                ranges = replace(ranges, tensors={**seen.tensors, **ranges.tensors})
        return self._knowing(fused).lower(fused, ranges).model

    def _knowing(self, fused: onnx.ModelProto) -> Precision:
        """The precision, without what it knows of channels that this graph does not have.

        A fault may keep a rewrite from running that brings channels along.
        """
        precision = self._precision
        if not isinstance(precision, Int8) or not precision.statistics:
            return precision
        shapes = {v.name: v.type.tensor_type.shape.dim for v in fused.graph.value_info}
        same = {
            name: seen
            for name, seen in precision.statistics.items()
            if name not in shapes or shapes[name][1].dim_value == len(seen.mean)
        }
        return precision.informed(same)


def _onnxruntime() -> Engine:
    return ENGINES.get("onnxruntime")


def plant(garden: Garden, planted: Planted, seed: int, folder: Path) -> tuple[Bundle, str | None]:
    """The bundle with a fault in it, in `folder`, and the data to judge it on (None: its own)."""
    shutil.copytree(garden.bundle.path, folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    changed: dict[str, str] = {}
    if planted.reference is not None or planted.table is not None:
        exported = planted.reference or garden.exported
        fused = garden.fused(exported)
        deployed = garden.lowered(fused, planted.table)
        last = [s for s in manifest["stages"] if s["name"].startswith("lower/")][-1]
        changed[last["before"]] = model_digest(fused)
        if planted.reference is not None and seed == 0:
            changed[manifest["stages"][0]["after"]] = model_digest(exported)
            onnx.save(exported, folder / "reference.onnx")
    else:
        deployed = planted.lowered or garden.deployed
    table = planted.table or garden.site.table
    if table is not None and changed:
        # a table is of the graph that was lowered, and says so
        text = json.dumps({**table, "model": changed.get(table["model"], table["model"])}, indent=2)
        (folder / "calibration.json").write_text(text, encoding="utf-8")
    if deployed is not garden.deployed:
        changed[manifest["stages"][-1]["after"]] = model_digest(deployed)
        onnx.save(deployed, folder / "model.onnx")
    for stage in manifest["stages"]:
        for end in ("before", "after"):
            stage[end] = changed.get(stage[end], stage[end])
    manifest["graph"] = graph_facts(folder / "model.onnx")
    manifest["reference"] = graph_facts(folder / "reference.onnx")
    if planted.preprocessing is not None:
        manifest["preprocessing"] = dict(planted.preprocessing)
    data = None
    if planted.labels is not None:
        file = folder.with_name(f"{folder.name}-data.npz")
        labels = planted.labels(garden.labels)
        np.savez(file, images=_pictures(garden.images), labels=labels)
        data = str(file)
    return Bundle.seal(folder, manifest), data


def _pictures(images: ImageSet) -> NDArray[np.uint8]:
    """uint8 (N, H, W, 3), as they are before preprocessing."""
    return np.stack([np.asarray(s.image, np.uint8) for s in images.samples()])


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
            right=_named(str(error), planted.nodes),
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


def _named(message: str, nodes: Sequence[str]) -> bool:
    return any(node in message for node in nodes)


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


def summary(cases: Iterable[Case]) -> dict[str, Any]:
    """The mutation table: per fault and in all."""
    known = list(cases)
    mutants = [c for c in known if c.level != "none"]
    clean = [c for c in known if c.level == "none"]
    faults = list(dict.fromkeys(c.fault for c in mutants))
    return {
        "total": _row(mutants),
        "clean": {
            "runs": len(clean),
            "gate_failed": sum(c.caught for c in clean),
            "located": sum(bool(c.located) for c in clean),
        },
        "faults": {f: _row([c for c in mutants if c.fault == f]) for f in faults},
        "precisions": {
            p: _row([c for c in mutants if c.precision == p]) for p in PRECISION_OF_SEED
        },
    }


def _row(cases: Sequence[Case]) -> dict[str, Any]:
    real = [c for c in cases if not c.equivalent]
    visible = [c for c in real if c.top1_changed > 0]
    return {
        "planted": len(cases),
        "equivalent": len(cases) - len(real),
        "caught": sum(c.caught for c in real),
        "caught_percent": _percent(sum(c.caught for c in real), len(real)),
        "changing_top1": len(visible),
        "caught_of_those": sum(c.caught for c in visible),
        "caught_of_those_percent": _percent(sum(c.caught for c in visible), len(visible)),
        "located": sum(c.right for c in real),
        "located_percent": _percent(sum(c.right for c in real), len(real)),
        "by": dict(Counter(c.by.split(":")[0].split(",")[0] for c in real if c.caught)),
    }


def _percent(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 2) if whole else None


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


def _read(state: Path) -> dict[tuple[str, str, int], Case | None]:
    if not state.is_file():
        return {}
    found: dict[tuple[str, str, int], Case | None] = {}
    for line in state.read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        key = (values["network"], values["fault"], values["seed"])
        found[key] = None
        if not values.get("no_place"):
            found[key] = Case(**{**values, "blocks": tuple(values["blocks"])})
    return found


def _append(state: Path, values: Mapping[str, Any]) -> None:
    with state.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values, ensure_ascii=False) + "\n")


@click.command()
@click.option("--network", "networks", multiple=True, help="Only these.")
@click.option("--fault", "names", multiple=True, help="Only these.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path("build/mutation"))
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def main(networks: tuple[str, ...], names: tuple[str, ...], folder: Path, out: Path) -> None:
    """Plant every fault in every network, and write who noticed."""
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / "cases.jsonl"
    known = _read(state)
    chosen = [s for s in subjects(folder) if not networks or s.name in networks]
    faults = [fault for fault in FAULTS if not names or fault.name in names]
    planned = list(_planned(chosen, faults))
    started = time.perf_counter()
    waiting = [p for p in planned if (p[0].name, p[2].name if p[2] else "none", p[3]) not in known]
    garden: Garden | None = None
    for done, (subject, precision, fault, seed) in enumerate(waiting, 1):
        if garden is None or (garden.subject, garden.precision) != (subject, precision):
            garden = Garden(subject, precision)
        key = (subject.name, fault.name if fault else "none", seed)
        if fault is None:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                found = clean_case(garden, seed % CLEAN, Path(place))
                case: Case | None = replace(found, seed=seed)
        else:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                case = run_case(garden, fault, seed, Path(place))
        known[key] = case
        here = {"network": key[0], "fault": key[1], "seed": seed, "no_place": True}
        _append(state, here if case is None else asdict(case))
        if done % 20 == 0 or done == len(waiting):
            left = (time.perf_counter() - started) / done * (len(waiting) - done)
            click.echo(
                f"{done}/{len(waiting)}  {subject.name} {precision}  {left / 60:.0f} min left"
            )
    cases = [case for case in known.values() if case is not None]
    if out == RESULTS and (networks or names):
        click.echo("a part of the cases only: the results are left as they are")
    else:
        write(cases, known, out)
    click.echo(json.dumps(summary(cases)["total"], indent=2))


def write(
    cases: Sequence[Case], known: Mapping[tuple[str, str, int], Case | None], out: Path
) -> None:
    """The results, with what they were measured on."""
    missed = [c for c in cases if not c.equivalent and c.level != "none" and not c.caught]
    astray = [c for c in cases if not c.equivalent and c.level != "none" and not c.right]
    values = {
        "machine": describe().to_dict(),
        "versions": library_versions(),
        "seeds": SEEDS,
        "networks": sorted({c.network for c in cases}),
        "no_place": sum(case is None for case in known.values()),
        **summary(cases),
        "missed": [_short(c) for c in missed],
        "located_elsewhere": [_short(c) for c in astray],
    }
    out.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _short(case: Case) -> dict[str, Any]:
    values = asdict(case)
    kept = ("network", "fault", "precision", "seed", "detail", "moved", "top1_changed", "by")
    return {name: values[name] for name in (*kept, "located", "cause")}


if __name__ == "__main__":
    main()
