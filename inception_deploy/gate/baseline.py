"""What the last good build measured, to hold the next one to.

Figures of two builds are comparable when the same network was asked about the same images, prepared
alike; anything else is refused with the reason. Accuracies of two builds come from two runs, whose
images are not paired in the file, so their difference has Newcombe's score interval for independent
proportions (Statistics in Medicine 17, 1998, 873–890, method 10), which is wider than a paired one.
Ratios of speed are compared on the processor they were measured on only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from inception_deploy.bundle import Bundle, write_json
from inception_deploy.errors import BadInput
from inception_deploy.gate.bounds import Bounds
from inception_deploy.gate.fidelity import LOST_DB
from inception_deploy.gate.speed import deployed_bytes
from inception_deploy.gate.verdict import Check, at_least, at_most
from inception_deploy.machine import describe
from inception_deploy.parity import ParityReport
from inception_deploy.parity.paired import Z95
from inception_deploy.throughput import ThroughputReport

__all__ = ["LARGER", "SLOWER", "Baseline", "difference_interval", "load_baseline"]

SCHEMA = 1

LARGER = 1.1
"""How many times as large as the baseline's the deployed files may be."""

SLOWER = 0.9
"""Which part of the baseline's speed-up has to be left."""


@dataclass(frozen=True)
class Baseline:
    """A build's figures, and what they are comparable with.

    Args:
        network, classes, precision, target, preprocessing, head: as in the manifest.
        weights: sha256 of them; another one is the reason to compare, and no reason to refuse.
        data_name, data_digest: of the images.
        images: how many of them were compared.
        correct: how many the deployed network had right; None without labels.
        agreement, top1_drop: percent, points; None where they were not measured.
        sqnr_db: None where the outputs were exact.
        deployed_bytes: of the files to be shipped.
        machine: the processor that ratios were measured on.
        speedups: batch size, as text → how many times as fast as its truth.
    """

    network: str
    classes: int
    precision: str
    target: str
    preprocessing: Mapping[str, Any]
    head: str
    weights: str | None
    data_name: str
    data_digest: str | None
    images: int
    correct: int | None
    agreement: float | None
    top1_drop: float | None
    sqnr_db: float | None
    deployed_bytes: int
    machine: str
    speedups: Mapping[str, float]

    @classmethod
    def of(cls, bundle: Bundle, parity: ParityReport, speed: ThroughputReport | None) -> Self:
        """The figures that were measured of a bundle."""
        manifest = bundle.manifest
        deployed = parity.top1_deployed
        return cls(
            network=str(manifest["network"]["name"]),
            classes=int(manifest["weights"]["num_classes"]),
            precision=str(manifest["precision"]),
            target=str(manifest["target"]),
            preprocessing=dict(manifest["preprocessing"]),
            head=bundle.head,
            weights=manifest["weights"]["sha256"],
            data_name=parity.data.name,
            data_digest=parity.data.digest,
            images=parity.data.images,
            correct=None if deployed is None else round(deployed * parity.data.images / 100),
            agreement=parity.top1_agreement,
            top1_drop=parity.top1_drop,
            sqnr_db=parity.sqnr_db,
            deployed_bytes=deployed_bytes(bundle),
            machine=describe().cpu,
            speedups={str(r.batch): r.ratio for r in speed.ratios} if speed else {},
        )

    def save(self, path: Path) -> None:
        """Write it, whole or not at all. Raises `OSError`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(
            path, {"schema": SCHEMA, "kind": "inception-deploy gate baseline", **asdict(self)}
        )

    def refuse(self, bundle: Bundle) -> None:
        """Raises `BadInput` unless the bundle is of the same network, prepared alike."""
        manifest = bundle.manifest
        for what, mine, theirs in (
            ("network", self.network, manifest["network"]["name"]),
            ("number of classes", self.classes, manifest["weights"]["num_classes"]),
            ("head", self.head, bundle.head),
        ):
            if mine != theirs:
                raise BadInput(
                    f"the baseline is of another {what} ({mine}, the bundle has {theirs}); "
                    "make one with --update-baseline"
                )
        told = manifest["preprocessing"]
        for name in sorted({*told, *self.preprocessing}):
            then, now = self.preprocessing.get(name), told.get(name)
            if then != now:
                raise BadInput(
                    f"the baseline is of another preprocessing ({name} {then}, the bundle has "
                    f"{now}); make one with --update-baseline"
                )

    def refuse_data(self, digest: str | None, name: str) -> None:
        """Raises `BadInput` unless the images are the baseline's."""
        if self.data_digest != digest:
            raise BadInput(
                f"the baseline is of another data set ('{self.data_name}', "
                f"{_short(self.data_digest)}, this is '{name}', {_short(digest)}); give the same "
                "--data and --data-size, or make a baseline with --update-baseline"
            )

    def checks(
        self,
        bundle: Bundle,
        bounds: Bounds,
        parity: ParityReport | None,
        speed: ThroughputReport | None,
    ) -> Iterator[Check]:
        """What was measured now, held against the baseline."""
        if parity is not None:
            yield from self._accuracy(bounds, parity)
            yield from self._sqnr(bundle, parity)
        yield from self._size(bundle)
        if speed is not None:
            yield from self._speed(speed)

    def _accuracy(self, bounds: Bounds, parity: ParityReport) -> Iterator[Check]:
        if self.correct is None or parity.top1_deployed is None or bounds.max_drop is None:
            return
        images = parity.data.images
        now = round(parity.top1_deployed * images / 100)
        low, high = difference_interval(self.correct, self.images, now, images)
        lost = 100 * (self.correct / self.images - now / images)
        low, high, bound = 100 * low, 100 * high, bounds.max_drop
        outcome = at_most(low, high, bound)
        yield Check(
            "top1_against_baseline",
            "baseline",
            outcome,
            f"top-1 {lost:.2f} points below the baseline's (95 % interval {low:.2f} to {high:.2f}, "
            f"unpaired), allowed are {bound:g}",
            value=lost,
            bound=bound,
            interval=(low, high),
            unit="points",
            counts=False,
        )

    def _sqnr(self, bundle: Bundle, parity: ParityReport) -> Iterator[Check]:
        same = (self.precision, self.target) == (
            bundle.manifest["precision"],
            bundle.manifest["target"],
        )
        if not same or self.sqnr_db is None or parity.sqnr_db is None:
            return
        lost = self.sqnr_db - parity.sqnr_db
        yield Check(
            "sqnr_against_baseline",
            "baseline",
            "PASS" if lost <= LOST_DB else "FAIL",
            f"SQNR {parity.sqnr_db:.1f} dB, {self.sqnr_db:.1f} dB in the baseline; at most "
            f"{LOST_DB:g} dB may be lost",
            value=lost,
            bound=LOST_DB,
            unit="dB",
        )

    def _size(self, bundle: Bundle) -> Iterator[Check]:
        now = deployed_bytes(bundle)
        factor = now / self.deployed_bytes
        yield Check(
            "size_against_baseline",
            "baseline",
            "PASS" if factor <= LARGER else "FAIL",
            f"{now:,} bytes to ship, {self.deployed_bytes:,} in the baseline; at most {LARGER:g} "
            "times as many are allowed",
            value=factor,
            bound=LARGER,
            unit="times",
        )

    def _speed(self, speed: ThroughputReport) -> Iterator[Check]:
        here = describe().cpu
        for ratio in speed.ratios:
            then = self.speedups.get(str(ratio.batch))
            if then is None:
                continue
            name = f"speedup_batch_{ratio.batch}_against_baseline"
            if here != self.machine:
                yield Check(
                    name,
                    "baseline",
                    "NOT_ASKED",
                    f"the baseline's speed-up was measured on {self.machine}, this is {here}",
                )
                continue
            low, high = ratio.ci95
            bound = SLOWER * then
            outcome = at_least(low, high, bound)
            yield Check(
                name,
                "baseline",
                outcome,
                f"speed-up {ratio.ratio:.2f} at batch {ratio.batch} (95 % interval {low:.2f} to "
                f"{high:.2f}), {then:.2f} in the baseline; at least {bound:.2f} has to be left",
                value=ratio.ratio,
                bound=bound,
                interval=(low, high),
                unit="times",
                counts=False,
            )


