"""What an export ends with on the terminal."""

from __future__ import annotations

from inception_deploy.cli.summary import short_warnings


def noise(engine: str, percent: int) -> str:
    return (
        f"{engine} at batch 1: latency varies by {percent}% (standard deviation over mean); trust"
    )


def test_noise_is_one_line_that_fits() -> None:
    (line,) = short_warnings([noise("a", 17), noise("b", 27), noise("c", 13)])
    assert line == "3 timings vary by up to 27 %: trust the medians, or measure idle"
    assert len(f"warning   {line}") <= 80


def test_other_warnings_stay() -> None:
    assert short_warnings(["the clock moved"]) == ["the clock moved"]
    assert short_warnings([noise("a", 17), "the clock moved"]) == [
        "the clock moved",
        "a timing varies by up to 17 %: trust the medians, or measure idle",
    ]
