"""What throughput.json says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self, TypeAlias

from inception_deploy.errors import BundleError
from inception_deploy.machine import Machine
from inception_deploy.throughput.knee import Knee
from inception_deploy.throughput.latency import Distribution, Latency

__all__ = [
    "SCHEMA",
    "BlockTime",
    "Footprint",
    "Peak",
    "Ratio",
    "Row",
    "Scenario",
    "ServerFacts",
    "ThroughputReport",
    "Verdict",
]

SCHEMA = 1

Scenario: TypeAlias = Literal["single-stream", "offline", "server"]
Verdict: TypeAlias = Literal["VALID", "INVALID", "INCONCLUSIVE"]


@dataclass(frozen=True)
class ServerFacts:
    """How queries that arrived at random were served.

    Args:
        bound_ms: what the 99th percentile of the latency is held to.
        offered_qps: mean rate of arrivals; `searched` tells whether it is the highest that held.
        overruns: queries slower than the bound, of `runs`.
        verdict: VALID or INVALID where the share of overruns is shown to be below or above 1 %
            (one-sided exact binomial test, 5 %), INCONCLUSIVE where there were too few queries.
        mean_batch: images that were run together.
        busy: share of the time in which the engine was at work.
    """

    bound_ms: float
    offered_qps: float
    overruns: int
    verdict: Verdict
    mean_batch: float
    busy: float
    searched: bool


@dataclass(frozen=True)
class Row:
    """One candidate at one batch size.

    Args:
        runs, rounds: timed runs, and the rounds they came from.
        layouts: how often the sessions of the measurement were loaded for these rounds.
        queries_per_second, images_per_second: from the median latency, as the ratios are, so that
            the two agree; a query is one batch. Server: what was served per second.
        sustained_images_per_second: from the sum of all timed runs, and so from the mean latency,
            with whatever else the machine did meanwhile.
        latency_ms: per query. Offline, where queries overlap: the mean time per query of each
            block. Server: from a query's scheduled arrival until it is done.
        cov: standard deviation of the latency over its mean.
        first_ms: the very first run at this batch size, with its allocations; not among the timed.
        threads: of the engine as asked for; None: its own choice.
        streams: copies of the session that work side by side.
        end_to_end: JPEG decoding and preprocessing are part of the query.
        distribution: all latencies, not only their percentiles.
        outliers: runs far beyond the others, see `latency.outliers`.
        harness_share: what the null engine takes, over the median.
        cpu_ms: processor time of the whole process per query, all threads together.
        parts_ms: medians of the parts of a query, as far as the candidate tells: "engine" within
            the vendor's call, "decode", "preprocess"; "enqueue", "h2d", "compute", "d2h" on a GPU.
        energy_mj: millijoules per query, where a counter exists.
        macs_per_second, utilisation: multiply-adds, and their share of the measured peak; of the
            kernels' time where the candidate tells that ("compute"), else of the query's.
    """

    engine: str
    graph: str
    precision: str
    batch: int
    runs: int
    rounds: int
    images_per_second: float
    queries_per_second: float
    sustained_images_per_second: float
    latency_ms: Latency
    cov: float
    first_ms: float
    layouts: int = 1
    scenario: Scenario = "single-stream"
    threads: int | None = None
    streams: int = 1
    end_to_end: bool = False
    distribution: Distribution | None = None
    outliers: int = 0
    harness_share: float | None = None
    cpu_ms: float | None = None
    parts_ms: Mapping[str, float] = field(default_factory=dict)
    energy_mj: float | None = None
    macs_per_second: float | None = None
    utilisation: float | None = None
    server: ServerFacts | None = None

    @property
    def key(self) -> str:
        """As ratios, knees and load times call the candidate: "onnxruntime:model.onnx"."""
        return f"{self.engine}:{self.graph}"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `asdict`; raises what a damaged mapping makes it raise."""
        shape, server = values.get("distribution"), values.get("server")
        return cls(
            **{
                **values,
                "latency_ms": Latency(**values["latency_ms"]),
                "distribution": shape
                and Distribution(**{**shape, "counts": tuple(shape["counts"])}),
                "server": server and ServerFacts(**server),
            }
        )


