"""Both networks on the same images, batch by batch; memory does not grow with their number."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Protocol, TypeAlias, TypeVar, cast, get_args

import numpy as np
from numpy.typing import NDArray

from inception_deploy.artifact import FloatArray
from inception_deploy.errors import BadInput, DataError, StageError
from inception_deploy.parity.paired import PairedCounts
from inception_deploy.parity.report import (
    CalibrationError,
    ClassAccuracy,
    DataFacts,
    Flips,
    Head,
    NearTies,
    ParityReport,
)
from inception_deploy.parity.tally import TOP, Tally, rounded_up
from inception_deploy.progress import Progress, SilentProgress

__all__ = ["LabelledBatch", "Predictor", "compare"]

Predictor: TypeAlias = Callable[[NDArray[Any]], NDArray[Any]]
"""Images, mostly float32 (N, 3, H, W) → what the head returns, floating (N, K)."""


class LabelledBatch(Protocol):
    """Some images: `inputs` float32 (N, 3, H, W), `labels` int64 (N,) or None."""

    @property
    def inputs(self) -> FloatArray: ...

    @property
    def labels(self) -> NDArray[np.int64] | None: ...


BatchT = TypeVar("BatchT", bound=LabelledBatch)


def compare(
    reference: Predictor,
    candidate: Predictor,
    batches: Iterable[BatchT],
    *,
    head: str,
    feed: Callable[[BatchT], NDArray[Any]] | None = None,
    reference_feed: Callable[[BatchT], NDArray[Any]] | None = None,
    names: tuple[str, str] = ("pytorch", "onnxruntime"),
    data_name: str = "",
    data_digest: str | None = None,
    near_tie_margin: float | None = None,
    total: int | None = None,
    tally: Tally | None = None,
    after: Callable[[Tally, BatchT], bool] | None = None,
    progress: Progress | None = None,
) -> ParityReport:
    """Run both predictors over all batches and compare what they return.

    Batches stream through a `Tally`, whose size does not depend on their number. Neither their
    order nor their sizes change the report beyond rounding (1e-9 relative).

    Args:
        head: what the predictors return; for "features" there is no first choice and labels are
            not looked at.
        feed, reference_feed: what the candidate, and the reference, is given of a batch; None gives
            it `inputs`.
        names: of reference and candidate, for the report and for messages.
        data_name, data_digest: go into the report's `DataFacts`.
        near_tie_margin: see `NearTies`; None takes twice the largest error.
        total: number of batches for the progress display; None asks `batches` for its length.
        tally: of images compared before, to go on from; it is modified.
        after: called after every batch with what is known by then; True ends the comparison.

    Raises:
        DataError: there are no images, labels are missing for some, or a label names no class.
        StageError: an output is not a floating (N, K) array, holds NaN or infinity, or the two
            differ in shape; the message names the predictor.
        BadInput: `head` is unknown or the margin negative.
    """
    if head not in get_args(Head):
        raise BadInput(f"head must be one of {', '.join(get_args(Head))}, not '{head}'")
    if near_tie_margin is not None and not (
        math.isfinite(near_tie_margin) and near_tie_margin >= 0
    ):
        raise BadInput(f"the near-tie margin must be at least 0, not {near_tie_margin}")
    images = 0 if tally is None else tally.images
    listener = progress or SilentProgress()
    count = operator.length_hint(batches) if total is None else total
    for batch in listener.track(batches, "comparing outputs", count):
        if batch.inputs.dtype != np.float32 or batch.inputs.ndim != 4 or not len(batch.inputs):
            raise DataError(
                f"images must be float32 (N, 3, H, W) with N >= 1, not {batch.inputs.dtype} "
                f"{batch.inputs.shape}, at image {images}"
            )
        shown = batch.inputs if reference_feed is None else reference_feed(batch)
        want = _checked(reference(shown), names[0], batch.inputs, images)
        fed = batch.inputs if feed is None else feed(batch)
        have = _checked(candidate(fed), names[1], batch.inputs, images)
        if want.shape != have.shape:
            raise StageError(
                f"{names[1]} returned {have.shape[1]} values per image, {names[0]} "
                f"{want.shape[1]}; they do not run the same network"
            )
        if tally is None:
            tally = Tally(
                want.shape[1],
                chooses=head != "features",
                labelled=batch.labels is not None,
                probabilities=head == "probabilities",
            )
        if want.shape[1] != tally.outputs:
            raise StageError(
                f"{names[0]} returned {want.shape[1]} values per image from image {images} on, "
                f"{tally.outputs} before; its output must not depend on the batch"
            )
        tally.add(want, have, batch.labels)
        images = tally.images
        if after is not None and after(tally, batch):
            break
    if tally is None:
        raise DataError(f"there are no images to compare{f' in {data_name}' if data_name else ''}")
    data = DataFacts(data_name, data_digest, images, labelled=tally.labelled)
    return _report(tally, head, names, data, near_tie_margin)


def _report(
    tally: Tally, head: str, names: tuple[str, str], data: DataFacts, margin: float | None
) -> ParityReport:
    figures = tally.meter.result()
    report = ParityReport(
        reference=names[0],
        candidate=names[1],
        head=cast(Head, head),
        data=data,
        max_abs_error=figures.max_abs_error,
        max_rel_error=figures.max_rel_error,
        sqnr_db=figures.sqnr_db,
        exact=figures.exact,
        cosine=figures.cosine,
        cosine_mean=figures.cosine_mean,
    )
    if not tally.chooses:
        return report
    margin = rounded_up(2 * figures.max_abs_error if margin is None else margin)
    images = tally.images
    report = replace(
        report,
        top1_agreement=100 * tally.agreeing / images,
        top5_agreement=100 * tally.shared / (TOP * images) if tally.outputs > TOP else None,
        near_ties=NearTies(*_near_ties(tally, margin)),
    )
    if not tally.labelled:
        return report
    counts = PairedCounts(images, tally.harmful, tally.beneficial)
    low, high = counts.drop_interval()
    return replace(
        report,
        top1_reference=100 * tally.correct / images,
        top1_deployed=100 * (tally.correct - tally.harmful + tally.beneficial) / images,
        top1_drop=100 * counts.drop,
        drop_ci95=(100 * low, 100 * high),
        flips=Flips(tally.harmful, tally.beneficial),
        mcnemar_p=counts.mcnemar_p(),
        calibration=CalibrationError(*tally.calibration_error()),
        classes=tuple(
            ClassAccuracy(index, int(seen), 100 * float(before / seen), 100 * float(after / seen))
            for index, (seen, before, after) in enumerate(tally.class_counts().T)
            if seen
        ),
    )


def _near_ties(tally: Tally, margin: float) -> tuple[int, float, int]:
    images, disagreeing = tally.near_ties(margin)
    return images, margin, disagreeing


def _checked(outputs: Any, name: str, inputs: FloatArray, start: int) -> NDArray[Any]:
    """`outputs` if it is a finite floating (N, K) array for these inputs."""
    if not isinstance(outputs, np.ndarray) or outputs.dtype.kind != "f":
        kind = getattr(outputs, "dtype", type(outputs).__name__)
        raise StageError(f"{name} returned {kind}, not a floating array; check its output")
    if outputs.ndim != 2 or len(outputs) != len(inputs) or not outputs.shape[1]:
        raise StageError(
            f"{name} returned shape {outputs.shape} for {len(inputs)} images; expected "
            f"({len(inputs)}, K)"
        )
    finite = np.isfinite(outputs).all(axis=1)
    if not finite.all():
        first = start + int(np.argmin(finite))
        raise StageError(
            f"{name} returned NaN or infinity for {int((~finite).sum())} of {len(inputs)} images, "
            f"first for image {first}; locate the block where it starts"
        )
    return outputs
