"""The whole family at native width and size through the whole way, on random weights.

    python -m benchmarks.family                 all networks → results/family.json
    python -m benchmarks.family inception_v3    one network, its row in the file written anew

Every network has a process of its own, which takes two bundles through `deploy`: FP32 from
`--weights random`, and FP16 from a file of the same weights with a centred classifier. Without
that, features have a large part in common to all images, and one class wins them all: a first
choice that cannot change shows nothing.

Margin rule. An image is a near tie where the reference's lead of the first logit over the second is
at most 2ε; first choices are compared on the others, and there all must agree. ε is the largest
error of any logit over the golden images, as the engine runs the FP16 graph here. None of the
golden images is among the compared ones, so agreement is not implied; and near ties may be a
quarter of the images at most.
"""

from __future__ import annotations

import gc
import json
import math
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import click
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from inception_deploy.artifact import FloatArray
from inception_deploy.bundle import Bundle
from inception_deploy.engines import ENGINES
from inception_deploy.images import choose_images
from inception_deploy.machine import describe, library_versions
from inception_deploy.networks import NETWORKS, InceptionNetwork, NetworkSpec
from inception_deploy.parity import LabelledBatch, ParityReport, Predictor, compare
from inception_deploy.pipeline import deploy, reference_of
from inception_deploy.random_weights import random_network
from inception_deploy.recipe import Recipe
from inception_deploy.throughput.macs import macs_per_node
from inception_deploy.trials import torch_predictor
from inception_deploy.verify import verify

__all__ = [
    "BOUND",
    "CLEAR",
    "IMAGES",
    "RESULTS",
    "Choices",
    "Row",
    "centre_classifier",
    "choices",
    "in_a_process",
    "main",
    "measure",
]

RESULTS = Path(__file__).parent / "results" / "family.json"

BOUND = 1e-4
"""Largest error of an FP32 graph, of logits and of every block, relative to the largest value."""

IMAGES = 64
"""Whose first choices are compared."""

CLEAR = 40
"""How many of them must not be near ties: random networks at native size have up to 17 of 64."""

SEED = 0
SEEN, GOLDEN = 8, 4
"""Images for calibration and for centring; of a bundle's golden and its own parity."""


@dataclass(frozen=True)
class Choices:
    """First choices of two networks on the same images.

    Args:
        images: how many.
        classes: different first choices of the reference.
        agreeing: images with one first choice.
        near_ties: images on which the reference's lead is at most `margin`.
        clear_disagreeing: images that are none and have two first choices.
        margin: 2ε, in units of the logits.
        error: largest error of a logit over all these images, relative to the largest logit.
    """

    images: int
    classes: int
    agreeing: int
    near_ties: int
    clear_disagreeing: int
    margin: float
    error: float