@dataclass(frozen=True)
class Ratio:
    """Baseline time over candidate time (above 1: the candidate is faster), from medians of rounds.

    Args:
        ci95: 95 % interval, see `latency.estimate_ratio`.
    """

    batch: int
    candidate: str
    baseline: str
    ratio: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Peak:
    """What a matrix product reached on an engine in the same run, see `gemm`.

    Args:
        threads: as in `Row`.
        ran: the precision that the engine says it computed in; None where it does not tell.
    """

    engine: str
    precision: str
    threads: int | None
    ran: str | None
    macs_per_second: float


@dataclass(frozen=True)
class Footprint:
    """An engine in a process of its own, with nothing loaded before.

    Args:
        load_seconds: from the file to a session that is ready.
        first_ms: the first inference.
        peak_rss_bytes: of the whole process; `import_rss_bytes` of it were there before loading.
    """

    batch: int
    load_seconds: float
    first_ms: float
    peak_rss_bytes: int
    import_rss_bytes: int


@dataclass(frozen=True)
class BlockTime:
    """One architecture block in the engine's profile.

    Args:
        ms: of all its nodes, per query; "" is the name of what belongs to no block.
        macs: per query; utilisation is their rate over the measured peak.
    """

    name: str
    ms: float
    macs: int
    utilisation: float | None = None


@dataclass(frozen=True)
class ThroughputReport:
    """What throughput.json says.

    Args:
        load_seconds: by candidate, in this process.
        harness_us: the null engine's median query, microseconds.
        clocks: of the processor before and after, see `machine.clocks`.
        energy: the counter that was read, or why there is none.
        footprints, blocks: by candidate.
        profiled_batch: images per query of `blocks`.
    """

    machine: Machine
    versions: Mapping[str, str]
    rows: tuple[Row, ...]
    ratios: tuple[Ratio, ...]
    load_seconds: Mapping[str, float]
    warnings: tuple[str, ...] = ()
    harness_us: float | None = None
    clocks: Mapping[str, Any] = field(default_factory=dict)
    energy: str = ""
    knees: tuple[Knee, ...] = ()
    peaks: tuple[Peak, ...] = ()
    footprints: Mapping[str, Footprint] = field(default_factory=dict)
    blocks: Mapping[str, tuple[BlockTime, ...]] = field(default_factory=dict)
    profiled_batch: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "schema": SCHEMA,
            "machine": self.machine.to_dict(),
            "versions": dict(self.versions),
            "rows": [_row(row) for row in self.rows],
            "ratios": [{**asdict(ratio), "ci95": list(ratio.ci95)} for ratio in self.ratios],
            "load_seconds": dict(self.load_seconds),
            "warnings": list(self.warnings),
            "harness_us": self.harness_us,
            "clocks": dict(self.clocks),
            "energy": self.energy,
            "knees": [asdict(knee) for knee in self.knees],
            "peaks": [asdict(peak) for peak in self.peaks],
            "footprints": {key: asdict(found) for key, found in self.footprints.items()},
            "blocks": {key: [asdict(b) for b in blocks] for key, blocks in self.blocks.items()},
            "profiled_batch": self.profiled_batch,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            BundleError: another schema, or fields missing or unknown.
        """
        if values.get("schema") != SCHEMA:
            raise BundleError(
                f"throughput.json has schema {values.get('schema')}, this version reads {SCHEMA}; "
                "run the benchmark again"
            )
        try:
            return cls(
                machine=Machine.from_dict(values["machine"]),
                versions=dict(values["versions"]),
                rows=tuple(Row.from_dict(row) for row in values["rows"]),
                ratios=tuple(
                    Ratio(**{**r, "ci95": (r["ci95"][0], r["ci95"][1])}) for r in values["ratios"]
                ),
                load_seconds=dict(values["load_seconds"]),
                warnings=tuple(values["warnings"]),
                harness_us=values.get("harness_us"),
                clocks=dict(values.get("clocks", {})),
                energy=values.get("energy", ""),
                knees=tuple(Knee(**knee) for knee in values.get("knees", ())),
                peaks=tuple(Peak(**peak) for peak in values.get("peaks", ())),
                footprints={k: Footprint(**v) for k, v in values.get("footprints", {}).items()},
                blocks={
                    key: tuple(BlockTime(**block) for block in blocks)
                    for key, blocks in values.get("blocks", {}).items()
                },
                profiled_batch=values.get("profiled_batch"),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise BundleError(
                f"throughput.json is not a throughput report ({error!r}); run the benchmark again"
            ) from error


def _row(row: Row) -> dict[str, Any]:
    values = asdict(row)
    if row.distribution is not None:
        values["distribution"]["counts"] = list(row.distribution.counts)
    return values
