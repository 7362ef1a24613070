"""Whether the calibration images were enough: how the ranges settled, and which classes were seen.

Both come from what one pass over the images leaves behind, as JSON values for the manifest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from inception_deploy.histograms import Histograms

__all__ = ["coverage", "stability"]

_HALVINGS = 3  # back to an eighth of the images
_NAMED = 5


def stability(histograms: Histograms) -> list[dict[str, Any]]:
    """How far the ranges were from the final ones after about an eighth, a quarter, half of N.

    Ranges are remembered after 1, 2, 4, … images, so that these are the three largest powers of two
    below N: the fractions themselves where N is one. The change of a tensor is the larger of the
    distances that its two ends still had to go, relative to the final range, zero included: 0 when
    nothing moved, 0.5 when the range was half of what it became.

    Returns:
        In order of images: `images`; `largest_change` over all tensors; `changed`, the number of
        tensors that moved at all; and the `tensors` that moved most, name → change, at most five.
    """
    if not histograms.history:
        return []
    *before, final = histograms.history
    spans = {tensor: max(high, 0.0) - min(low, 0.0) for tensor, (low, high) in final.ranges.items()}
    report = []
    for snapshot in before[-_HALVINGS:]:
        changes = {}
        for tensor, (low, high) in final.ranges.items():
            then_low, then_high = snapshot.ranges[tensor]
            moved = max(then_low - low, high - then_high)
            changes[tensor] = moved / spans[tensor] if spans[tensor] else 0.0
        most = sorted(changes, key=lambda tensor: -changes[tensor])[:_NAMED]
        report.append(
            {
                "images": snapshot.images,
                "largest_change": max(changes.values(), default=0.0),
                "changed": sum(change > 0 for change in changes.values()),
                "tensors": {tensor: changes[tensor] for tensor in most if changes[tensor] > 0},
            }
        )
    return report


def coverage(labels: Iterable[int], class_names: Sequence[str] | int) -> dict[str, Any]:
    """How many of the classes the images show, and how often.

    Args:
        labels: one per calibration image.
        class_names: all classes by label, or how many there are.

    Returns:
        `classes`, `seen`, `fewest` and `most` images of a class that was seen, and `missing`: the
        classes without an image, at most five of them by name (or number).
    """
    names = (
        [str(index) for index in range(class_names)]
        if isinstance(class_names, int)
        else list(class_names)
    )
    counts = Counter(int(label) for label in labels)
    missing = [name for index, name in enumerate(names) if index not in counts]
    return {
        "classes": len(names),
        "seen": len(names) - len(missing),
        "fewest": min(counts.values(), default=0),
        "most": max(counts.values(), default=0),
        "missing": missing[:_NAMED],
    }
