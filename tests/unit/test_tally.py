"""What a comparison remembers: exact, of constant size, and the same after a round trip."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest

from inception_deploy.errors import DataError
from inception_deploy.parity.tally import CALIBRATION_BINS, Renumbered, Tally, rounded_up


def outputs(images: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    want = rng.normal(scale=3, size=(images, classes)).astype(np.float32)
    have = (want + rng.normal(scale=0.5, size=want.shape)).astype(np.float32)
    return want, have, rng.integers(classes, size=images)


def tally(classes: int, *, probabilities: bool = False, labelled: bool = True) -> Tally:
    return Tally(classes, chooses=True, labelled=labelled, probabilities=probabilities)


@pytest.mark.parametrize("value", [0.0, 1.0, 1.5, 0.1, 3.14159, 1e-30, 6.0e4, 1e-45])
def test_margins_are_rounded_up_to_eight_bits(value):
    found = rounded_up(value)
    assert value <= found <= value * (1 + 2**-7) + 1e-38
    assert rounded_up(found) == found


def test_leads_at_most_the_margin_are_counted_exactly():
    rng = np.random.default_rng(0)
    leads = np.concatenate([[0.0, 0.5, 1.0, 1.0000001, 1.5], 2 * rng.random(500)])
    want = np.stack([leads, np.zeros_like(leads)], axis=1).astype(np.float32)
    have = want.copy()
    have[::3] = have[::3, ::-1]  # every third disagrees
    seen = tally(2, labelled=False)
    seen.add(want, have, None)
    true = want[:, 0].astype(np.float64)
    other = have.argmax(axis=1) != want.argmax(axis=1)
    for margin in map(rounded_up, (0.0, 0.3, 0.5, 1.0, 1.4, 2.0)):
        near = true <= margin
        assert seen.near_ties(margin) == (int(near.sum()), int((near & other).sum()))


@pytest.mark.parametrize("probabilities", [False, True])
def test_calibration_error_by_its_definition(probabilities):
    want, have, labels = outputs(400, 7, seed=2)
    if probabilities:
        want, have = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (want, have))
    seen = tally(7, probabilities=probabilities)
    for rows in np.array_split(np.arange(400), 7):
        seen.add(want[rows], have[rows], labels[rows])
    for side, found in zip((want, have), seen.calibration_error(), strict=True):
        chances = side.astype(np.float64)
        if not probabilities:
            chances = np.exp(chances) / np.exp(chances).sum(axis=1, keepdims=True)
        confidence, right = chances.max(axis=1), chances.argmax(axis=1) == labels
        expected = 0.0
        for k in range(CALIBRATION_BINS):
            inside = (confidence >= k / CALIBRATION_BINS) & (
                confidence < (k + 1) / CALIBRATION_BINS
            )
            if inside.any():
                expected += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
        assert found == pytest.approx(expected, abs=1e-9)


def test_classes_are_counted_before_and_after():
    want = np.eye(3, dtype=np.float32)[[0, 0, 1, 2]]
    have = np.eye(3, dtype=np.float32)[[0, 1, 1, 2]]
    seen = tally(3)
    seen.add(want, have, np.array([0, 0, 1, 1]))
    assert seen.class_counts().tolist() == [[2, 2, 0], [2, 1, 0], [1, 1, 0]]
    assert (seen.harmful, seen.beneficial, seen.correct) == (1, 0, 3)


def test_labels_counted_from_one_show_in_the_shifted_hits():
    want = np.eye(5, dtype=np.float32)[[0, 1, 2, 3]]
    seen = tally(5)
    seen.add(want, want, np.array([1, 2, 3, 4]))
    assert (seen.correct, seen.shifted) == (0, [4, 0])


def said(classes: int, choices: list[int] | np.ndarray, labels: list[int] | np.ndarray) -> Tally:
    """A reference that chooses these classes of images with these labels."""
    want = np.eye(classes, dtype=np.float32)[choices]
    seen = tally(classes)
    seen.add(want, want, np.asarray(labels))
    return seen


def test_one_off_counts_the_hits_of_all_classes_and_of_the_largest():
    seen = said(5, [0, 0, 1, 2, 3], [1, 1, 2, 3, 4])
    assert seen.shifted_by(-1) == Renumbered(5, 2)
    assert seen.shifted_by(1) == Renumbered(0, 0)
    assert seen.shifted_by(-1).spread


def test_another_order_pairs_classes_one_to_one():
    labels = np.repeat(np.arange(4), 5)
    order = np.array([2, 0, 3, 1])
    choices = order[labels]
    choices[0] = 0  # an error, as any network makes them
    found = said(4, choices, labels).reordered()
    assert found == Renumbered(19, 5)
    assert found.spread


@pytest.mark.parametrize("classes", [2, 6])
def test_one_answer_for_all_images_is_no_other_order(classes):
    rng = np.random.default_rng(0)
    labels = rng.choice(classes, 200, p=np.arange(classes, 0, -1) * 2 / (classes * (classes + 1)))
    seen = said(classes, np.full(200, classes - 1), labels)
    assert not seen.reordered().spread
    assert not seen.shifted_by(1).spread


def test_more_classes_than_are_counted_have_no_other_order(monkeypatch):
    monkeypatch.setattr("inception_deploy.parity.tally.MOST_CONFUSED", 3)
    seen = said(4, [0, 1, 2], [1, 2, 3])
    assert seen.reordered() is None
    assert seen.shifted_by(-1) == Renumbered(3, 0)


@pytest.mark.parametrize("labelled", [False, True])
def test_round_trip_through_json_goes_on_as_if_nothing_had_happened(labelled):
    want, have, labels = outputs(60, 9, seed=4)
    whole, half = tally(9, labelled=labelled), tally(9, labelled=labelled)
    parts = [
        (want[s], have[s], labels[s] if labelled else None) for s in (slice(25), slice(25, 60))
    ]
    for part in parts:
        whole.add(*part)
    half.add(*parts[0])
    resumed = Tally.from_dict(json.loads(json.dumps(half.to_dict(), allow_nan=False)))
    resumed.add(*parts[1])
    assert resumed.to_dict() == whole.to_dict()


def test_memory_does_not_grow_with_the_number_of_images():
    want, have, labels = outputs(512, 50, seed=5)
    seen = tally(50)
    seen.add(want, have, labels)
    sizes = []
    tracemalloc.start()
    for _ in range(2):
        for _ in range(200):  # 102,400 images each time
            seen.add(want, have, labels)
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert seen.images == 401 * 512
    assert sizes[1] - sizes[0] < 4096  # one byte per image would be 100 kB


def test_half_labelled_data_and_foreign_labels_are_refused():
    want, have, labels = outputs(4, 5, seed=6)
    seen = tally(5)
    seen.add(want, have, labels)
    with pytest.raises(DataError, match="from 4 on are unlabelled"):
        seen.add(want, have, None)
    with pytest.raises(DataError, match="label 5 of image 6 is outside 0 to 4"):
        seen.add(want, have, np.array([0, 1, 5, 2]))
    assert (seen.images, seen.whole) == (4, True)  # nothing was half taken in
