"""What exact rewrites gain in FP32 on ONNX Runtime, and what they could gain at most.

    python -m benchmarks.headroom                 the family → results/headroom.json
    python -m benchmarks.headroom inception_v3    one network, its rows written anew
    python -m benchmarks.headroom --prepare …     only make the graphs; needs no quiet machine

The plain export, the graph that the target's profile rewrites it to, and a graph of large matrix
products alternate in blocks in one run, batches as a whole, as the profile has them. Weights are
random and sizes native.

`elsewhere` is the part of the plain graph's time outside of convolutions and linear layers, by the
engine's own profile. A rewrite that makes no multiply-add less can take away no more than that:
`limit` is 1 / (1 − elsewhere), the gain if everything else cost nothing. `reached` says how near
the convolutions are to what the machine computes at best, so that there is no gain in them either:
their multiply-adds per second over those of the matrix products.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime as ort

from benchmarks.native import (
    CACHE,
    cycled,
    geometric_mean,
    kept_rows,
    noise_images,
    provenance,
)
from inception_deploy.engines.onnxruntime import OnnxRuntime
from inception_deploy.errors import InceptionDeployError
from inception_deploy.export import export
from inception_deploy.fuse import rewrite
from inception_deploy.golden import record_golden
from inception_deploy.networks import NETWORKS
from inception_deploy.reference import load_reference
from inception_deploy.targets import TARGETS
from inception_deploy.throughput import Candidate, measure
from inception_deploy.throughput.gemm import GemmRunner, gemm_model
from inception_deploy.throughput.macs import macs_per_node

__all__ = ["BATCHES", "RESULTS", "main", "share_elsewhere", "summary"]

RESULTS = Path(__file__).parent / "results" / "headroom.json"

BATCHES = (1, 8)
IMAGES = 2
TARGET = "onnxruntime"

WEIGHTED = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")


def prepare(network: str, folder: Path) -> Path:
    """FOLDER/NETWORK with plain.onnx, rewritten.onnx and images.npy; what is there is kept."""
    place = folder / network
    if (place / "images.npy").exists():
        return place
    place.mkdir(parents=True, exist_ok=True)
    reference = load_reference(network, "random:0")
    images = noise_images(reference.preprocessing, IMAGES)
    model = export(
        reference.module,
        record_golden(reference.module, images),
        network=network,
        preprocessing=reference.preprocessing,
        class_names=(),
    ).model
    onnx.save(model, place / "plain.onnx")
    for fusion in TARGETS.get(TARGET).rewrites("fp32"):
        model, _, _ = rewrite(model, fusion)
    onnx.save(model, place / "rewritten.onnx")
    np.save(place / "images.npy", images)
    return place


def share_elsewhere(model: Path, images: np.ndarray[Any, Any], runs: int = 6) -> float:
    """The part of the time of all kernels that is not convolutions or linear layers: 0 to 1."""
    options = ort.SessionOptions()
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as directory:
        options.profile_file_prefix = str(Path(directory, "profile"))
        session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        for _ in range(runs):
            session.run(None, {session.get_inputs()[0].name: images})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    spent: Counter[bool] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            spent[event["args"]["op_name"] in WEIGHTED] += event["dur"]
    return spent[False] / spent.total()


def timed(network: str, place: Path, *, seconds: float) -> Iterator[dict[str, Any]]:
    """One row per batch size."""
    engine = OnnxRuntime()
    plain, images = place / "plain.onnx", cycled(np.load(place / "images.npy"))
    macs = sum(macs_per_node(onnx.load(plain)).values())
    with ExitStack() as stack:
        graphs = {"plain": plain, "rewritten": place / "rewritten.onnx"}
        candidates = [
            Candidate.of(stack.enter_context(engine.session(file, lanes=False)), name, "", "fp32")
            for name, file in graphs.items()
        ]
        product = stack.enter_context(engine.session(gemm_model("fp32", signed=False)))
        candidates.append(Candidate("gemm", "", "fp32", GemmRunner(product)))
        pairs = [("rewritten:", "plain:")]
        report = measure(candidates, images, batches=BATCHES, seconds=seconds, pairs=pairs)
    found = {(row.engine, row.batch): row.latency_ms.median for row in report.rows}
    for ratio in report.ratios:
        batch = ratio.batch
        elsewhere = share_elsewhere(plain, images(batch))
        rate = batch * macs / (found["plain", batch] * (1 - elsewhere))
        peak = GemmRunner.macs(batch) / found["gemm", batch]
        yield {
            **{"network": network, "batch": batch},
            **{"plain_ms": found["plain", batch], "rewritten_ms": found["rewritten", batch]},
            **{"ratio": ratio.ratio, "ci95": list(ratio.ci95)},
            **{"elsewhere": elsewhere, "limit": 1 / (1 - elsewhere), "reached": rate / peak},
            "peak_gmacs": peak / 1e6,
        }


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Geometric means over all rows, and the networks with the least of each."""
    if not rows:
        return {}
    names = {row["network"] for row in rows}
    found: dict[str, Any] = {"networks": len(names)}
    for key in ("ratio", "limit"):
        worst = min(rows, key=lambda row: row[key])
        found[key] = {
            "geometric_mean": round(geometric_mean(row[key] for row in rows), 4),
            "least": {f"{worst['network']} batch {worst['batch']}": round(worst[key], 4)},
        }
    return found


@click.command()
@click.argument("networks", nargs=-1)
@click.option("--seconds", default=2.0, show_default=True, help="Per graph and batch size.")
@click.option("--graphs", type=click.Path(path_type=Path), default=CACHE / "headroom")
@click.option("--prepare", "only_prepare", is_flag=True, help="Make the graphs, time nothing.")
def main(networks: tuple[str, ...], seconds: float, graphs: Path, only_prepare: bool) -> None:
    """Measure NETWORKS, the family where none is named, and write their rows."""
    now = provenance()
    for network in networks or NETWORKS.names():
        try:
            place = prepare(network, graphs)
            new = [] if only_prepare else list(timed(network, place, seconds=seconds))
        except InceptionDeployError as error:
            raise click.ClickException(str(error)) from error
        for row in new:
            click.echo(
                f"{network:22s} batch {row['batch']}: {row['ratio']:.3f}, at most "
                f"{row['limit']:.3f}; convolutions at {row['reached']:.0%} of the peak"
            )
        if new:
            results = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else {"rows": []}
            kept = [r for r in kept_rows(results, now) if r["network"] != network]
            order = {name: index for index, name in enumerate(NETWORKS.names())}
            rows = sorted([*kept, *new], key=lambda r: (order[r["network"]], r["batch"]))
            facts = {"command": "python -m benchmarks.headroom", **summary(rows), **now}
            text = json.dumps({**facts, "rows": rows}, indent=1)
            RESULTS.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
