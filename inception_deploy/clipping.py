"""How much to clip, by what it does to the network's outputs.

Calibrators weigh two errors tensor by tensor: that of clipping a few large values, and that of the
coarser steps which keeping them costs. Which one the network minds more, its activations do not
tell: a trained classifier loses up to 5 dB where outliers are clipped, for its decisions hang on
them; a network of random weights gains up to 2. So each candidate is tried, on calibration images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx

from inception_deploy.engines.base import Array, Engine
from inception_deploy.parity.distance import DistanceMeter
from inception_deploy.precisions import Precision
from inception_deploy.progress import Progress, SilentProgress
from inception_deploy.ranges import Ranges

__all__ = ["least_noise"]

MARGIN_DB = 0.2
"""By how much a later candidate has to be better: the first one stands for images not seen."""


def least_noise(
    model: onnx.ModelProto,
    precision: Precision,
    candidates: Sequence[Ranges],
    batches: Callable[[], Iterable[Array]],
    *,
    exact: Engine,
    engine: Engine,
    total: int,
    progress: Progress | None = None,
) -> Ranges:
    """The candidate with the largest SQNR of the outputs; the first one where they are close.

    Args:
        model: FP32 graph.
        candidates: ranges of its tensors, the most careful first; one alone is taken as it is.
        batches: what the graph is fed, anew at every call.
        exact: runs `model`.
        engine: runs lowered graphs.
        total: number of batches, for the progress bar.

    Raises:
        StageError: a candidate cannot be lowered or run.
    """
    if len(candidates) == 1:
        return candidates[0]
    listener = progress or SilentProgress()
    wanted = _outputs(exact, model, listener.track(batches(), "running in FP32", total))
    best, most = candidates[0], -math.inf
    for ranges in candidates:
        lowered = precision.lower(model, ranges).model
        title = f"trying the ranges of {ranges.calibrator}"
        found = _outputs(engine, lowered, listener.track(batches(), title, total))
        sqnr = _sqnr_db(wanted, found)
        if sqnr > most + MARGIN_DB:
            best, most = ranges, sqnr
    return best


def _outputs(engine: Engine, model: onnx.ModelProto, batches: Iterable[Array]) -> Array:
    with engine.session(model.SerializeToString()) as session:
        return np.concatenate([session.run(batch) for batch in batches])


def _sqnr_db(wanted: Array, found: Array) -> float:
    """−∞ where something is not finite, ∞ where nothing differs."""
    if not np.isfinite(found).all():
        return -math.inf
    meter = DistanceMeter()
    meter.add(wanted, found)
    sqnr = meter.result().sqnr_db
    return math.inf if sqnr is None else sqnr
