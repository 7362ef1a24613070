"""Parity reports against figures computed by hand, and every way in which a comparison is refused.

The test images carry the outputs inside: channel 0 is what the reference returns, channel 1 what
the candidate returns.
"""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import dataclass, replace

import numpy as np
import pytest

from inception_deploy.errors import BadInput, BundleError, DataError, StageError
from inception_deploy.parity import (
    BlockError,
    Flips,
    GoldenError,
    NearTies,
    ParityReport,
    Tally,
    compare,
)
from inception_deploy.parity import verdict as judge


@dataclass(frozen=True)
class Batch:
    inputs: np.ndarray
    labels: np.ndarray | None = None


def batch(reference, candidate, labels=None) -> Batch:
    want, have = np.array(reference, np.float32), np.array(candidate, np.float32)
    inputs = np.stack([want, have, np.zeros_like(want)], axis=1)[:, :, None, :]
    return Batch(inputs, None if labels is None else np.array(labels, np.int64))


def reference(inputs):
    return inputs[:, 0, 0]


def candidate(inputs):
    return inputs[:, 1, 0]


def report(*batches: Batch, head: str = "logits", **options) -> ParityReport:
    return compare(reference, candidate, batches, head=head, **options)


def one_hot(*classes: int, of: int = 4) -> np.ndarray:
    return 10 * np.eye(of, dtype=np.float32)[list(classes)]


# ---------------------------------------------------------------- figures


def test_accuracy_flips_and_drop_by_hand():
    found = report(
        batch(one_hot(0, 1, 2), one_hot(0, 1, 3), labels=[0, 1, 2]),  # right, right, harmful
        batch(one_hot(3, 0), one_hot(2, 1), labels=[3, 1]),  # harmful, beneficial
    )
    assert found.data.images == 5
    assert found.data.labelled
    assert (found.top1_reference, found.top1_deployed) == (80.0, 60.0)
    assert found.top1_drop == 20.0
    assert found.flips == Flips(harmful=2, beneficial=1)
    assert found.top1_agreement == 40.0
    assert found.mcnemar_p == 1.0
    low, high = found.drop_ci95
    assert low < 20.0 < high


def test_wrong_to_another_wrong_is_a_disagreement_but_no_flip():
    found = report(batch(one_hot(1), one_hot(2), labels=[0]))
    assert (found.top1_agreement, found.flips) == (0.0, Flips(0, 0))


def test_errors_are_over_all_images():
    found = report(
        batch([[1.0, 2.0]], [[1.0, 2.5]]), batch([[3.0, 0.0], [0.0, 4.0]], [[3.0, 0.0], [0.0, 4.0]])
    )
    assert found.max_abs_error == 0.5
    assert found.max_rel_error == 0.125
    assert found.sqnr_db == pytest.approx(10 * np.log10((1 + 4 + 9 + 16) / 0.25))
    assert not found.exact


def test_top5_counts_the_overlap_whatever_its_order():
    want = np.arange(8, 0, -1)[None]  # first five: 0 1 2 3 4
    have = np.array([[1, 2, 3, 4, 0, 9, 0, 8]])  # first five: 5 7 3 2 1
    assert report(batch(want, have)).top5_agreement == pytest.approx(100 * 3 / 5)
    assert report(batch(want, want[:, ::-1])).top5_agreement == pytest.approx(100 * 2 / 5)


@pytest.mark.parametrize(("classes", "known"), [(5, False), (6, True)])
def test_top5_needs_six_classes(classes, known):
    found = report(batch(one_hot(0, of=classes), one_hot(0, of=classes)))
    assert (found.top5_agreement is not None) == known


def test_near_ties_are_those_that_the_largest_error_could_turn():
    # leads of 10, 1.5, 0.5; the largest error is 1, so a lead of 2 or less may turn
    found = report(
        batch(
            [[10.0, 0.0], [1.5, 0.0], [0.5, 0.0]],
            [[10.0, 1.0], [1.5, 0.0], [0.5, 1.0]],
        )
    )
    assert found.near_ties == NearTies(images=2, margin=2.0, disagreeing=1)
    assert found.top1_agreement == pytest.approx(100 * 2 / 3)


def test_near_tie_margin_can_be_fixed():
    images = batch([[1.5, 0.0], [0.5, 0.0]], [[0.0, 1.5], [0.5, 0.0]])
    assert report(images, near_tie_margin=1.0).near_ties == NearTies(1, 1.0, 0)


def test_features_have_no_first_choice_and_their_labels_are_not_used():
    found = report(batch(one_hot(0, 1), one_hot(1, 0), labels=[0, 1]), head="features")
    assert found.top1_agreement is found.near_ties is found.flips is found.top1_drop is None
    assert not found.data.labelled
    assert found.cosine == 0.0
    assert found.max_abs_error == 10.0


