"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from inception_deploy.reporting import numerals
from inception_deploy.reporting.cells import cell, plain
from inception_deploy.reporting.numerals import THIN


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1, "1.00"),
        (9.996, "10.0"),
        (0.09996, "0.100"),
        (12.34, "12.3"),
        (999.6, "1,000"),
        (1234.5, "1,230"),
        (987654.0, "988,000"),
        (-3.14159, "−3.14"),
        (0.00123, "0.00123"),
        (0.000421, "4.21×10⁻⁴"),
        (-1.5e-12, "−1.50×10⁻¹²"),
        (2.5e12, "2.50×10¹²"),
        (math.nan, "NaN"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
    ],
)
def test_significant(value: float, text: str) -> None:
    assert numerals.significant(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(0, "0"), (1e-5, "1×10⁻⁵"), (2.5e-4, "2.5×10⁻⁴"), (1.23456e-4, "1.23×10⁻⁴")],
        *[(0.002, "0.002"), (0.241077, "0.2411"), (1.25, "1.25"), (50, "50"), (-0.5, "−0.5")],
        (123456, "123,000"),
    ],
)
def test_brief(value: float, text: str) -> None:
    assert numerals.brief(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (100, "100"),
        (0, "0"),
        (96.4, "96.40"),
        (99.999, "99.999"),  # never rounded up to "100"
        (0.004, "0.004"),
        (-0.5, "−0.50"),
    ],
)
def test_percent(value: float, text: str) -> None:
    assert numerals.percent(value) == f"{text}{THIN}%"


@pytest.mark.parametrize(
    ("value", "plain_text", "signed"),
    [
        (0.1, "0.10", "+0.10"),
        (-0.28, "−0.28", "−0.28"),
        (0.0, "0.00", "0.00"),
        (-0.001, "0.00", "0.00"),
    ],
)
def test_points(value: float, plain_text: str, signed: str) -> None:
    assert numerals.points(value) == plain_text
    assert numerals.points(value, signed=True) == signed


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (512, "512 B"),
        (3_598_210, "3.60 MB"),
        (999_600, "1.00 MB"),
        (961_204, "961 kB"),
        (2.5e12, "2,500 GB"),
    ],
)
def test_file_size(size: float, text: str) -> None:
    assert numerals.file_size(size) == text.replace(" ", THIN)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.5e-5, "45.0_µs"), (0.0123, "12.3_ms"), (6.41, "6.41_s"), (125.2, "2_min 5_s"), (0, "0_s")],
)
def test_duration(seconds: float, text: str) -> None:
    assert numerals.duration(seconds) == text.replace("_", THIN)


@pytest.mark.parametrize(
    "form",
    [
        numerals.significant,
        numerals.scientific,
        numerals.brief,
        numerals.percent,
        numerals.points,
        numerals.count,
        numerals.times,
        numerals.file_size,
        numerals.duration,
    ],
)
def test_every_form_survives_the_special_values(form: Callable[[float], str]) -> None:
    assert "NaN" in form(math.nan)
    assert "∞" in form(math.inf)
    assert "-" not in form(-math.inf)


def test_cells_tell_missing_from_broken() -> None:
    assert cell(None, str, "no labels").note == "no labels"
    assert cell(None, str).kind == "missing"
    assert cell(math.nan, str).kind == "alarm"
    assert cell(1.0, numerals.percent).kind == ""


def test_plain_leaves_seeds_and_opsets_ungrouped() -> None:
    assert plain(20240) == "20240"
    assert plain([0.485, 0.5, True, None]) == "0.485, 0.5, yes, –"
    assert plain({"a": 1}) == '{"a": 1}'
