"""The figures of one bundle that several parts of the report speak about."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from inception_deploy.reporting.data import BundleData, Record

__all__ = ["Facts", "Ratio", "Timing", "engine_name"]

# Display names only: an engine that is not listed appears under the name it was asked for with.
_ENGINE_NAMES: Mapping[str, str] = {
    "onnx_reference": "ONNX reference evaluator",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "onnx": "the ONNX file",
    "pytorch": "PyTorch",
    "tensorrt": "TensorRT",
    "tensorrt-rtx": "TensorRT for RTX",
    "tensorrt_rtx": "TensorRT for RTX",
    "torch-inductor": "PyTorch (Inductor)",
}


def engine_name(name: str) -> str:
    """ "onnxruntime" → "ONNX Runtime"."""
    return _ENGINE_NAMES.get(name, name)


@dataclass(frozen=True)
class Timing:
    """One row of throughput.json; latencies in milliseconds."""

    engine: str
    graph: str
    precision: str
    batch: int
    images_per_second: float | None
    latency: Mapping[str, float | None]
    runs: float | None
    cov: float | None
    first: float | None
    scenario: str = "single-stream"
    histogram: Record | None = None
    cpu_ms: float | None = None
    utilisation: float | None = None
    harness_share: float | None = None
    energy_mj: float | None = None
    parts: Mapping[str, float | None] = field(default_factory=dict)

    @classmethod
    def of(cls, row: Record) -> Timing:
        latency, batch = row.record("latency_ms"), row.magnitude("batch")
        parts = row.maybe_record("parts_ms")
        if batch is None or not math.isfinite(batch):
            raise row.mismatch("batch", "a number")
        return cls(
            engine=row.text("engine"),
            graph=row.text("graph"),
            precision=row.text("precision"),
            batch=int(batch),
            images_per_second=row.magnitude("images_per_second"),
            latency={key: latency.magnitude(key) for key in latency.values},
            runs=row.magnitude("runs"),
            cov=row.magnitude("cov"),
            first=row.magnitude("first_ms"),
            scenario=row.maybe_text("scenario") or "single-stream",
            histogram=row.maybe_record("distribution"),
            cpu_ms=row.magnitude("cpu_ms"),
            utilisation=row.magnitude("utilisation"),
            harness_share=row.magnitude("harness_share"),
            energy_mj=row.magnitude("energy_mj"),
            parts={key: parts.magnitude(key) for key in parts.values} if parts else {},
        )

    @property
    def key(self) -> str:
        """As throughput.json's ratios and load times call it: "onnxruntime:model.onnx"."""
        return f"{self.engine}:{self.graph}"

    @property
    def label(self) -> str:
        if self.engine == "pytorch":
            return f"PyTorch {self.precision.upper()}"
        return f"{engine_name(self.engine)} {self.precision.upper()}, {self.graph}"

    @property
    def p50(self) -> float | None:
        return self.latency.get("p50", self.latency.get("median"))


@dataclass(frozen=True)
class Ratio:
    """How much faster the deployed graph is than `baseline`; above 1 is faster."""

    value: float
    interval: tuple[float, float] | None
    baseline: str

    @property
    def undecided(self) -> bool:
        """True where the interval holds 1: no difference was shown."""
        return self.interval is not None and self.interval[0] <= 1 <= self.interval[1]


@dataclass(frozen=True)
class Facts:
    """Typed access to one bundle. Raises `BundleError` for fields of the wrong type."""

    data: BundleData

    @cached_property
    def manifest(self) -> Record:
        return self.data.manifest_record

    @cached_property
    def parity(self) -> Record | None:
        return self.data.parity_record

    @cached_property
    def throughput(self) -> Record | None:
        return self.data.throughput_record

    @property
    def title(self) -> str:
        return self.manifest.record("network").text("title")

    @property
    def precision(self) -> str:
        return self.manifest.text("precision").upper()

    @property
    def target(self) -> str:
        return self.manifest.text("target")

    @property
    def deployment(self) -> str:
        """ "FP16 → ONNX Runtime"."""
        return f"{self.precision} → {engine_name(self.target)}"

    @property
    def trained(self) -> bool:
        return self.manifest.record("weights").flag("trained")

    @property
    def verdict(self) -> str | None:
        return None if self.parity is None else self.parity.text("verdict")

    @property
    def reference_name(self) -> str:
        """What parity compared with."""
        name = "pytorch" if self.parity is None else self.parity.text("reference")
        return engine_name(name)

    def parity_number(self, key: str) -> float | None:
        return None if self.parity is None else self.parity.number(key)

    def parity_percentage(self, key: str) -> float | None:
        return None if self.parity is None else self.parity.percentage(key)

    @property
    def images(self) -> int | None:
        """How many were compared."""
        data = None if self.parity is None else self.parity.record("data")
        value = data.magnitude("images") if data else None
        if data and value is not None and not math.isfinite(value):
            raise data.mismatch("images", "a count")
        return None if value is None else int(value)

    @property
    def labelled(self) -> bool:
        return self.parity is not None and self.parity.record("data").flag("labelled")

    def size(self, graph: str) -> float | None:
        """Bytes of the manifest's "graph" or "reference"."""
        return self.manifest.record(graph).magnitude("bytes")

    @cached_property
    def timings(self) -> tuple[Timing, ...]:
        if self.throughput is None:
            return ()
        return tuple(Timing.of(row) for row in self.throughput.records("rows"))

    @property
    def batches(self) -> list[int]:
        return sorted({timing.batch for timing in self.timings})

    def deployed(self, batch: int) -> Timing | None:
        """The deployed graph's timing, on the target where several engines ran it."""
        engine = self.manifest.maybe_record("engine")
        files = {self.manifest.record("graph").text("file")}
        files |= {engine.text("file")} if engine else set()
        # "model.onnx, 2 threads" where several settings were timed; the first stands for them
        found = [
            t for t in self.timings if t.batch == batch and t.graph.partition(", ")[0] in files
        ]
        found.sort(key=lambda t: t.engine.replace("_", "-") != self.target)
        return found[0] if found else None

    def baseline(self, batch: int) -> Timing | None:
        """PyTorch's timing."""
        return next((t for t in self.timings if t.batch == batch and t.engine == "pytorch"), None)

    @cached_property
    def block_times(self) -> dict[str, float]:
        """Block → milliseconds of the deployed graph in the engine's profile; "" is the rest."""
        recorded = self.throughput.maybe_record("blocks") if self.throughput else None
        first = next((t.key for b in self.batches if (t := self.deployed(b))), None)
        if recorded is None or first is None or first not in recorded.values:
            return {}
        return {b.text("name"): b.magnitude("ms") or 0.0 for b in recorded.records(first)}

    @property
    def profiled_batch(self) -> int | None:
        value = self.throughput.magnitude("profiled_batch") if self.throughput else None
        return None if value is None or not math.isfinite(value) else int(value)

    def ratio(self, batch: int) -> Ratio | None:
        """Deployed against PyTorch, or against whatever baseline was measured."""
        deployed = self.deployed(batch)
        if self.throughput is None or deployed is None:
            return None
        found = [
            Ratio(value, row.interval("ci95"), row.text("baseline"))
            for row in self.throughput.records("ratios")
            if row.number("batch") == batch
            and row.text("candidate") == deployed.key
            and (value := row.magnitude("ratio")) is not None
        ]
        found.sort(key=lambda ratio: not ratio.baseline.startswith("pytorch:"))
        return found[0] if found else None
