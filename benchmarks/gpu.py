"""The three large networks on an NVIDIA card: every engine that runs there, beside PyTorch itself.

    python -m benchmarks.gpu                       10 minutes at most → results/gpu.json
    python -m benchmarks.gpu --network inception_v3 --batch 1,32
    python -m benchmarks.gpu --device cpu --network inception_v3 --width 0.125 --image-size 75

All engines of one network at one batch size alternate in one run with PyTorch (eager, channels
last, FP16; with and without a CUDA graph) and with large matrix products on the card, whose rate is
the peak that shares refer to. Shares count the kernels' time where an engine's session tells it
from the transfers', and the whole query where not.

Compiling comes first, several bundles at once, FP16 before the rest. What the minutes do not
suffice for is named in the file, and done by the next run: bundles are kept, and so are rows of the
same card, machine and versions. `--device cpu` rehearses all of it but the card.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.gpu_bundles import SERVED, Job, Made, Shape, build_apart, missing, prepare
from benchmarks.gpu_card import card_facts, card_state, require_card
from benchmarks.gpu_contest import Contest, row_of
from benchmarks.native import CACHE, kept_rows, provenance
from inception_deploy.bundle import write_json
from inception_deploy.cli.options import parse_batches
from inception_deploy.errors import BadInput, InceptionDeployError
from inception_deploy.machine import describe
from inception_deploy.networks import NETWORKS
from inception_deploy.recipe import BatchProfile

__all__ = ["NETWORKS_MEASURED", "RESULTS", "Plan", "main", "run"]

RESULTS = Path(__file__).parent / "results" / "gpu.json"
REHEARSAL = CACHE / "gpu-rehearsal.json"

NETWORKS_MEASURED = ("inception_v3", "inception_v4", "inception_resnet_v2")
BATCHES = (1, 32, 256)
PREPARING = 0.6
"""Share of the minutes after which nothing more is compiled."""
LIMIT = 240.0
"""Seconds for one bundle."""
WARMING = 1.5
"""Seconds per candidate and batch size beside the measurement: capture, warm-up, the last round."""


class Plan:
    """What a run is asked for, and until when.

    Args:
        device: "cuda", or "cpu" for a rehearsal.
        seconds: per candidate and batch size.
        minutes: of the whole run.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        device: str,
        seconds: float,
        minutes: float,
        batches: Sequence[int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.device, self.seconds, self.batches, self.clock = device, seconds, batches, clock
        self.started = clock()
        self.compiled_by = self.started + 60 * PREPARING * minutes
        self.over = self.started + 60 * minutes

    def suffices_for(self, candidates: int) -> bool:
        """Whether so many can still be measured at one batch size."""
        return self.clock() + candidates * (self.seconds + WARMING) <= self.over


def run(
    networks: Sequence[str],
    targets: Mapping[str, Sequence[str]],
    shape: Shape,
    plan: Plan,
    folder: Path,
    stored: Mapping[str, Any],
    *,
    again: bool,
    make: Callable[[Sequence[Job]], Made],
    keep: Callable[[Mapping[str, Any]], None],
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Compile, then measure, as far as the time goes.

    Args:
        targets: target → precisions.
        stored: of an earlier run; its rows are kept where they are of this place and complete.
        make: `prepare`.
        keep: takes the results whenever there is a row more.

    Returns:
        The results.
    """
    order = [(n, t, p) for t, precisions in targets.items() for p in precisions for n in networks]
    # FP16 first: it is what the peers compute in, and the rest can wait for another run
    jobs = sorted((Job(*entry) for entry in order), key=lambda job: job.precision != "fp16")
    now = _place(plan.device)
    unavailable = {t: why for t, why in missing(plan.device).items() if t in targets}
    made = make([job for job in jobs if job.target not in unavailable])
    left = [f"{job.network} {job.key}: {why}" for job, why in made.late.items()]
    results: dict[str, Any] = {
        "command": "python -m benchmarks.gpu",
        "device": plan.device,
        **now,
        "seconds": plan.seconds,
        "unavailable": unavailable,
        "refused": {f"{job.network} {job.key}": why for job, why in made.refused.items()},
        "left_out": left,
        "rows": [] if again else kept_rows(stored, {"device": plan.device, **now}),
    }
    keep(results)
    for network in networks:
        bundles = {job: made.bundles[job] for job in jobs if job in made.bundles}
        bundles = {job: path for job, path in bundles.items() if job.network == network}
        wanted = [b for b in plan.batches if not _done(results["rows"], network, b, bundles)]
        if not bundles:
            left.append(f"{network}: no engine has a bundle of it")
            continue
        if wanted and plan.suffices_for(len(bundles)):
            with ExitStack() as stack:
                contest = Contest(stack, network, shape, bundles, plan.device)
                while wanted and plan.suffices_for(len(contest.candidates)):
                    batch = wanted.pop(0)
                    before = _state(plan.device)
                    row = row_of(contest, batch, plan.seconds)
                    row["card"] = {"before": before, "after": _state(plan.device)}
                    results["rows"] = _with(results["rows"], row, networks)
                    keep(results)
                    for line in _lines(row):
                        tell(line)
        left += [f"{network}, batch {batch}: the minutes were up" for batch in wanted]
    keep(results)
    return results


def _place(device: str) -> dict[str, Any]:
    """What figures can be laid beside: the machine, the versions, the card."""
    return {**provenance(), "card": card_facts() if device == "cuda" else None}


def _state(device: str) -> dict[str, Any]:
    return card_state() if device == "cuda" else {}


def _done(
    rows: Sequence[Mapping[str, Any]], network: str, batch: int, bundles: Mapping[Job, Path]
) -> bool:
    """Whether there is a row with everything that could be measured now."""
    known = [r for r in rows if (r["network"], r["batch"]) == (network, batch)]
    had = {f"{f['engine']}:{f['name']}" for row in known for f in row["figures"]}
    had |= {key for row in known for key in row["failed"]}
    return bool(known) and {job.key for job in bundles} <= had


def _with(
    rows: Sequence[dict[str, Any]], row: dict[str, Any], networks: Sequence[str]
) -> list[dict[str, Any]]:
    """The rows with one more, in its place; it takes that of an earlier one."""
    key = (row["network"], row["batch"])
    others = [r for r in rows if (r["network"], r["batch"]) != key]
    order = [*networks, *(r["network"] for r in others)]
    return sorted([*others, row], key=lambda r: (order.index(r["network"]), r["batch"]))


def _lines(row: Mapping[str, Any]) -> list[str]:
    where = f"{row['network']}, batch {row['batch']}"
    measured = [
        f"{where}: {f['engine']} {f['name']} {f['images_per_second']:,.0f} images/s, "
        f"p50 {f['p50_ms']:.3g} ms, p99 {f['p99_ms']:.3g} ms, "
        f"{f['share_of_fp16_peak']:.1%} of the FP16 peak ({f['share_of']})"
        for f in row["figures"]
    ]
    return measured + [f"{where}: failed: {key}: {why}" for key, why in row["failed"].items()]


def _folder(root: Path, device: str, shape: Shape) -> Path:
    """Of the bundles: they belong to versions, a card and a shape."""
    facts = json.dumps([_place(device), str(shape)], sort_keys=True)
    return root / f"{device}-{hashlib.sha256(facts.encode()).hexdigest()[:12]}"


def _measured(options: Mapping[str, Any]) -> dict[str, Any]:
    device = options["device"]
    if device == "cuda":
        require_card()
    networks = options["networks"] or NETWORKS_MEASURED
    for network in networks:
        NETWORKS.get(network)
    batches = sorted(parse_batches(options["batch"]))
    if device == "cuda" and (options["width"] or options["image_size"]):
        raise BadInput("figures of a card are of native networks; narrow ones are for --device cpu")
    shape = Shape(
        BatchProfile(1, batches[len(batches) // 2], batches[-1]),
        options["width"],
        options["image_size"],
    )
    plan = Plan(device, options["seconds"], options["minutes"], batches)
    chosen = options["engines"] or tuple(SERVED)
    wanted = options["precisions"]
    targets = {t: [p for p in SERVED[t] if not wanted or p in wanted] for t in chosen}
    path = options["out"] or (RESULTS if device == "cuda" else REHEARSAL)
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    tell = partial(click.echo, err=False)
    cores = describe().cores
    workers = options["workers"] or max(1, cores // 2)
    folder = _folder(options["bundles"], device, shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    found = run(
        networks,
        targets,
        shape,
        plan,
        folder,
        stored,
        again=options["again"],
        make=partial(
            prepare,
            folder=folder,
            shape=shape,
            until=plan.compiled_by,
            limit=LIMIT,
            workers=workers,
            build=partial(build_apart, threads=max(1, cores // workers)),
            tell=tell,
        ),
        keep=partial(write_json, path),
        tell=tell,
    )
    for what in ("unavailable", "refused"):
        for name, why in found[what].items():
            tell(f"{what}: {name}: {why}")
    for line in found["left_out"]:
        tell(f"left out: {line}")
    tell(f"rows in {path}: {len(found['rows'])}")
    return found


@click.command()
@click.option("--network", "networks", multiple=True, help="[default: the three large ones]")
@click.option("--batch", default=",".join(map(str, BATCHES)), show_default=True)
@click.option("--engine", "engines", multiple=True, type=click.Choice(list(SERVED)))
@click.option("--precision", "precisions", multiple=True)
@click.option("--seconds", default=1.0, show_default=True, help="Per candidate and batch size.")
@click.option("--minutes", default=9.5, show_default=True, help="Of the whole run.")
@click.option("--workers", type=int, help="Bundles made at once.  [default: half of the cores]")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--width", type=float, help="Of narrow networks, for a rehearsal.")
@click.option("--image-size", type=int, help="Of small images, for a rehearsal.")
@click.option("--bundles", type=click.Path(path_type=Path), default=CACHE / "gpu")
@click.option("--out", type=click.Path(path_type=Path), help="[default: results/gpu.json]")
@click.option("--again", is_flag=True, help="Also rows that are there already.")
def main(**options: Any) -> None:
    """Measure an NVIDIA card; exit code 3 where there is none."""
    torch.backends.cudnn.benchmark = False
    try:
        _measured(options)
    except InceptionDeployError as error:
        click.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
