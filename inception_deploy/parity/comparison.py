"""Both networks on the same images, batch by batch, keeping a few numbers per image."""

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
from inception_deploy.parity.distance import DistanceMeter
from inception_deploy.parity.paired import PairedCounts
from inception_deploy.parity.report import (
    DataFacts,
    Flips,
    Head,
    NearTies,
    ParityReport,
)
from inception_deploy.progress import Progress, SilentProgress

__all__ = ["LabelledBatch", "Predictor", "compare"]

TOP = 5

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
    names: tuple[str, str] = ("pytorch", "onnxruntime"),
    data_name: str = "",
    data_digest: str | None = None,
    near_tie_margin: float | None = None,
    total: int | None = None,
    progress: Progress | None = None,
) -> ParityReport:
    """Run both predictors over all batches and compare what they return.

    Batches stream through: per image only a margin and three flags are kept. Neither their order
    nor their sizes change the report beyond rounding (1e-9 relative).

    Args:
        head: what the predictors return; for "features" there is no first choice and labels are
            not looked at.
        feed: what the candidate is given of a batch; None gives it `inputs`, as the reference.
        names: of reference and candidate, for the report and for messages.
        data_name, data_digest: go into the report's `DataFacts`.
        near_tie_margin: see `NearTies`; None takes twice the largest error.
        total: number of batches for the progress display; None asks `batches` for its length.

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
    meter = DistanceMeter()
    choices: _Choices | None = None
    images = outputs = 0
    listener = progress or SilentProgress()
    count = operator.length_hint(batches) if total is None else total
    for batch in listener.track(batches, "comparing outputs", count):
        if batch.inputs.dtype != np.float32 or batch.inputs.ndim != 4 or not len(batch.inputs):
            raise DataError(
                f"images must be float32 (N, 3, H, W) with N >= 1, not {batch.inputs.dtype} "
                f"{batch.inputs.shape}, at image {images}"
            )
        want = _checked(reference(batch.inputs), names[0], batch.inputs, images)
        fed = batch.inputs if feed is None else feed(batch)
        have = _checked(candidate(fed), names[1], batch.inputs, images)
        if want.shape != have.shape:
            raise StageError(
                f"{names[1]} returned {have.shape[1]} values per image, {names[0]} "
                f"{want.shape[1]}; they do not run the same network"
            )
        meter.add(want, have)
        outputs = outputs or want.shape[1]
        if want.shape[1] != outputs:
            raise StageError(
                f"{names[0]} returned {want.shape[1]} values per image from image {images} on, "
                f"{outputs} before; its output must not depend on the batch"
            )
        if head != "features" and outputs > 1:
            choices = choices or _Choices(outputs, labelled=batch.labels is not None)
            choices.add(want, have, batch.labels, images)
        images += len(want)
    if not images:
        raise DataError(f"there are no images to compare{f' in {data_name}' if data_name else ''}")

    figures = meter.result()
    report = ParityReport(
        reference=names[0],
        candidate=names[1],
        head=cast(Head, head),
        data=DataFacts(
            data_name, data_digest, images, labelled=choices is not None and choices.labelled
        ),
        max_abs_error=figures.max_abs_error,
        max_rel_error=figures.max_rel_error,
        sqnr_db=figures.sqnr_db,
        exact=figures.exact,
        cosine=figures.cosine,
        cosine_mean=figures.cosine_mean,
    )
    if choices is None:
        return report
    margin = 2 * figures.max_abs_error if near_tie_margin is None else near_tie_margin
    return choices.report(report, margin)


class _Choices:
    """What is kept of every image: the reference's lead, and three flags."""

    def __init__(self, classes: int, *, labelled: bool) -> None:
        self.labelled = labelled
        self._classes = classes
        self._shared = 0
        self._margins: list[NDArray[np.float64]] = []
        self._agree: list[NDArray[np.bool_]] = []
        self._harmful = self._beneficial = self._correct = 0

    def add(
        self, want: NDArray[Any], have: NDArray[Any], labels: NDArray[Any] | None, start: int
    ) -> None:
        top_want, top_have = _top(want), _top(have)
        rows = np.arange(len(want))
        first, second = (want[rows, top_want[:, k]].astype(np.float64) for k in (0, 1))
        self._margins.append(first - second)
        self._agree.append(top_want[:, 0] == top_have[:, 0])
        self._shared += int((top_want[:, :, None] == top_have[:, None, :]).sum())
        if (labels is not None) != self.labelled:
            raise DataError(
                f"the images from {start} on are {'un' if self.labelled else ''}labelled and those "
                "before are not alike; give labels for all images or for none"
            )
        if labels is not None:
            _check_labels(labels, len(want), self._classes, start)
            right_want, right_have = top_want[:, 0] == labels, top_have[:, 0] == labels
            self._correct += int(right_want.sum())
            self._harmful += int((right_want & ~right_have).sum())
            self._beneficial += int((~right_want & right_have).sum())

    def report(self, report: ParityReport, margin: float) -> ParityReport:
        """`report` with agreement, near ties and, with labels, accuracy."""
        agree, margins = np.concatenate(self._agree), np.concatenate(self._margins)
        images = len(agree)
        near = margins <= margin
        report = replace(
            report,
            top1_agreement=100 * float(agree.mean()),
            top5_agreement=100 * self._shared / (TOP * images) if self._classes > TOP else None,
            near_ties=NearTies(int(near.sum()), margin, int((near & ~agree).sum())),
        )
        if not self.labelled:
            return report
        counts = PairedCounts(images, self._harmful, self._beneficial)
        low, high = counts.drop_interval()
        return replace(
            report,
            top1_reference=100 * self._correct / images,
            top1_deployed=100 * (self._correct - self._harmful + self._beneficial) / images,
            top1_drop=100 * counts.drop,
            drop_ci95=(100 * low, 100 * high),
            flips=Flips(self._harmful, self._beneficial),
            mcnemar_p=counts.mcnemar_p(),
        )


def _top(outputs: NDArray[Any]) -> NDArray[np.intp]:
    """The first choices, best first, (N, min(K, 5)); of equal values the lower class wins."""
    return np.argsort(-outputs, axis=1, kind="stable")[:, :TOP]


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


def _check_labels(labels: NDArray[Any], images: int, classes: int, start: int) -> None:
    if labels.shape != (images,) or labels.dtype.kind not in "iu":
        raise DataError(
            f"labels must be {images} whole numbers, not {labels.dtype} {labels.shape}, "
            f"at image {start}"
        )
    outside = (labels < 0) | (labels >= classes)
    if outside.any():
        index = int(np.argmax(outside))
        raise DataError(
            f"label {labels[index]} of image {start + index} is outside 0 to {classes - 1}, the "
            "network's classes; check the order and the number of classes"
        )
