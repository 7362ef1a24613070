"""Train one of the small networks shipped with the package, on the built-in task `shapes`.

    python -m benchmarks.train_embedded googlenet

The images are made once, into a temporary memory-mapped file, and seen once per epoch, each time
in one of the eight symmetries of the square (no class is chiral, and none depends on "up").
Writes `<network>.safetensors` and `<network>.json`; `docs/embedded.md` shows the figures.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.image_pool import Pixels, render
from inception_deploy.embedded import EMBEDDED_DIR
from inception_deploy.networks import NETWORKS, InceptionNetwork
from inception_deploy.preprocess import Preprocessing
from inception_deploy.shapes import CLASS_NAMES, NATIVE_SIZE, Shapes

__all__ = ["Plan", "evaluate", "main", "train"]

Log = Callable[[str], None]


@dataclass(frozen=True)
class Shipped:
    """The settings that made the network in the package.

    Args:
        width: such that the FP32 file stays below 4 MB.
        build: further arguments of the network's constructor.
        epochs, rate: as in `Plan`.
    """

    width: float
    build: dict[str, Any]
    epochs: int
    rate: float


SHIPPED = {
    "googlenet": Shipped(0.4, {}, 3, 2e-3),
    # residuals scaled by 0.1–0.2 start slowly: they need the higher rate and one more epoch
    "inception_resnet_v2": Shipped(0.21, {"repeats": [3, 5, 2]}, 4, 4e-3),
}


@dataclass(frozen=True)
class Plan:
    """What a training run consists of.

    Args:
        seed: of the images, the initial weights, the order and the symmetries.
        images: distinct training images.
        epochs: times each is seen.
        batch: images per step.
        rate: peak learning rate; linear warm-up over 3 % of the steps, then a cosine to 0.
        decay: AdamW's decoupled weight decay, of convolution and linear weights.
        smoothing: label smoothing.
        size: side of the images, pixels.
    """

    seed: int
    images: int
    epochs: int
    batch: int = 64
    rate: float = 2e-3
    decay: float = 0.05
    smoothing: float = 0.0
    size: int = NATIVE_SIZE

    @property
    def steps(self) -> int:
        return self.epochs * (self.images // self.batch)

    def rate_at(self, step: int) -> float:
        """Learning rate of a step."""
        warm = max(round(0.03 * self.steps), 1)
        if step < warm:
            return self.rate * (step + 1) / warm
        return self.rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / (self.steps - warm)))


def _to_input(pixels: Pixels, preprocessing: Preprocessing) -> Tensor:
    return torch.from_numpy(preprocessing.normalise(pixels)).to(memory_format=torch.channels_last)


def _turned(pixels: Pixels, symmetry: int) -> Pixels:
    """One of the eight symmetries of the square: four quarter turns, mirrored or not."""
    turned = np.rot90(pixels, symmetry % 4, axes=(1, 2))
    return np.asarray(turned[:, :, ::-1] if symmetry >= 4 else turned)


def _batches(
    plan: Plan, pool: Pixels, labels: npt.NDArray[np.int64]
) -> Iterator[tuple[Pixels, npt.NDArray[np.int64]]]:
    """Shuffled training batches, each turned as a whole."""
    rng = np.random.default_rng(np.random.SeedSequence((plan.seed, 2)))
    for _ in range(plan.epochs):
        order = rng.permutation(plan.images)
        for first in range(0, plan.images - plan.batch + 1, plan.batch):
            chosen = np.sort(order[first : first + plan.batch])
            yield _turned(pool[chosen], int(rng.integers(8))), labels[chosen]


def _parameter_groups(network: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Weights decay; biases and batch-norm scales (one-dimensional) do not."""
    parameters = list(network.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def train(
    network: InceptionNetwork, plan: Plan, preprocessing: Preprocessing, pool: Pixels, log: Log
) -> None:
    """Train in place: AdamW, bfloat16 autocast, channels-last.

    AdamW leaves the initial plateau at chance after some 150 steps, SGD with Nesterov momentum
    after 250 to 400; the small width makes both start slowly.
    """
    labels = Shapes(plan.seed, "train", plan.size).labels(plan.images)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.train()
    optimiser = torch.optim.AdamW(_parameter_groups(network, plan.decay), plan.rate)
    started, recent_loss, recent_hits = time.perf_counter(), 0.0, 0.0
    every = max(plan.steps // 40, 1)
    for step, (pixels, target) in enumerate(_batches(plan, pool, labels)):
        for group in optimiser.param_groups:
            group["lr"] = plan.rate_at(step)
        truth = torch.from_numpy(target)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(_to_input(pixels, preprocessing))
        loss = F.cross_entropy(logits.float(), truth, label_smoothing=plan.smoothing)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        recent_loss += loss.item() / every
        recent_hits += (logits.argmax(1) == truth).float().mean().item() / every
        if (step + 1) % every == 0:
            seconds = time.perf_counter() - started
            log(
                f"{step + 1:6d}/{plan.steps} steps  {seconds:6.0f} s  loss {recent_loss:.3f}  "
                f"train top-1 {100 * recent_hits:.1f} %"
            )
            recent_loss = recent_hits = 0.0
    network.eval()


@torch.inference_mode()
def evaluate(
    network: InceptionNetwork, source: Shapes, count: int, preprocessing: Preprocessing
) -> float:
    """Top-1 in percent on the first `count` images of `source`, in FP32."""
    network.eval()
    hits = 0
    for first in range(0, count, 100):
        indices = range(first, min(first + 100, count))
        logits = network(_to_input(np.stack([source.image(i) for i in indices]), preprocessing))
        truth = np.array([source.label(i) for i in indices])
        hits += int((logits.argmax(1).numpy() == truth).sum())
    return 100 * hits / count


def _hardware() -> str:
    """CPU model and how many of its cores this process may use."""
    info = Path("/proc/cpuinfo")
    model = platform.processor() or platform.machine()
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].split(":", 1)[1].strip() if lines else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} cores"


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)


