"""The palette: contrast as WCAG 2.1 asks for level AA, in light and in dark."""

from __future__ import annotations

import re
from importlib import resources

import pytest

STYLE = resources.files("inception_deploy.reporting").joinpath("style.css").read_text("utf-8")
TEXT, GRAPHICS = 4.5, 3.0  # WCAG 2.1, success criteria 1.4.3 and 1.4.11


def palette(mode: str) -> dict[str, str]:
    light, dark = re.findall(r":root \{([^}]*--page[^}]*)\}", STYLE)
    found = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", light))
    if mode == "dark":
        found |= dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", dark))
    return found | {"white": "#ffffff"}


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.1."""
    channels = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_of_black_and_white_is_21() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_contrast(mode: str) -> None:
    colours = palette(mode)
    pairs = [(ink, "page", TEXT) for ink in ("ink", "muted", "link", "alarm")]
    pairs += [(ink, "raised", TEXT) for ink in ("ink", "muted")]
    pairs += [("ink", "code", TEXT), ("caution-ink", "caution", TEXT)]
    badges = ("pass", "fail", "inconclusive", "none", "untrained")
    pairs += [("white", badge, TEXT) for badge in badges]
    pairs += [(f"s{n}", "page", GRAPHICS) for n in range(6)]
    found = {(a, b): contrast(colours[a], colours[b]) for a, b, _ in pairs}
    assert {(a, b): found[a, b] for a, b, least in pairs if found[a, b] < least} == {}