def test_without_labels_there_is_agreement_but_no_accuracy():
    found = report(batch(one_hot(0, 1), one_hot(0, 2)))
    assert found.top1_agreement == 50.0
    assert found.top1_reference is found.drop_ci95 is found.mcnemar_p is None


def test_half_precision_outputs_are_compared():
    images = batch([[1.0, 2.0]], [[1.0, 2.0 + 2**-9]])
    found = compare(reference, lambda x: candidate(x).astype(np.float16), [images], head="logits")
    assert found.max_abs_error == pytest.approx(2**-9)


def test_names_of_data_and_predictors_are_recorded():
    found = report(
        batch(one_hot(0), one_hot(0)), names=("a", "b"), data_name="shapes", data_digest="00ff"
    )
    assert (found.reference, found.candidate) == ("a", "b")
    assert (found.data.name, found.data.digest, found.data.skipped) == ("shapes", "00ff", ())


def test_progress_is_told_the_number_of_batches():
    class Listener:
        seen: tuple[int, int] | None = None

        def track(self, items, description, total):
            items = list(items)
            self.seen = (len(items), total)
            yield from items

    listener = Listener()
    batches = [batch(one_hot(0), one_hot(0))] * 3
    compare(reference, candidate, batches, head="logits", progress=listener)
    assert listener.seen == (3, 3)


# ---------------------------------------------------------------- refusals


def test_no_images():
    with pytest.raises(DataError, match="no images to compare in shapes"):
        report(data_name="shapes")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("whose", ["pytorch", "onnxruntime"])
def test_values_that_are_not_finite_name_the_predictor_and_the_image(bad, whose):
    outputs = [one_hot(0, 1, 2), one_hot(0, 1, 2)]
    outputs[whose == "onnxruntime"][1, 3] = bad
    good = batch(one_hot(0, 1), one_hot(0, 1))
    with pytest.raises(StageError, match=f"{whose} .* 1 of 3 images, first for image 3"):
        report(good, batch(*outputs))


def test_another_number_of_classes():
    with pytest.raises(StageError, match="onnxruntime returned 2 values per image, pytorch 4"):
        compare(reference, lambda x: x[:, 1, 0, :2], [batch(one_hot(0), one_hot(0))], head="logits")


def test_reference_that_changes_its_mind_about_the_number_of_classes():
    batches = [batch(one_hot(0), one_hot(0)), batch(one_hot(0, of=7), one_hot(0, of=7))]
    with pytest.raises(StageError, match="7 values per image from image 1 on, 4 before"):
        report(*batches)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: None, "returned NoneType"),
        (lambda x: x[:, 1, 0].astype(np.int64), "returned int64"),
        (lambda x: x[:1, 1, 0], r"returned shape \(1, 4\) for 2 images"),
        (lambda x: x[:, 1], r"returned shape \(2, 1, 4\) for 2 images"),
        (lambda x: x[:, 1, 0, :0], r"returned shape \(2, 0\) for 2 images"),
    ],
)
def test_missing_or_misshapen_output(wrong, message):
    with pytest.raises(StageError, match=f"onnxruntime {message}"):
        compare(reference, wrong, [batch(one_hot(0, 1), one_hot(0, 1))], head="logits")


@pytest.mark.parametrize(
    "inputs",
    [np.zeros((1, 3, 2, 2)), np.zeros((3, 2, 2), np.float32), np.zeros((0, 3, 2, 2), np.float32)],
)
def test_images_that_are_none(inputs):
    with pytest.raises(DataError, match="images must be float32"):
        report(Batch(inputs))


@pytest.mark.parametrize("first_labelled", [True, False])
def test_labels_for_some_images_only(first_labelled):
    labels = ([0], None) if first_labelled else (None, [0])
    batches = [batch(one_hot(0), one_hot(0), labels=label) for label in labels]
    with pytest.raises(DataError, match="from 1 on"):
        report(*batches)


@pytest.mark.parametrize("label", [-1, 4])
def test_label_of_no_class(label):
    with pytest.raises(DataError, match=f"label {label} of image 3 is outside 0 to 3"):
        report(
            batch(one_hot(0, 1), one_hot(0, 1), labels=[0, 1]),
            batch(one_hot(0, 1), one_hot(0, 1), labels=[0, label]),
        )


@pytest.mark.parametrize("labels", [np.array([0.0]), np.array([0, 1]), np.array([[0]])])
def test_labels_of_another_shape(labels):
    images = batch(one_hot(0), one_hot(0))
    with pytest.raises(DataError, match="labels must be 1 whole numbers"):
        report(replace(images, labels=labels))


def test_unknown_head():
    with pytest.raises(BadInput, match="head must be one of logits"):
        report(batch(one_hot(0), one_hot(0)), head="boxes")


@pytest.mark.parametrize("margin", [-1.0, float("nan"), float("inf")])
def test_impossible_margin(margin):
    with pytest.raises(BadInput, match="near-tie margin"):
        report(batch(one_hot(0), one_hot(0)), near_tie_margin=margin)


