"""Our INT8 graphs beside those of the peers: speed in one interleaved run, and SQNR of the logits.

    python -m benchmarks.peers                             all → results/peers.json
    python -m benchmarks.peers inception_v3                one network, its row written anew
    python -m benchmarks.peers googlenet --weights embedded    trained weights: SQNR and top-1
    python -m benchmarks.peers --prepare …                 only make the graphs

What is compared, and how it is made, is in `benchmarks/peer_graphs.py`.

For TensorRT there is no GPU to be fast on, so only SQNR is compared: the graph of our placement and
those of nvidia-modelopt (`modelopt.onnx.quantization.quantize`, int8, max and entropy), both run by
ONNX Runtime as they are written, without its optimiser.

Weights are random at native size, their images octave noise (`inception_deploy/random_weights.py`),
or the embedded trained ones at theirs. SQNR compares with PyTorch on images that did not serve
calibration.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.activation_sqnr import sqnr_db
from benchmarks.native import CACHE, cycled, geometric_mean, kept_rows, provenance
from benchmarks.peer_graphs import (
    EAGER,
    FLOAT,
    INDUCTOR,
    MODELOPT,
    NNCF,
    OPENVINO_FLOATS,
    STOCK,
    STOCK_LANES,
    candidates,
    eager,
    opened,
    prepare,
    recipe_of,
)
from inception_deploy.artifact import FloatArray
from inception_deploy.engines import Session
from inception_deploy.errors import InceptionDeployError
from inception_deploy.recipe import Recipe
from inception_deploy.throughput import Candidate, measure

__all__ = ["EACH", "GOAL", "NETWORKS", "RESULTS", "main", "summary"]

RESULTS = Path(__file__).parent / "results" / "peers.json"

NETWORKS = (
    *("googlenet", "inception_v3", "inception_v4"),
    *("inception_resnet_v2", "xception", "inception_next_tiny"),
)

BATCHES = (1, 8)

PEERS = (STOCK, NNCF)

GOAL = {"onnxruntime": 1.3, "openvino": 1.05}
"""Geometric mean of the ratio to the peer on the same engine that we want at least."""

EACH = {"onnxruntime": 1.03, "openvino": 0.97}
"""What no network may fall below."""

_SAME_ENGINE = {"onnxruntime": (STOCK,), "openvino": (NNCF,), "tensorrt": tuple(MODELOPT.values())}
"""Engine → its peers. The best of them counts for SQNR, the first for speed."""

_NEVER_TIMED = "tensorrt:"


def measured(recipe: Recipe, folder: Path, seconds: float) -> dict[str, Any]:
    """SQNR of every candidate; medians and ratios where `seconds` are given.

    Args:
        recipe: of the network that is prepared in `folder`.
        seconds: of measurement per candidate and batch size; 0 times nothing.
    """
    with np.load(folder / "images.npz") as stored:
        data = dict(stored)
    files = candidates(folder)
    ours = [k for k in files if k.endswith(":ours") and not k.startswith(_NEVER_TIMED)]
    row: dict[str, Any] = {
        "images": {"calibration": len(data["calibration"]), "validation": len(data["logits"])},
        "sqnr_db": {},
    }
    if set(MODELOPT.values()) & set(files):
        row["modelopt"] = importlib.metadata.version("nvidia-modelopt")
    if "labels" in data:
        row["top1"] = {"pytorch": _top1(data["logits"], data["labels"])}
    with ExitStack() as stack:
        sessions = {
            key: stack.enter_context(opened(key, engine, file))
            for key, (engine, file) in files.items()
        }
        network = eager(recipe)
        # the numbers of STOCK_LANES are those of STOCK
        runs = {key: session.run for key, session in sessions.items() if key != STOCK_LANES}
        for key, run in {**runs, EAGER: network}.items():
            logits = _logits(run, data["validation"])
            row["sqnr_db"][key] = round(sqnr_db(data["logits"], logits), 2)
            if "labels" in data:
                row["top1"][key] = _top1(logits, data["labels"])
        fast = {
            key: _candidate(key, session)
            for key, session in sessions.items()
            if not key.startswith(_NEVER_TIMED)
        }
        fast[EAGER] = Candidate("torch", "eager", "fp32", network)
        if seconds:
            report = measure(
                list(fast.values()),
                cycled(data["validation"]),
                batches=BATCHES,
                seconds=seconds,
                pairs=[(o, key) for o in ours for key in fast if key != o],
            )
            row["median_ms"] = {
                str(batch): {
                    f"{r.engine}:{r.graph}": round(r.latency_ms.median, 3)
                    for r in report.rows
                    if r.batch == batch
                }
                for batch in BATCHES
            }
            row["ratios"] = [
                {
                    **{"batch": r.batch, "ours": r.candidate, "to": r.baseline},
                    **{"ratio": round(r.ratio, 4), "ci95": [round(end, 4) for end in r.ci95]},
                }
                for r in report.ratios
            ]
            row["warnings"] = list(report.warnings)
            row["seconds"] = seconds
    return row


def _candidate(key: str, session: Session) -> Candidate:
    engine, _, graph = key.partition(":")
    floats: dict[str, str] = {FLOAT: "fp32", **{key: name for name, key in INDUCTOR.items()}}
    floats |= {key: key.partition(":")[2] for key in OPENVINO_FLOATS}
    return Candidate.of(session, engine, graph, floats.get(key, "int8"))


def _logits(run: Callable[[FloatArray], FloatArray], images: FloatArray) -> FloatArray:
    """One image at a time, as engines choose other kernels for other batches."""
    return np.concatenate([run(image[None]) for image in images])


def _top1(logits: FloatArray, labels: np.ndarray[Any, Any]) -> float:
    """Share of right first choices, percent."""
    return round(100 * float((logits.argmax(1) == labels).mean()), 3)


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Per engine, the ratios to the peer on it; and the best of ours to the best of the peers.

    For ONNX Runtime also "graph_against_graph": to the peer's graph in a session like ours.
    """
    rows = [row for row in rows if row["network"] in NETWORKS]  # others are not in the means
    found: dict[str, Any] = {}
    for engine, peers in _SAME_ENGINE.items():
        ratios = _ratios(rows, f"{engine}:ours", peers[0])
        decibels = {
            f"{row['network']}, {row['weights']}": round(
                row["sqnr_db"][f"{engine}:ours"] - max(row["sqnr_db"][peer] for peer in peers), 2
            )
            for row in rows
            if {f"{engine}:ours", *peers} <= set(row["sqnr_db"])
        }
        if ratios:
            worst = min(ratios, key=lambda name: ratios[name])
            found[engine] = {
                "peer": peers[0],
                "geometric_mean": round(geometric_mean(ratios.values()), 4),
                "worst": {worst: ratios[worst]},
                "goal": {"geometric_mean": GOAL[engine], "each": EACH[engine]},
                "ratios": ratios,
            }
        if decibels:
            found.setdefault(engine, {"peers": peers})["sqnr_gain_db"] = decibels
    graphs = _ratios(rows, "onnxruntime:ours", STOCK_LANES)
    if graphs:
        mean = round(geometric_mean(graphs.values()), 4)
        found["onnxruntime"]["graph_against_graph"] = {"geometric_mean": mean, "ratios": graphs}
    best = {
        f"{row['network']}, batch {batch}": _best(medians)
        for row in rows
        for batch, medians in row.get("median_ms", {}).items()
        if set(PEERS) & set(medians)
    }
    if best:
        mean = round(geometric_mean(best.values()), 4)
        found["best of ours to best of the peers"] = {"geometric_mean": mean, "ratios": best}
    return found


