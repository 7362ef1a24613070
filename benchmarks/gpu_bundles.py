"""Bundles for `benchmarks.gpu`, several made at once, each in a process of its own with a limit.

    python -m benchmarks.gpu_bundles inception_v3 torch-inductor fp16 DIRECTORY

A compiler that crashes or never ends costs its own bundle and no more. What is made stays, as do
refusals; what ran out of time is tried again by the next run.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import click
import numpy as np

from benchmarks.native import noise_images
from inception_deploy.engines import ENGINES
from inception_deploy.errors import InceptionDeployError
from inception_deploy.networks import NETWORKS
from inception_deploy.pipeline import deploy
from inception_deploy.recipe import BatchProfile, PrecisionName, Recipe, TargetName
from inception_deploy.targets import TARGETS

__all__ = ["SERVED", "Job", "Made", "Shape", "build", "build_apart", "missing", "prepare"]

SERVED: Mapping[str, tuple[PrecisionName, ...]] = {
    "torch-inductor": ("fp16", "bf16", "fp32"),
    "onnxruntime": ("fp16", "fp32"),
    "tensorrt": ("fp16", "int8", "bf16", "fp8"),
    "tensorrt-rtx": ("fp16", "int8", "bf16", "fp8"),
}
"""Targets that run on an NVIDIA card, and the precisions that are worth measuring there."""

IMAGES, COMPARED = 8, 2
"""For ranges, and for parity: speed depends on neither, and parity is not what is asked here."""

_THREADS = ("OMP_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS")

_REFUSED = (1, 2)
"""Exit codes of a refusal: the graph, or the request. Everything else may go better next time."""


@dataclass(frozen=True)
class Shape:
    """What all bundles of a run have in common.

    Args:
        batch: sizes that will be measured.
        width, image_size: of narrow networks for a rehearsal; None takes the published ones.
    """

    batch: BatchProfile
    width: float | None = None
    image_size: int | None = None


@dataclass(frozen=True)
class Job:
    """One bundle."""

    network: str
    target: str
    precision: str

    @property
    def key(self) -> str:
        """As a candidate is called: "torch-inductor:fp16"."""
        return f"{TARGETS.get(self.target).engine}:{self.precision}"


@dataclass(frozen=True)
class Made:
    """What became of the jobs.

    Args:
        bundles: those that are there.
        refused, late: those that are not, with what was said; late ones ran out of time.
    """

    bundles: Mapping[Job, Path]
    refused: Mapping[Job, str]
    late: Mapping[Job, str]


Build = Callable[[Job, Path, Shape, float], tuple[int, str]]
"""Makes a bundle in a directory within so many seconds: exit code (-1 for too late), last line."""


def missing(device: str) -> dict[str, str]:
    """Targets that cannot run on "cuda" or "cpu" here, with the reason."""
    found = {}
    for target in SERVED:
        known = ENGINES.get(TARGETS.get(target).engine).availability()
        if device.upper() not in known.devices or not known.ok:
            found[target] = " ".join((known.obstacle or known.detail or "not here").split())
    return found


def prepare(
    jobs: Sequence[Job],
    folder: Path,
    shape: Shape,
    *,
    until: float,
    limit: float,
    workers: int,
    build: Build,
    tell: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> Made:
    """Make the bundles that are not there yet, in the order of `jobs` as far as time allows.

    Args:
        folder: one below it per network.
        until: time of `clock` at which the last one is given up.
        limit: seconds for one.
        workers: bundles made at once.
        tell: takes a line when one is done.
    """
    done: dict[Job, Path] = {}
    refused: dict[Job, str] = {}
    late: dict[Job, str] = {}

    def one(job: Job) -> None:
        path = folder / job.network / f"{job.target}-{job.precision}"
        said = path.with_suffix(".txt")
        if (path / "manifest.json").is_file():
            done[job] = path
            return
        if said.is_file():
            refused[job] = said.read_text(encoding="utf-8")
            return
        started = clock()
        seconds = min(limit, until - started)
        if seconds <= 0:
            late[job] = "left out: the time for compiling was up before its turn"
            return
        code, line = build(job, path, shape, seconds)
        took = clock() - started
        if code == 0:
            done[job] = path
            tell(f"{job.network} {job.key}: made in {took:.0f} s")
            return
        if code in _REFUSED:
            refused[job] = line
            said.write_text(line, encoding="utf-8")
        else:
            late[job] = f"left out: not done within {seconds:.0f} s" if code == -1 else line
        tell(f"{job.network} {job.key}: {line or late[job]}")

    for network in {job.network for job in jobs}:
        (folder / network).mkdir(parents=True, exist_ok=True)
        _write_images(network, folder / network / "images.npz", shape)
    with ThreadPoolExecutor(workers) as pool:
        for future in [pool.submit(one, job) for job in jobs]:
            future.result()
    return Made(done, refused, late)


def build_apart(
    job: Job, path: Path, shape: Shape, seconds: float, *, threads: int = 1
) -> tuple[int, str]:
    """`build` in a process of its own, ended with all of its compilers when the time is up.

    Args:
        threads: of PyTorch in it, and compilers that it starts at once.
    """
    options = json.dumps({**asdict(shape), "batch": str(shape.batch)})
    command = [sys.executable, "-m", "benchmarks.gpu_bundles", "--shape", options]
    command += [job.network, job.target, job.precision, str(path.absolute())]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **dict.fromkeys(_THREADS, str(threads))},
        cwd=Path(__file__).parents[1],
    )
    try:
        _, errors = process.communicate(timeout=seconds)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        for half in path.parent.glob(f".{path.name}.*"):  # where it was writing
            shutil.rmtree(half)
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        return -1, ""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    last = lines[-1] if lines else f"its process ended with code {process.returncode}"
    # a signal that ended it is no verdict on the graph
    return (process.returncode if process.returncode >= 0 else 3), last


def build(job: Job, path: Path, shape: Shape) -> None:
    """Make one bundle.

    Raises:
        InceptionDeployError: as `deploy`.
    """
    images = str(path.with_name("images.npz").absolute())
    recipe = Recipe(
        network=job.network,
        weights="random:0",
        width=shape.width,
        image_size=shape.image_size,
        target=cast(TargetName, job.target),
        precision=cast(PrecisionName, job.precision),
        batch=shape.batch,
        calibration=images,
        calibration_size=IMAGES,
        data=images,
        data_size=COMPARED,
        seconds=0.0,
    )
    deploy(recipe, path)


def _write_images(network: str, path: Path, shape: Shape) -> None:
    if path.is_file():
        return
    preprocessing = NETWORKS.get(network).preprocessing
    if shape.image_size is not None:
        preprocessing = preprocessing.with_size(shape.image_size)
    with path.open("wb") as file:
        np.savez(file, input=noise_images(preprocessing, IMAGES))


@click.command()
@click.argument("network")
@click.argument("target")
@click.argument("precision")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--shape", "text", required=True, help="JSON of `Shape`.")
def main(network: str, target: str, precision: str, directory: Path, text: str) -> None:
    """Make one bundle in DIRECTORY; its folder holds images.npz."""
    values: dict[str, Any] = json.loads(text)
    shape = Shape(**{**values, "batch": BatchProfile.parse(values["batch"])})
    try:
        build(Job(network, target, precision), directory, shape)
    except InceptionDeployError as error:
        click.echo(" ".join(str(error).split()), err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
