"""The plot of a mixing: accuracy against time, from all blocks in integers to all in float."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from inception_deploy.reporting.canvas import Heading
from inception_deploy.reporting.scatter import Bubble, bubbles

__all__ = ["mixing_plot"]

LIMIT = 400.0
"""dB; more than any float32 output has."""


def mixing_plot(mixing: Mapping[str, Any] | None, ident: str = "mixing") -> Markup | None:
    """SQNR over milliseconds per batch, one point per choice of blocks that was worth having.

    The choice taken is labelled. Tried choices show the measured SQNR, others the predicted one;
    choices without any error have no place on the axis.

    Args:
        mixing: the manifest's entry.
        ident: of the chart, unique on its page.

    Returns:
        None where nothing was chosen between.
    """
    if mixing is None or not mixing["sensitivity"]:
        return None
    points = []
    for point in mixing["pareto"]:
        chosen = point["kept_float"] == mixing["kept_float"]
        sqnr = point["sqnr_db"] if point["measured"] else point["predicted_sqnr_db"]
        if sqnr is None or point["predicted_ms"] is None or not (point["front"] or chosen):
            continue
        count = len(point["kept_float"])
        names = ", ".join(point["kept_float"]) or "none"
        how = "measured" if point["measured"] else "predicted"
        points.append(
            Bubble(
                label=f"{count} in float" if chosen or not count else "",
                detail=f"{count} blocks in float ({names}): {sqnr:.1f} dB {how}, "
                f"{point['predicted_ms']:.3g} ms",
                x=float(point["predicted_ms"]),
                y=max(float(sqnr), 0.0),
                size=0.0,
                reference=not chosen,
                front=point["measured"],
            )
        )
    if not points:
        return None
    heading = Heading(
        ident,
        "Blocks in float: accuracy against time",
        f"{len(points)} choices of blocks; {mixing['reason']}",
    )
    return bubbles(points, heading, x_label="ms per batch", y_label="SQNR, dB", limit=LIMIT)
