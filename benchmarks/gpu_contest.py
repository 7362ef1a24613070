"""One network with everything that runs it on a card, and what they are when measured together."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from benchmarks.gpu_bundles import Job, Shape
from benchmarks.gpu_peer import Eager
from benchmarks.native import cycled, ratio_facts
from inception_deploy.bundle import Bundle
from inception_deploy.deployed import open_deployed
from inception_deploy.errors import InceptionDeployError, StageError
from inception_deploy.pipeline import reference_of
from inception_deploy.recipe import Recipe
from inception_deploy.throughput import Candidate, measure
from inception_deploy.throughput.macs import macs_per_node
from inception_deploy.throughput.product import PRODUCT_PRECISIONS, ProductRunner
from inception_deploy.throughput.report import Row

__all__ = ["Contest", "gauge_key", "row_of"]

PEER = "pytorch:eager fp16"
SMALL_SIDE = 128
"""Of the matrix products of a rehearsal."""


def gauge_key(precision: str) -> str:
    """The candidate that multiplies matrices in a precision."""
    return f"card:gemm {precision}"


class Contest:
    """One network with everything that runs it, loaded; `stack` closes it.

    What does not load is left out, and why stands in `failed`.

    Args:
        bundles: by job.
    """

    def __init__(
        self, stack: ExitStack, network: str, shape: Shape, bundles: Mapping[Job, Path], device: str
    ) -> None:
        opened = {job: Bundle.open(path) for job, path in bundles.items()}
        first = next(iter(opened.values()))
        self.network, self.inputs = network, first.golden().inputs
        self.macs = sum(macs_per_node(onnx.load(first.reference)).values())
        self.candidates: list[Candidate] = []
        self.failed: dict[str, str] = {}
        recipe = Recipe(
            network=network, weights="random:0", width=shape.width, image_size=shape.image_size
        )
        module = reference_of(recipe).module
        for captured in (False, True) if device == "cuda" else (False,):
            eager = Eager(module, "fp16", self.inputs[:1], device, capture=captured)
            stack.callback(eager.close)
            name = PEER.partition(":")[2] + (", CUDA graph" if captured else "")
            self.candidates.append(self._candidate("pytorch", name, "fp16", eager.run, eager.parts))
        for job, bundle in opened.items():
            try:
                session = stack.enter_context(open_deployed(bundle))
            except InceptionDeployError as error:
                self.failed[job.key] = " ".join(str(error).split())
                continue
            if session.device.lower() != device:
                self.failed[job.key] = f"runs on {session.device or 'nothing'}, not on {device}"
                continue
            self.candidates.append(
                self._candidate(
                    session.name,
                    job.precision,
                    job.precision,
                    session.run,
                    session.parts,
                    session.load_seconds,
                )
            )
        side = None if device == "cuda" else SMALL_SIDE
        used = {c.precision for c in self.candidates} & set(PRODUCT_PRECISIONS)
        self.gauges = {}
        for precision in sorted(used):
            product, key = ProductRunner(precision, device, side), gauge_key(precision)
            name = key.partition(":")[2]
            gauge = Candidate("card", name, precision, product, macs=product.macs)
            self.gauges[key] = gauge

    def able(self, batch: int) -> tuple[list[Candidate], dict[str, float], dict[str, str]]:
        """Those that can run a batch of this size, and their gauges.

        Returns:
            Them; by key, the milliseconds of the first run; and what the others failed with.
        """
        inputs = cycled(self.inputs)(batch)
        found, first, failed = [], {}, dict(self.failed)
        for candidate in self.candidates:
            started = time.perf_counter()
            try:
                with candidate.running(batch):
                    candidate.run(inputs)
            except StageError as error:
                failed[candidate.key] = " ".join(str(error).split())
                continue
            first[candidate.key] = 1e3 * (time.perf_counter() - started)
            found.append(candidate)
        needed = {candidate.gauge for candidate in found}
        return [*found, *(g for key, g in self.gauges.items() if key in needed)], first, failed

    def _candidate(
        self,
        engine: str,
        name: str,
        precision: str,
        run: Callable[[Any], object],
        parts: Callable[[], Mapping[str, float]],
        load_seconds: float | None = None,
    ) -> Candidate:
        return Candidate(
            engine,
            name,
            precision,
            run,
            load_seconds,
            parts=parts,
            macs=partial(_times, self.macs),
            gauge=gauge_key(precision) if precision in PRODUCT_PRECISIONS else None,
        )


def row_of(contest: Contest, batch: int, seconds: float) -> dict[str, Any]:
    """One network at one batch size, in one run."""
    candidates, first, failed = contest.able(batch)
    row = {
        "network": contest.network,
        "image_size": int(contest.inputs.shape[-1]),
        "batch": batch,
        "macs_per_image": contest.macs,
        "failed": failed,
    }
    if PEER not in first:  # which names the FP16 products as its gauge: they are of every run
        return {**row, "figures": [], "peaks_tflops": {}, "ratios": [], "warnings": []}
    report = measure(
        candidates, cycled(contest.inputs), batches=(batch,), seconds=seconds, baseline=PEER
    )
    peaks = {peak.precision: peak.macs_per_second for peak in report.peaks}
    return {
        **row,
        "figures": [
            {
                **_figure(found, contest.macs * batch, peaks),
                "first_ms": round(first[found.key], 1),
                "load_seconds": round(report.load_seconds.get(found.key, 0.0), 2),
            }
            for found in report.rows
        ],
        "peaks_tflops": {p: round(2e-12 * rate, 3) for p, rate in sorted(peaks.items())},
        "ratios": [ratio_facts(ratio) for ratio in report.ratios],
        "warnings": list(report.warnings),
    }


def _figure(row: Row, macs: int, peaks: Mapping[str, float]) -> dict[str, Any]:
    """Milliseconds are medians; `busy` is the kernels' time where it is known."""
    busy = row.parts_ms.get("compute", row.latency_ms.median)
    rate = 1e3 * macs / busy
    own = peaks.get(row.precision)
    return {
        "engine": row.engine,
        "name": row.graph,
        "precision": row.precision,
        "images_per_second": round(row.images_per_second, 1),
        "p50_ms": round(row.latency_ms.p50, 4),
        "p99_ms": round(row.latency_ms.p99, 4),
        "parts_ms": {name: round(ms, 4) for name, ms in row.parts_ms.items()},
        "kernel_images_per_second": (
            round(1e3 * row.batch / busy, 1) if "compute" in row.parts_ms else None
        ),
        "share_of": "kernels" if "compute" in row.parts_ms else "query",
        "share_of_own_peak": own and round(rate / own, 4),
        "share_of_fp16_peak": round(rate / peaks["fp16"], 4),
        "runs": row.runs,
        "cov": round(row.cov, 4),
    }


def _times(macs: int, images: int) -> int:
    return macs * images