def load_baseline(path: Path) -> Baseline:
    """The inverse of `Baseline.save`. Raises `BadInput` where there is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(
            f"cannot read the baseline {path} ({error.strerror}); make one with --update-baseline"
        ) from error
    except ValueError as error:
        raise BadInput(f"{path} is no baseline ({error}); make one anew") from error
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        schema = values.get("schema") if isinstance(values, dict) else None
        raise BadInput(
            f"{path} has schema {schema}, this version reads baselines of schema {SCHEMA}; "
            "make one with --update-baseline"
        )
    try:
        fields = {key: value for key, value in values.items() if key not in ("schema", "kind")}
        found = Baseline(**fields)
        if not (found.images >= 1 and found.deployed_bytes >= 1 and (found.correct or 0) >= 0):
            raise ValueError("counts below one")
    except (TypeError, ValueError) as error:
        raise BadInput(f"{path} is no baseline ({error}); make one anew") from error
    return found


def difference_interval(
    hits: int, images: int, other_hits: int, other_images: int, z: float = Z95
) -> tuple[float, float]:
    """Newcombe's hybrid score interval of hits/images − other_hits/other_images, fractions."""
    p, q = hits / images, other_hits / other_images
    low_p, high_p = _wilson(hits, images, z)
    low_q, high_q = _wilson(other_hits, other_images, z)
    return (
        p - q - math.hypot(p - low_p, high_q - q),
        p - q + math.hypot(high_p - p, q - low_q),
    )


def _wilson(hits: int, images: int, z: float) -> tuple[float, float]:
    """Wilson's score interval of a proportion (1927)."""
    p, square = hits / images, z * z
    middle = (2 * hits + square) / (2 * (images + square))
    half = z * math.sqrt(square + 4 * hits * (1 - p)) / (2 * (images + square))
    return max(0.0, middle - half), min(1.0, middle + half)


def _short(digest: str | None) -> str:
    return "without a digest" if digest is None else f"{digest[:12]}…"
