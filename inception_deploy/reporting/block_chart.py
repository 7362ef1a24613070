"""Blocks from first to last: where the time goes and where the error comes from, side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from inception_deploy.reporting.canvas import CHARACTER, WIDTH, Canvas, Heading, shorten
from inception_deploy.reporting.numerals import THIN, power_of_ten, significant
from inception_deploy.reporting.scales import log_ticks

__all__ = ["BlockBar", "block_chart"]

_ROW = 20.0
_TOP = 40.0
_GAP = 30.0


@dataclass(frozen=True)
class BlockBar:
    """One block.

    Args:
        share: of the whole time, 0 to 1; None where the profile does not tell.
        error: relative; None where nothing was measured.
    """

    label: str
    share: float | None
    error: float | None


def block_chart(blocks: Sequence[BlockBar], heading: Heading) -> Markup:
    """Bars of time to the left, dots of error on a log axis to the right."""
    canvas = Canvas()
    left = min(max((len(b.label) for b in blocks), default=4), 18) * CHARACTER + 10
    half = (WIDTH - left - _GAP) / 2
    bottom = _TOP + _ROW * len(blocks)
    longest = max((b.share for b in blocks if b.share is not None), default=0.0) or 1.0
    # the longest bar leaves room for its figure
    scale = (half - 46) / longest
    canvas.text(left, 12, "share of the time", "muted")
    errors = [b.error for b in blocks if b.error is not None and 0 < b.error < math.inf]
    start, stop = left + half + _GAP, WIDTH - 6
    if errors:
        ticks = log_ticks(max(min(errors), max(errors) * 1e-12), max(errors))
        low, high = math.log10(ticks[0]), math.log10(ticks[-1])
        canvas.text(WIDTH, 12, "max relative error", "muted", "end")
        stride = math.ceil(len(ticks) / 4)
        for n, tick in enumerate(ticks):
            x = start + (stop - start) * (math.log10(tick) - low) / (high - low)
            canvas.line(x, _TOP, x, bottom, "grid")
            if n % stride == 0:
                canvas.text(min(x, WIDTH - 12), _TOP - 6, power_of_ten(tick), "muted", "middle")
    canvas.line(left, _TOP, left, bottom, "axis")
    run: list[tuple[float, float, str]] = []
    for n, block in enumerate(blocks):
        y = _TOP + _ROW * (n + 0.5)
        canvas.text(left - 8, y + 4, shorten(block.label, left - 8), "", "end")
        if block.share is not None:
            width = max(block.share * scale, 1.0)
            kind = "s1" if block.error is not None else "s0"
            canvas.add("rect", x=left, y=y - 6, width=width, height=12, class_=kind)
            canvas.text(left + width + 4, y + 4, f"{100 * block.share:.1f}{THIN}%", "muted")
        if block.error is not None and 0 < block.error < math.inf:
            at = max(math.log10(block.error), low)
            x = start + (stop - start) * (at - low) / (high - low)
            run.append((x, y, f"{block.label}: {significant(block.error)}"))
        elif block.error is not None:
            said = "exact" if block.error == 0 else significant(block.error)
            canvas.text(start, y + 4, said, "muted" if block.error == 0 else "alarm")
    if len(run) > 1:
        canvas.path([(x, y) for x, y, _ in run], "stroke s2")
    for x, y, tip in run:
        canvas.mark(x, y, 2, tip)
    return canvas.svg(bottom + 8, heading)