def test_errors_of_a_predictor_pass_through():
    def broken(inputs):
        raise MissingTensorError

    class MissingTensorError(RuntimeError):
        pass

    with pytest.raises(MissingTensorError):
        compare(reference, broken, [batch(one_hot(0), one_hot(0))], head="logits")


# ---------------------------------------------------------------- verdict and parity.json


def labelled(images: int, harmful: int, beneficial: int) -> ParityReport:
    want = np.zeros(images, np.int64)
    have = np.zeros(images, np.int64)
    have[:harmful] = 1
    want[harmful : harmful + beneficial] = 2
    return report(batch(one_hot(*want), one_hot(*have), labels=np.zeros(images)))


@pytest.mark.parametrize(
    ("images", "harmful", "beneficial", "outcome"),
    [
        (4000, 5, 5, "PASS"),
        (4000, 200, 10, "FAIL"),
        (100, 0, 0, "INCONCLUSIVE"),
        (4000, 0, 100, "PASS"),
    ],
)
def test_verdict_holds_the_interval_against_the_bound(images, harmful, beneficial, outcome):
    found = labelled(images, harmful, beneficial).judged(1.0)
    assert found.verdict == outcome
    low, high = found.drop_ci95
    assert {"PASS": high <= 1, "FAIL": low > 1, "INCONCLUSIVE": low <= 1 < high}[outcome]
    assert f"{low:.2f} to {high:.2f}" in found.verdict_reason


def test_verdict_that_nobody_asked_for():
    assert judge(labelled(10, 1, 0), None).outcome == "NOT_ASKED"
    assert labelled(10, 1, 0).verdict == "NOT_ASKED"


def test_verdict_without_labels_is_inconclusive():
    found = judge(report(batch(one_hot(0), one_hot(0))), 1.0)
    assert found.outcome == "INCONCLUSIVE"
    assert "without class labels" in found.reason


def whole_report() -> ParityReport:
    found = labelled(300, 3, 1).judged(2.0)
    return replace(
        found,
        data=replace(found.data, skipped=("broken.jpg",)),
        golden=GoldenError(8, 1e-3, 1e-4, 60.0, exact=False),
        blocks=(
            BlockError("stem", 1e-3, 1e-4, 60.0, 0.999, exact=False),
            BlockError("Mixed_6c", reason="no tensor of this name is left in the graph"),
        ),
    )


@pytest.mark.parametrize(
    "found",
    [
        whole_report(),
        report(batch(one_hot(0), one_hot(0))),
        report(batch(one_hot(0), one_hot(1)), head="features"),
    ],
    ids=["whole", "exact", "features"],
)
def test_round_trip_through_json(found):
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert ParityReport.from_dict(json.loads(text)) == found


def test_exact_identity_is_written_without_infinity():
    written = report(batch(one_hot(0), one_hot(0))).to_dict()
    assert (written["schema"], written["sqnr_db"], written["exact"]) == (1, None, True)


def broken_reports():
    good = whole_report().to_dict()
    yield "schema", {**good, "schema": 2}
    yield "another", {**good, "other": 1}
    yield "missing", {name: value for name, value in good.items() if name != "cosine"}
    yield "flips", {**good, "flips": {"harmful": 1}}
    yield "interval", {**good, "drop_ci95": [1.0]}
    yield "data", {**good, "data": None}


@pytest.mark.parametrize(
    "values", [v for _, v in broken_reports()], ids=[name for name, _ in broken_reports()]
)
def test_reading_a_damaged_report(values):
    with pytest.raises(BundleError, match=r"parity\.json"):
        ParityReport.from_dict(values)


# ---------------------------------------------------------------- streaming


def test_memory_does_not_grow_with_the_number_of_images():
    values = np.random.default_rng(0).normal(size=(64, 20))
    one = batch(values, values + 0.01, labels=np.arange(64) % 20)
    peaks = []
    for batches in (100, 800):
        tracemalloc.start()
        found = compare(reference, candidate, (one for _ in range(batches)), head="logits")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found.data.images == 64 * batches
    assert peaks[1] < peaks[0] + 20_000  # 44,800 images more


def test_comparison_ends_when_it_is_told_to_and_goes_on_from_a_tally():
    parts = [batch(one_hot(k % 4), one_hot(k % 3), labels=[k % 4]) for k in range(9)]
    whole = report(*parts)
    kept: list[Tally] = []

    def after(tally, _batch):
        kept[:] = [tally]
        return tally.images == 4

    assert report(*parts, after=after).data.images == 4
    assert report(*parts[4:], tally=kept[0]) == whole


def test_reports_written_before_calibration_was_measured_are_read():
    values = report(batch(one_hot(0, 1), one_hot(0, 1), labels=[0, 1])).to_dict()
    for name in ("calibration", "classes"):
        del values[name]
    found = ParityReport.from_dict(json.loads(json.dumps(values)))
    assert (found.calibration, found.classes) == (None, ())