def _ratios(rows: Iterable[Mapping[str, Any]], ours: str, other: str) -> dict[str, float]:
    """Network and batch → ratio of one candidate to another, where both were timed."""
    return {
        f"{row['network']}, batch {ratio['batch']}": ratio["ratio"]
        for row in rows
        for ratio in row.get("ratios", ())
        if (ratio["ours"], ratio["to"]) == (ours, other)
    }


def _best(medians: Mapping[str, float]) -> float:
    """Time of the fastest peer over that of our fastest graph."""
    ours = min(ms for key, ms in medians.items() if key.endswith(":ours"))
    return round(min(medians[key] for key in PEERS if key in medians) / ours, 4)


def _write(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
    order = {name: index for index, name in enumerate(NETWORKS)}
    rows = sorted(rows, key=lambda row: (row["weights"], order.get(row["network"], len(order))))
    text = json.dumps(
        {"command": "python -m benchmarks.peers", "summary": summary(rows), **facts, "rows": rows},
        indent=1,
    )
    RESULTS.write_text(text + "\n", encoding="utf-8")


@click.command()
@click.argument("networks", nargs=-1)
@click.option("--weights", default="random:0", show_default=True)
@click.option("--calibration-size", default=32, show_default=True)
@click.option("--data-size", default=16, show_default=True, help="Images for the SQNR.")
@click.option("--seconds", default=3.0, show_default=True, help="Per graph and batch; 0: no times.")
@click.option("--graphs", type=click.Path(path_type=Path), default=CACHE / "peers")
@click.option("--prepare", "only_prepare", is_flag=True, help="Make the graphs, measure nothing.")
def main(
    networks: tuple[str, ...],
    weights: str,
    calibration_size: int,
    data_size: int,
    seconds: float,
    graphs: Path,
    only_prepare: bool,
) -> None:
    """Measure NETWORKS, the six of the table where none is named, and write their rows."""
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    now = provenance()
    for network in networks or NETWORKS:
        folder = graphs / f"{network}-{weights.replace(':', '-')}"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            recipe = recipe_of(network, weights, folder, (calibration_size, data_size))
            prepare(recipe, folder)
            if only_prepare:
                continue
            row = {"network": network, "weights": weights, **measured(recipe, folder, seconds)}
        except InceptionDeployError as error:
            raise click.ClickException(str(error)) from error
        for ratio in row.get("ratios", ()):
            click.echo(
                f"{network} batch {ratio['batch']}: {ratio['ours']} {ratio['ratio']:.3f}× "
                f"{ratio['to']} {ratio['ci95']}"
            )
        click.echo(f"{network} SQNR, dB: {row['sqnr_db']}")
        others = [
            r for r in kept_rows(results, now) if (r["network"], r["weights"]) != (network, weights)
        ]
        results = {**now, "rows": [*others, row]}
        _write(results["rows"], now)


if __name__ == "__main__":
    main()
