"""Accuracy, agreement and distance over the images, looked at after every batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

import numpy as np

from inception_deploy.bundle import Bundle
from inception_deploy.compare import truth_predictor
from inception_deploy.engines import ENGINES
from inception_deploy.errors import DataError
from inception_deploy.gate.bounds import Bounds
from inception_deploy.gate.sequential import LAST, Counts, standing
from inception_deploy.gate.verdict import Check
from inception_deploy.images import UNLABELLED_IMAGES, ImageSet, choose_images
from inception_deploy.parity import ParityReport, Tally, compare
from inception_deploy.parity.paired import PairedCounts
from inception_deploy.parity.state import Resumable
from inception_deploy.pixels import fed
from inception_deploy.progress import Progress
from inception_deploy.reference import Reference

__all__ = ["ENDLESS_IMAGES", "LEAST_IMAGES", "Examined", "choose", "examine"]

LEAST_IMAGES = 64
"""A gate does not pass on fewer, however sure it is: the SQNR is a figure of all images seen."""

ENDLESS_IMAGES = 4000
"""Most images taken of the built-in task, which has no end, unless more are asked for."""


@dataclass(frozen=True)
class Examined:
    """What the images showed.

    Args:
        checks: drop, agreement, SQNR, labels, as far as they could be judged.
        parity: over the images that were compared.
        stopped_early: not all of them had to be.
        counts: what the drop's interval was computed from; None without labels.
    """

    checks: tuple[Check, ...]
    parity: ParityReport
    stopped_early: bool
    counts: PairedCounts | None = None


def choose(
    bundle: Bundle, bounds: Bounds, *, data: str | None, size: int | None, seed: int, skip_bad: bool
) -> ImageSet:
    """The images to judge by, in an order that has nothing to do with their classes.

    Raises:
        DataError: the source cannot be used, its labels are no classes of the network, they are all
            the same class, or a bound on accuracy is asked for and there are none.
    """
    source = data or bundle.manifest["data"]
    classes = int(bundle.manifest["weights"]["num_classes"])
    most = 10**9 if source is not None else UNLABELLED_IMAGES
    if source is not None and source.split(":")[0] == "shapes":
        most = ENDLESS_IMAGES
    images = choose_images(
        source,
        bundle.preprocessing,
        count=size or most,
        seed=seed,
        skip_bad=skip_bad,
        class_names=bundle.class_names,
        num_classes=None if bundle.head == "features" else classes,
    )
    if "max_drop" in bounds.named and not (images.labelled and bundle.head != "features"):
        raise DataError(
            f"a drop in accuracy needs labelled images, and {source or 'the built-in ones'} have "
            "no labels for this network; give --data with labels, or leave out --max-drop"
        )
    labels = images.dataset.labels
    if images.labelled and labels is not None and classes > 1:
        present = np.unique(labels[images.indices])
        if len(present) == 1 and len(images) > 1:
            raise DataError(
                f"all {len(images):,} images of {source} are of class {int(present[0])}; accuracy "
                "on one class says nothing of the others: give images of several"
            )
    order = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, 1))))
    return replace(images, indices=order.permutation(images.indices))


def examine(
    bundle: Bundle,
    bounds: Bounds,
    images: ImageSet,
    reference: Reference | None,
    *,
    resumable: Resumable | None,
    progress: Progress,
) -> Examined:
    """Compare image by image until every bound on them is settled, or they run out.

    Args:
        reference: the truth; None takes reference.onnx.
        resumable: where the comparison is remembered; None forgets it.

    Raises:
        DataError: an image cannot be used.
        StageError: an output is missing, misshapen or not finite.
    """
    engine = ENGINES.get(bundle.manifest["target"])
    trained = bool(bundle.manifest["weights"]["trained"])
    layout = bundle.pixel_layout

    def enough(tally: Tally) -> bool:
        held = list(_sequential(tally, bounds, trained, last=False))
        if any(check.failed for check in held):
            return True
        # an INCONCLUSIVE is worth more images even where it would not count
        settled = all(check.outcome != "INCONCLUSIVE" for check in held)
        return settled and tally.images >= LEAST_IMAGES

    with ExitStack() as stack:
        session = stack.enter_context(engine.session(bundle.model))
        truth, name = truth_predictor(bundle, reference, stack)
        found = (resumable or Resumable()).run(
            lambda tally, batches, total, after: compare(
                truth,
                session.run,
                batches,
                head=bundle.head,
                feed=lambda batch: fed(batch, layout),
                names=(name, engine.name),
                data_name=images.dataset.name,
                data_digest=images.dataset.digest,
                total=total,
                tally=tally,
                after=after,
                progress=progress,
            ),
            images,
            enough=enough,
            progress=progress,
        )
    tally, report = found.tally, found.report
    report = replace(report, data=replace(report.data, skipped=tuple(images.skipped)))
    last = not found.stopped
    recorded = bundle.manifest["parity"].get("top1_reference")
    exact = _exact(tally, report, bounds, trained, recorded)
    checks = [*_sequential(tally, bounds, trained, last=last), *exact]
    return Examined(
        tuple(checks),
        report,
        found.stopped,
        PairedCounts(tally.images, tally.harmful, tally.beneficial) if tally.labelled else None,
    )


def _sequential(tally: Tally, bounds: Bounds, trained: bool, *, last: bool) -> Iterator[Check]:
    """The bounds that are held against an interval."""
    if bounds.max_drop is not None and tally.labelled:
        counts = Counts.of_drop(tally.images, tally.harmful, tally.beneficial)
        yield _held(
            "top1_drop", "top-1 drop", counts, bounds.max_drop, last, "max_drop" in bounds.named
        )
    named = "min_agreement" in bounds.named
    # of random weights, which prefer no class, small noise turns many first choices
    if bounds.min_agreement is not None and tally.chooses and (trained or named):
        counts = Counts.of_rate(tally.images, tally.images - tally.agreeing)
        yield _held(
            "agreement", "other first choice", counts, 100 - bounds.min_agreement, last, named
        )


def _held(name: str, words: str, counts: Counts, bound: float, last: bool, named: bool) -> Check:
    """One interval against its bound (in percent or points), in words."""
    outcome, interval = standing(counts, bound / 100, last=last)
    low, high = 100 * interval.low, 100 * interval.high
    unit = "points" if name == "top1_drop" else "%"
    found = (
        f"{words} {100 * counts.mean:.2f} {unit} on {counts.images:,} images "
        f"(95 % interval {low:.2f} to {high:.2f})"
    )
    needed = None
    if outcome == "PASS":
        reason = f"{found}, all within the allowed {bound:g}"
    elif outcome == "FAIL":
        reason = f"{found}, all above the allowed {bound:g}"
    else:
        needed = _images_needed(counts, bound / 100)
        remedy = (
            f"about {needed:,} images would settle it if this stays so"
            if needed
            else "it is the bound itself, which no number of images would settle"
        )
        reason = f"{found}, on both sides of the allowed {bound:g}; {remedy}"
    return Check(
        name,
        "accuracy",
        outcome,
        reason,
        value=100 * counts.mean,
        bound=bound,
        interval=(low, high),
        unit=unit,
        counts=named,
        images_needed=needed,
    )


def _images_needed(counts: Counts, bound: float) -> int | None:
    """How many images would take the last look's interval off the bound, at these rates.

    Tango's score gives it in closed form, for a rate as for a drop: without flips of the other kind
    his interval is Wilson's. Rounded up to two digits, for it is an estimate.
    """
    z = NormalDist().inv_cdf(1 - LAST)
    best = counts.best if counts.smallest < 0 else 0
    needed = PairedCounts(counts.images, counts.worst, best).images_to_settle(bound, z)
    if needed is None:
        return None
    needed = max(needed, counts.images + 1)
    unit = int(10 ** max(len(str(needed)) - 2, 0))
    return -(-needed // unit) * unit


def _exact(
    tally: Tally, report: ParityReport, bounds: Bounds, trained: bool, recorded: float | None
) -> Iterator[Check]:
    """Figures of all images seen that need no interval."""
    if bounds.min_sqnr is not None:
        sqnr = report.sqnr_db
        holds = sqnr is None or sqnr >= bounds.min_sqnr
        shown = "the outputs are exact" if sqnr is None else f"the outputs' SQNR is {sqnr:.1f} dB"
        yield Check(
            "sqnr",
            "accuracy",
            "PASS" if holds else "FAIL",
            f"{shown} over {tally.images:,} images; at least {bounds.min_sqnr:g} dB are asked for",
            value=sqnr,
            bound=bounds.min_sqnr,
            unit="dB",
        )
    if tally.labelled:
        yield _labels(tally, trained, recorded)


def _labels(tally: Tally, trained: bool, recorded: float | None) -> Check:
    """The reference's own hits: a data set whose labels are counted from elsewhere shows here.

    A data set that is merely harder makes a network err in many ways; one whose classes are
    numbered in another order makes it take each class for one certain other.

    Args:
        trained: whether it ever saw what its classes look like.
        recorded: its accuracy at export, percent; None where that was not measured.
    """
    hits, images = tally.correct, tally.images
    shifts: tuple[Literal[-1, 1], ...] = (-1, 1)
    shift, one_off = max(
        ((by, tally.shifted_by(by)) for by in shifts), key=lambda pair: pair[1].hits
    )
    chance = 1 / tally.outputs
    excess = 5 * (images * max(chance, hits / images)) ** 0.5 + 5
    if one_off.spread and one_off.hits - hits > excess:
        return Check(
            "labels",
            "accuracy",
            "FAIL",
            f"labels look one off: the reference is right on {hits:,} of {images:,} images, and "
            f"would be on {one_off.hits:,} if every label were "
            f"{'one less' if shift < 0 else 'one more'}",
        )
    right = f"the reference is right on {hits:,} of {images:,} images"
    order = tally.reordered()
    best = order.hits if order is not None and order.spread else 0
    # a few images per class make some order look right by chance
    usual = images * recorded / 100 if recorded is not None else 0.8 * images
    enough = recorded is not None or (trained and images >= 5 * tally.outputs)
    # as bad as at export is as the network is: some never knew these classes
    worse = hits + 3 * hits**0.5 + 3 < min(usual, 0.75 * best)
    if enough and worse and best >= 0.75 * usual:
        said = (
            f"{right}, and would be on {best:,} if the classes were numbered in another order: "
            "the labels are not this network's"
        )
        return Check("labels", "accuracy", "FAIL", said)
    return Check("labels", "accuracy", "PASS", right)