@click.command()
@click.argument("name", metavar="NETWORK", type=click.Choice(list(SHIPPED)))
@click.option("--width", type=float, help="Width multiplier.  [default: the shipped one]")
@click.option("--repeats", help="Residual blocks per stage, e.g. 3,5,2 (inception_resnet_v2).")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--images", type=int, default=100_000, show_default=True, help="Distinct images.")
@click.option("--epochs", type=int, help="Passes over them.  [default: the shipped one]")
@click.option("--rate", type=float, help="Peak learning rate.  [default: the shipped one]")
@click.option("--smoothing", type=float, default=0.0, show_default=True, help="Label smoothing.")
@click.option("--val-images", type=int, default=9_600, show_default=True)
@click.option("--workers", type=click.IntRange(min=1), default=2, help="Of image making.")
@click.option("--threads", type=int, default=1, show_default=True, help="Of PyTorch.")
@click.option(
    "-o",
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=EMBEDDED_DIR,
    help="Folder for the two files.  [default: the package's own]",
)
def main(
    name: str,
    width: float | None,
    repeats: str | None,
    seed: int,
    images: int,
    epochs: int | None,
    rate: float | None,
    smoothing: float,
    val_images: int,
    workers: int,
    threads: int,
    out: Path,
) -> None:
    """Train NETWORK on `shapes`; write its weights and its figures."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    shipped = SHIPPED[name]
    width = shipped.width if width is None else width
    build = dict(shipped.build)
    if repeats is not None:
        build["repeats"] = [int(count) for count in repeats.split(",")]
    plan = Plan(
        seed,
        images,
        shipped.epochs if epochs is None else epochs,
        rate=shipped.rate if rate is None else rate,
        smoothing=smoothing,
    )
    preprocessing = Preprocessing(plan.size, plan.size, "bilinear")
    network = NETWORKS.get(name).build(num_classes=len(CLASS_NAMES), width=width, **build)
    parameters = sum(p.numel() for p in network.parameters())
    click.echo(f"{name} × {width}: {parameters:,} parameters; {plan}")

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        source = Shapes(seed, "train", plan.size)
        pool = render(source, images, Path(scratch) / "train.u8", workers)
        click.echo(f"{images:,} images made in {time.perf_counter() - started:.0f} s")
        train(network, plan, preprocessing, pool, click.echo)
    minutes = (time.perf_counter() - started) / 60
    top1 = evaluate(network, Shapes(seed, "val", plan.size), val_images, preprocessing)
    click.echo(f"top-1 {top1:.2f} % on {val_images:,} val images after {minutes:.1f} minutes")

    tensors = {k: v.detach().contiguous() for k, v in network.state_dict().items()}
    weights = safetensors.torch.save(tensors, {"format": "pt"})
    facts = {
        "network": name,
        "width": width,
        "num_classes": len(CLASS_NAMES),
        "class_names": list(CLASS_NAMES),
        "image_size": plan.size,
        "preprocessing": preprocessing.to_dict(),
        "build": build,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "bytes": len(weights),
        "parameters": parameters,
        "data": "shapes",
        "data_seed": seed,
        "top1": round(top1, 2),
        "val_images": val_images,
        "training": {
            "seed": seed,
            "images": images,
            "epochs": plan.epochs,
            "batch": plan.batch,
            "optimiser": "AdamW",
            "learning_rate": plan.rate,
            "weight_decay": plan.decay,
            "label_smoothing": smoothing,
            "threads": threads,
            "minutes": round(minutes, 1),
            "hardware": _hardware(),
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
        },
    }
    out.mkdir(parents=True, exist_ok=True)
    _write(out / f"{name}.safetensors", weights)
    _write(out / f"{name}.json", (json.dumps(facts, indent=2) + "\n").encode())
    click.echo(f"wrote {out / name}.safetensors ({len(weights) / 1e6:.2f} MB) and its .json")


if __name__ == "__main__":
    main()
