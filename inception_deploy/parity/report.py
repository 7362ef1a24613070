"""What parity.json says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Self, TypeAlias

from inception_deploy.errors import BundleError
from inception_deploy.parity.golden import BlockError, GoldenError
from inception_deploy.parity.paired import Outcome, PairedCounts, Verdict

__all__ = [
    "SCHEMA",
    "CalibrationError",
    "ClassAccuracy",
    "DataFacts",
    "Flips",
    "Head",
    "NearTies",
    "ParityReport",
    "verdict",
]

SCHEMA = 1

Head: TypeAlias = Literal["logits", "probabilities", "features"]


@dataclass(frozen=True)
class DataFacts:
    """Which images were compared.

    Args:
        name: of the data set, as the user calls it.
        digest: sha256 that identifies the images; None where the source has none.
        images: how many were compared.
        labelled: whether they had labels.
        skipped: names of images that could not be read and were left out.
    """

    name: str
    digest: str | None
    images: int
    labelled: bool
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class NearTies:
    """Images on which a small error may change the answer without anything being wrong.

    An error of at most ε in each output can turn the reference's first choice into another only
    where its lead over the second is at most 2ε. With ε the largest error seen anywhere, these are
    all the images on which the two networks *could* disagree.

    Args:
        images: how many have a lead of at most `margin`.
        margin: 2 · max_abs_error unless another was asked for, in units of the output, rounded up
            to eight significant bits so that leads need not be kept (`tally.rounded_up`).
        disagreeing: how many of them have another first choice in the deployed network.
    """

    images: int
    margin: float
    disagreeing: int


@dataclass(frozen=True)
class Flips:
    """Images whose first choice turned from right to wrong (harmful) or back (beneficial)."""

    harmful: int
    beneficial: int


@dataclass(frozen=True)
class CalibrationError:
    """Expected calibration error of the probabilities, fractions (`tally.Tally`): how far the
    confidence in the first choice is from how often it is right."""

    reference: float
    deployed: float


@dataclass(frozen=True)
class ClassAccuracy:
    """One class of the labels: its images, and the percentage of them that each side has right."""

    label: int
    images: int
    top1_reference: float
    top1_deployed: float

    @property
    def drop(self) -> float:
        """Points lost; positive is worse."""
        return self.top1_reference - self.top1_deployed


@dataclass(frozen=True)
class ParityReport:
    """What parity.json says; percentages are 0–100, drops in points of percent.

    Args:
        reference, candidate: what was compared, e.g. "pytorch" and "onnxruntime".
        head: "logits", "probabilities" or "features".
        max_abs_error, max_rel_error, sqnr_db, exact, cosine, cosine_mean: see `distance.Distance`;
            over all images.
        top1_agreement: images with the same first choice, percent. None for features.
        top5_agreement: mean share of the reference's five first choices found among the candidate's
            five, in any order, percent. None for features and for fewer than six classes.
        near_ties: None for features.
        top1_reference, top1_deployed: accuracy, percent. None without labels, as all that follows.
        top1_drop: reference − deployed, points; positive is worse.
        drop_ci95: 95 % interval of the drop, points (`paired.PairedCounts.drop_interval`).
        mcnemar_p: two-sided exact McNemar test of "no drop".
        calibration: of the probabilities, both sides.
        classes: those that the labels name, in the network's order.
        golden, blocks: filled in by `compare_golden` and `compare_blocks`.
        verdict, verdict_reason: filled in by `judged`.
    """

    reference: str
    candidate: str
    head: Head
    data: DataFacts
    max_abs_error: float
    max_rel_error: float
    sqnr_db: float | None
    exact: bool
    cosine: float
    cosine_mean: float
    top1_agreement: float | None = None
    top5_agreement: float | None = None
    near_ties: NearTies | None = None
    top1_reference: float | None = None
    top1_deployed: float | None = None
    top1_drop: float | None = None
    drop_ci95: tuple[float, float] | None = None
    flips: Flips | None = None
    mcnemar_p: float | None = None
    calibration: CalibrationError | None = None
    classes: tuple[ClassAccuracy, ...] = ()
    golden: GoldenError | None = None
    blocks: tuple[BlockError, ...] = ()
    verdict: Outcome = "NOT_ASKED"
    verdict_reason: str = "no bound on the accuracy drop was asked for"

    def judged(self, max_drop: float | None) -> Self:
        """This report with the verdict for `max_drop` points filled in."""
        found = verdict(self, max_drop)
        return replace(self, verdict=found.outcome, verdict_reason=found.reason)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; never NaN or infinity."""
        values = asdict(self)
        values["data"]["skipped"] = list(self.data.skipped)
        values["drop_ci95"] = None if self.drop_ci95 is None else list(self.drop_ci95)
        for name in ("blocks", "classes"):
            values[name] = list(values[name])
        return {"schema": SCHEMA, **values}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            BundleError: another schema, or fields missing, unknown or of another kind.
        """
        if values.get("schema") != SCHEMA:
            raise BundleError(
                f"parity.json has schema {values.get('schema')}, this version reads {SCHEMA}; "
                "compare the bundle again"
            )
        try:
            # reports of the same schema written before these were measured do without them
            given = {"calibration": None, "classes": (), **values}
            del given["schema"]
            data = given["data"]
            given["data"] = DataFacts(**{**data, "skipped": tuple(data["skipped"])})
            for name, kind in _PARTS:
                given[name] = None if given[name] is None else kind(**given[name])
            given["blocks"] = tuple(BlockError(**block) for block in given["blocks"])
            given["classes"] = tuple(ClassAccuracy(**entry) for entry in given["classes"])
            if given["drop_ci95"] is not None:
                low, high = given["drop_ci95"]
                given["drop_ci95"] = (float(low), float(high))
            missing = {field.name for field in fields(cls)} - set(given)
            if missing:
                raise KeyError(min(missing))
            return cls(**given)
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(
                f"parity.json is not a parity report ({error}); compare the bundle again"
            ) from error


_PARTS: tuple[tuple[str, type[Any]], ...] = (
    ("near_ties", NearTies),
    ("flips", Flips),
    ("calibration", CalibrationError),
    ("golden", GoldenError),
)


def verdict(report: ParityReport, max_drop: float | None) -> Verdict:
    """Whether top-1 drops by no more than `max_drop` points: `paired.PairedCounts.verdict`.

    NOT_ASKED without a bound, INCONCLUSIVE without labels.
    """
    if max_drop is None:
        return Verdict("NOT_ASKED", "no bound on the accuracy drop was asked for")
    if report.flips is None:
        return Verdict(
            "INCONCLUSIVE",
            f"the allowed drop of {max_drop:g} points cannot be judged without class labels; "
            "give labelled images of a classifier",
        )
    flips = report.flips
    return PairedCounts(report.data.images, flips.harmful, flips.beneficial).verdict(max_drop)
