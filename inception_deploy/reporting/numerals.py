"""Numbers as people read them: three significant digits, thin spaces before units, true minus.

Not-a-number prints as "NaN" and infinity as "∞" everywhere; None never gets here.
"""

from __future__ import annotations

import math

__all__ = [
    "MINUS",
    "THIN",
    "brief",
    "count",
    "duration",
    "file_size",
    "percent",
    "points",
    "power_of_ten",
    "quantity",
    "scientific",
    "significant",
    "times",
]

THIN = "\u202f"  # narrow no-break space
MINUS = "\u2212"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _special(value: float) -> str | None:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    return None


def significant(value: float, digits: int = 3) -> str:
    """`value` to so many significant digits: 4.21×10⁻⁴, 0.0123, 1.23, 12.3, 123, 1,230."""
    special = _special(value)
    if special:
        return special
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e9:
        return scientific(value, digits)
    # rounding first: 9.996 is 10.0, one more digit before the point
    exponent = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    rounded = round(value, digits - 1 - exponent)
    return f"{rounded:,.{max(digits - 1 - exponent, 0)}f}".replace("-", MINUS)


def scientific(value: float, digits: int = 3) -> str:
    """4.21×10⁻⁴; zero is "0"."""
    special = _special(value)
    if special:
        return special
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa}×10{str(int(exponent)).translate(_SUPERSCRIPT)}".replace("-", MINUS)


def quantity(value: float, unit: str, digits: int = 3) -> str:
    """12.3 ms."""
    return f"{significant(value, digits)}{THIN}{unit}"


def brief(value: float) -> str:
    """A round number as it was written, others to four digits: 0.002, and 0.00001 is 1×10⁻⁵."""
    special = _special(value)
    if special:
        return special
    if not 1e-3 > abs(value) > 0:
        return f"{value:.4g}".replace("-", MINUS) if abs(value) < 1e3 else significant(value)
    digits = next(d for d in (1, 2, 3) if d == 3 or float(f"{value:.{d - 1}e}") == value)
    return scientific(value, digits)


def power_of_ten(value: float) -> str:
    """10⁻⁴, for a value that is one."""
    return f"10{str(round(math.log10(value))).translate(_SUPERSCRIPT)}"


def count(value: float) -> str:
    """12,345."""
    return _special(value) or f"{round(value):,}".replace("-", MINUS)


def percent(value: float) -> str:
    """97.30 %; 100 % and 0 % only when exactly so."""
    special = _special(value)
    if special:
        return special
    if value in (0, 100):
        return f"{value:.0f}{THIN}%"
    for decimals in (2, 3, 4, 5):
        text = f"{value:.{decimals}f}"
        if float(text) not in (0, 100):
            break
    return f"{text}{THIN}%".replace("-", MINUS)


def points(value: float, *, signed: bool = False) -> str:
    """0.10: percentage points to two decimals, as the difference of two `percent`s."""
    special = _special(value)
    if special:
        return special
    text = f"{value:+.2f}" if signed and round(value, 2) else f"{abs(round(value, 2)):.2f}"
    if not signed and round(value, 2) < 0:
        text = f"-{text}"
    return text.replace("-", MINUS)


def times(value: float, digits: int = 3) -> str:
    """3.21×."""
    return f"{significant(value, digits)}×"


def file_size(size: float) -> str:
    """Bytes in decimal units: 512 B, 26.5 MB."""
    if _special(size):
        return significant(size)
    if size < 1000:
        return f"{size:.0f}{THIN}B"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.5 or unit == "GB":
            break
    return quantity(size, unit)


def duration(seconds: float) -> str:
    """45 µs, 12.3 ms, 1.23 s, 2 min 5 s."""
    if _special(seconds):
        return significant(seconds)
    if seconds >= 120:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes:,}{THIN}min {rest}{THIN}s"
    if seconds >= 1 or seconds == 0:
        return quantity(seconds, "s")
    return quantity(seconds * 1e3, "ms") if seconds >= 1e-3 else quantity(seconds * 1e6, "µs")
