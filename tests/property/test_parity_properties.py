"""What must hold of a parity report for any outputs, however the images are batched."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inception_deploy.parity import ParityReport, compare


@dataclass(frozen=True)
class Batch:
    inputs: np.ndarray
    labels: np.ndarray | None


@dataclass(frozen=True)
class Case:
    """Outputs of two networks for the same images: channel 0 and channel 1 of the inputs."""

    inputs: np.ndarray
    labels: np.ndarray

    def report(self, order: np.ndarray | None = None, cuts: tuple[int, ...] = ()) -> ParityReport:
        order = np.arange(len(self.inputs)) if order is None else order
        batches = [Batch(self.inputs[p], self.labels[p]) for p in np.split(order, cuts) if len(p)]
        return compare(lambda x: x[:, 0, 0], lambda x: x[:, 1, 0], batches, head="logits")

    def swapped(self) -> ParityReport:
        return Case(self.inputs[:, [1, 0, 2]], self.labels).report()


@st.composite
def cases(draw: st.DrawFn) -> Case:
    images, classes = draw(st.integers(1, 40)), draw(st.integers(2, 12))
    noise = draw(st.sampled_from([0.0, 1e-4, 0.3, 3.0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    want = rng.normal(scale=2, size=(images, classes))
    if draw(st.booleans()):
        want = np.round(want)  # exact ties
    have = want + noise * rng.normal(size=want.shape)
    inputs = np.stack([want, have, want], axis=1)[:, :, None].astype(np.float32)
    inputs[0, :2, 0, 0] += 100.0  # so that neither network is zero throughout
    return Case(inputs, rng.integers(classes, size=images))


def flat(values, prefix=""):
    """The leaves of nested dictionaries and sequences, by path."""
    if isinstance(values, dict):
        values = values.items()
    elif isinstance(values, (list, tuple)):
        values = enumerate(values)
    else:
        return {prefix: values}
    return {k: v for name, value in values for k, v in flat(value, f"{prefix}/{name}").items()}


@settings(deadline=None)
@given(cases(), st.data())
def test_report_does_not_depend_on_order_or_batches(case, data):
    images = len(case.inputs)
    order = np.array(data.draw(st.permutations(range(images))))
    cuts = tuple(sorted(data.draw(st.lists(st.integers(0, images), max_size=5))))
    whole, split = flat(asdict(case.report())), flat(asdict(case.report(order, cuts)))
    assert whole.keys() == split.keys()
    for name, value in whole.items():
        if isinstance(value, float):
            assert split[name] == pytest.approx(value, rel=1e-9, abs=1e-9), name
        else:
            assert split[name] == value, name


@settings(deadline=None)
@given(cases())
def test_exchanging_the_networks_mirrors_the_report(case):
    one, other = case.report(), case.swapped()
    assert one.top1_agreement == other.top1_agreement
    assert one.top5_agreement == other.top5_agreement
    assert one.max_abs_error == other.max_abs_error
    assert one.cosine == pytest.approx(other.cosine)
    assert one.top1_drop == -other.top1_drop
    assert one.mcnemar_p == other.mcnemar_p
    assert (one.top1_reference, one.top1_deployed) == (other.top1_deployed, other.top1_reference)


@settings(deadline=None)
@given(cases())
def test_percentages_and_points_are_consistent(case):
    found = case.report()
    images = found.data.images
    harmful, beneficial = found.flips.harmful, found.flips.beneficial
    assert found.top1_drop == pytest.approx(100 * (harmful - beneficial) / images)
    assert found.top1_reference - found.top1_deployed == pytest.approx(found.top1_drop, abs=1e-9)
    assert found.drop_ci95[0] <= found.top1_drop <= found.drop_ci95[1]
    assert harmful + beneficial <= round(images * (1 - found.top1_agreement / 100))
    for percent in (found.top1_agreement, found.top1_reference, found.top1_deployed):
        assert 0 <= percent <= 100
    if found.top5_agreement is not None:
        assert 0 <= found.top5_agreement <= 100


@settings(deadline=None)
@given(cases())
def test_every_disagreement_is_a_near_tie_of_the_largest_error(case):
    found = case.report()
    disagreeing = round(found.data.images * (1 - found.top1_agreement / 100))
    assert found.near_ties.disagreeing == disagreeing <= found.near_ties.images


@settings(deadline=None)
@given(cases())
def test_identity(case):
    same = Case(case.inputs[:, [0, 0, 0]], case.labels).report()
    assert same.exact
    assert same.sqnr_db is None
    assert same.top1_agreement == 100.0
    assert same.top1_drop == 0.0
    assert same.top5_agreement in (None, 100.0)


@settings(deadline=None)
@given(cases())
def test_report_survives_its_file(case):
    found = case.report().judged(1.0)
    assert ParityReport.from_dict(found.to_dict()) == found
