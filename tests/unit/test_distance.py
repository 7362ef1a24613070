"""Distances against figures computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from inception_deploy.errors import StageError
from inception_deploy.parity.distance import DistanceMeter


def measured(reference, candidate):
    meter = DistanceMeter()
    meter.add(np.array(reference, np.float32), np.array(candidate, np.float32))
    return meter.result()


def test_figures_by_hand():
    found = measured([[3.0, 4.0], [0.0, 8.0]], [[3.0, 4.5], [6.0, 8.0]])
    assert found.images == 2
    assert found.max_abs_error == 6.0
    assert found.max_rel_error == 6.0 / 8.0
    assert found.sqnr_db == pytest.approx(10 * math.log10((9 + 16 + 64) / (0.25 + 36)))
    first = (9 + 18) / (5 * math.sqrt(9 + 4.5**2))
    second = 64 / (8 * 10)
    assert found.cosine == pytest.approx(second)
    assert found.cosine_mean == pytest.approx((first + second) / 2)
    assert not found.exact


def test_identity_is_exact_and_has_no_ratio():
    values = np.random.default_rng(0).normal(size=(5, 7))
    found = measured(values, values)
    assert (found.exact, found.sqnr_db, found.max_abs_error) == (True, None, 0.0)
    assert found.cosine == pytest.approx(1.0)
    assert found.cosine <= 1.0


def test_smallest_difference_is_not_exact():
    found = measured([[1.0, 0.0]], [[1.0, 1e-45]])
    assert not found.exact
    assert found.sqnr_db == pytest.approx(20 * math.log10(1 / 1.401298464324817e-45))


def test_error_is_scaled_by_the_reference_not_the_candidate():
    assert measured([[1.0]], [[1000.0]]).max_rel_error == 999.0


def test_known_noise_gives_the_textbook_ratio():
    # a sine of amplitude 1 rounded to steps of q: noise q²/12 against a power of ½
    wave = np.sin(np.linspace(0, 1000, 200_001)).reshape(1, -1)
    step = 2**-8
    found = measured(wave, np.round(wave / step) * step)
    assert found.sqnr_db == pytest.approx(10 * math.log10(0.5 / (step**2 / 12)), abs=0.1)


def test_half_precision_is_compared_without_rounding_the_reference():
    meter = DistanceMeter()
    reference = np.array([[1.0 + 2**-12]], np.float32)
    meter.add(reference, reference.astype(np.float16))
    assert meter.result().max_abs_error == 2**-12


def test_zero_images_have_a_defined_cosine():
    found = measured([[0, 0], [0, 0], [1, 0]], [[0, 0], [0, 1], [1, 0]])
    assert found.cosine == 0.0
    assert found.cosine_mean == pytest.approx(2 / 3)


def test_images_of_any_rank():
    found = measured(np.ones((2, 3, 4, 4)), np.full((2, 3, 4, 4), 1.5))
    assert (found.images, found.max_abs_error, found.cosine) == (2, 0.5, pytest.approx(1.0))


def test_zero_reference_is_an_error():
    with pytest.raises(StageError, match="zero for all 2 images"):
        measured(np.zeros((2, 3)), np.ones((2, 3)))


def test_nothing_compared_is_an_error():
    with pytest.raises(StageError, match="nothing was compared"):
        DistanceMeter().result()


@pytest.mark.parametrize("shape", [(2, 4), (3, 3), (2, 3, 1)])
def test_different_shapes_are_an_error(shape):
    with pytest.raises(ValueError, match="cannot compare"):
        DistanceMeter().add(np.ones((2, 3)), np.ones(shape))
