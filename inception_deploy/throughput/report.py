"""What throughput.json says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from inception_deploy.errors import BundleError
from inception_deploy.machine import Machine
from inception_deploy.throughput.latency import Latency

__all__ = ["SCHEMA", "Ratio", "Row", "ThroughputReport"]

SCHEMA = 1


@dataclass(frozen=True)
class Row:
    """One candidate at one batch size.

    Args:
        runs, rounds: timed runs, and the rounds they came from.
        queries_per_second, images_per_second: from the median latency, as the ratios are, so that
            the two agree; a query is one batch.
        sustained_images_per_second: from the sum of all timed runs, and so from the mean latency,
            with whatever else the machine did meanwhile.
        latency_ms: per query.
        cov: standard deviation of the latency over its mean.
        first_ms: the very first run at this batch size, with its allocations; not among the timed.
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
class ThroughputReport:
    """What throughput.json says."""

    machine: Machine
    versions: Mapping[str, str]
    rows: tuple[Row, ...]
    ratios: tuple[Ratio, ...]
    load_seconds: Mapping[str, float]
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "schema": SCHEMA,
            "machine": self.machine.to_dict(),
            "versions": dict(self.versions),
            "rows": [asdict(row) for row in self.rows],
            "ratios": [{**asdict(ratio), "ci95": list(ratio.ci95)} for ratio in self.ratios],
            "load_seconds": dict(self.load_seconds),
            "warnings": list(self.warnings),
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
            rows = values["rows"]
            return cls(
                machine=Machine.from_dict(values["machine"]),
                versions=dict(values["versions"]),
                rows=tuple(Row(**{**r, "latency_ms": Latency(**r["latency_ms"])}) for r in rows),
                ratios=tuple(
                    Ratio(**{**r, "ci95": (r["ci95"][0], r["ci95"][1])}) for r in values["ratios"]
                ),
                load_seconds=dict(values["load_seconds"]),
                warnings=tuple(values["warnings"]),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise BundleError(
                f"throughput.json is not a throughput report ({error!r}); run the benchmark again"
            ) from error