@dataclass(frozen=True)
class Row:
    """One network.

    Args:
        size: side of its images, pixels.
        params: as the manifest counts them.
        macs: multiply-adds of convolutions and linear layers, counted in the exported graph.
        fp32_error, fp32_block_error: max |deployed − PyTorch| / max |PyTorch| of the logits, as the
            engine runs them, and of the worst block.
        worst_block: that block.
        fp16_error: of the logits over the golden images, the larger of here and as a device rounds.
        fp16_bound: what the precision states for it.
        fp16: first choices.
        problems: what `verify` found in the two bundles.
        seconds: wall time of everything.
        peak_gib: most resident memory of the process.
    """

    network: str
    size: int
    params: int
    macs: int
    fp32_error: float
    fp32_block_error: float
    worst_block: str
    fp16_error: float
    fp16_bound: float
    fp16: Choices
    problems: tuple[str, ...]
    seconds: float
    peak_gib: float

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`, also by way of JSON."""
        fp16, problems = Choices(**values["fp16"]), tuple(values["problems"])
        return cls(**{**values, "fp16": fp16, "problems": problems})


@torch.no_grad()
def centre_classifier(module: InceptionNetwork, classifier: str, images: Tensor) -> None:
    """Shift the bias of `classifier`, in place, so that each logit's mean over `images` is zero."""
    layer = module.get_submodule(classifier)
    assert isinstance(layer, nn.Linear)
    rows = [module(images[i : i + SEEN]) for i in range(0, len(images), SEEN)]
    layer.bias.sub_(torch.cat(rows).mean(0))


def choices(
    predict: Predictor, graph: bytes | Path, batches: Iterable[LabelledBatch], margin: float
) -> Choices:
    """First choices of a reference and of `graph` on ONNX Runtime, which optimises as it likes."""
    with ENGINES.get("onnxruntime").session(graph) as session:
        return choices_of(predict, session.run, batches, margin)


def choices_of(
    predict: Predictor, run: Predictor, batches: Iterable[LabelledBatch], margin: float
) -> Choices:
    """First choices of a reference and of whatever `run` runs."""
    chosen: list[int] = []

    def reference(inputs: FloatArray) -> NDArray[Any]:
        outputs = predict(inputs)
        chosen.extend(outputs.argmax(1).tolist())
        return outputs

    report: ParityReport = compare(reference, run, batches, head="logits", near_tie_margin=margin)
    near, agreement = report.near_ties, report.top1_agreement
    assert near is not None
    assert agreement is not None
    images = report.data.images
    agreeing = round(agreement / 100 * images)
    return Choices(
        images=images,
        classes=len(set(chosen)),
        agreeing=agreeing,
        near_ties=near.images,
        clear_disagreeing=images - agreeing - near.disagreeing,
        margin=margin,
        error=report.max_rel_error,
    )


def measure(name: str, size: int | None = None) -> Row:
    """Take the network through the whole way, twice.

    Args:
        size: side of the images, pixels; as published unless given.
    """
    started = time.perf_counter()
    spec = NETWORKS.get(name)
    recipe = Recipe(
        network=name,
        weights=f"random:{SEED}",
        image_size=size,
        data_size=GOLDEN,
        calibration_size=SEEN,
        seconds=0.0,
    )
    with tempfile.TemporaryDirectory() as folder:
        plain = deploy(recipe, Path(folder) / "fp32")
        parity = plain.read_json("parity.json")
        worst = max(parity["blocks"], key=lambda block: _known(block["max_rel_error"]))
        macs = sum(macs_per_node(onnx.load(plain.reference)).values())
        gc.collect()
        half, fp16 = _half(spec, recipe, Path(folder))
        lowered = half.manifest["stages"][-1]
        problems = [
            f"{bundle.path.name}: {check.subject} {check.problem}"
            for bundle in (plain, half)
            for check in verify(bundle)
            if not check.ok
        ]
    return Row(
        network=name,
        size=plain.preprocessing.size,
        params=plain.manifest["network"]["params"],
        macs=macs,
        fp32_error=max(parity["max_rel_error"], parity["golden"]["max_rel_error"]),
        fp32_block_error=worst["max_rel_error"],
        worst_block=worst["name"],
        fp16_error=lowered["error"],
        fp16_bound=lowered["bound"],
        fp16=fp16,
        problems=tuple(problems),
        seconds=round(time.perf_counter() - started, 1),
        peak_gib=round(_peak_gib(), 2),
    )


def _half(spec: NetworkSpec, recipe: Recipe, folder: Path) -> tuple[Bundle, Choices]:
    """The FP16 bundle of centred weights, and its first choices on images it has not seen."""
    weights = folder / "centred.safetensors"
    recipe = recipe.but(weights=str(weights), precision="fp16")
    size = recipe.image_size or spec.input_size
    drawn = random_network(spec, SEED, num_classes=spec.num_classes, width=1.0, image_size=size)
    save_file(drawn.state_dict(), weights)
    del drawn
    reference = reference_of(recipe)  # as the file's layout has it: preprocessing, variant
    seen = choose_images(
        None, reference.preprocessing, count=SEEN, seed=SEED, skip_bad=False, split="train"
    )
    images = np.concatenate([batch.inputs for batch in seen.batches()])
    centre_classifier(reference.module, spec.classifier, torch.from_numpy(images))
    save_file(reference.module.state_dict(), weights)
    bundle = deploy(recipe, folder / "fp16")
    gc.collect()
    scale = float(np.abs(bundle.golden().outputs).max())
    margin = 2 * bundle.manifest["stages"][-1]["facts"]["error_here"] * scale
    fresh = choose_images(
        None, bundle.preprocessing, count=GOLDEN + IMAGES, seed=SEED, skip_bad=False
    )
    fresh = replace(fresh, indices=np.arange(GOLDEN, GOLDEN + IMAGES))
    return bundle, choices(torch_predictor(reference.module), bundle.model, fresh.batches(), margin)


def _known(error: float | None) -> float:
    """Infinite where there is none: a block that cannot be compared is not a small error."""
    return math.inf if error is None else error


def _peak_gib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20


def in_a_process(name: str) -> Row:
    """`measure` in a process of its own: nothing of another network is left in its memory."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        return executor.submit(measure, name).result()


def _recorded(versions: dict[str, str], machine: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows that are there already, if they are of these versions on this machine."""
    if not RESULTS.is_file():
        return {}
    facts = json.loads(RESULTS.read_text(encoding="utf-8"))
    same = facts["versions"] == versions and facts["machine"] == machine
    return {row["network"]: row for row in facts["networks"]} if same else {}


@click.command()
@click.argument("networks", nargs=-1)
def main(networks: tuple[str, ...]) -> None:
    """Measure NETWORKS, all where none is named, and write their rows."""
    machine, versions = describe().to_dict(), library_versions()
    rows = _recorded(versions, machine)
    for name in networks or NETWORKS.names():
        row = in_a_process(name)
        rows[name] = asdict(row)
        click.echo(
            f"{name:20s} {row.seconds:6.1f} s {row.peak_gib:5.2f} GiB  fp32 {row.fp32_error:.1e} "
            f"blocks {row.fp32_block_error:.1e}  fp16 {row.fp16_error:.1e} "
            f"{row.fp16.agreeing}/{row.fp16.images} agree, {row.fp16.near_ties} near ties, "
            f"{row.fp16.classes} classes"
        )
        facts = {
            "command": "python -m benchmarks.family",
            "bound": BOUND,
            "networks": [rows[known] for known in NETWORKS.names() if known in rows],
            "machine": machine,
            "versions": versions,
        }
        RESULTS.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
