"""Neither the order of the images nor how they are batched may change a bit of a calibration."""

from __future__ import annotations

import numpy as np
from histogram_cases import contents
from hypothesis import given, settings
from hypothesis import strategies as st
from small_graphs import build

from inception_deploy.artifact import FloatArray
from inception_deploy.calibrate import calibrate, observe_histograms
from inception_deploy.calibrators import CALIBRATORS, Grid
from inception_deploy.engines import ENGINES
from inception_deploy.histograms import Histograms

MODEL = build(
    "a = Conv<pads=[1,1,1,1]>(input, w, b)\n c = Relu(a)\n d = GlobalAveragePool(c)\n"
    " e = Flatten(d)\n output = Gemm<transB=1>(e, v)",
    {"w": (16, 4, 3, 3), "b": (16,), "v": (5, 16)},
    shape="batch, 4, 12, 12",
)
TENSORS = ("input", "a", "c", "d", "output")


def observed(batches: list[FloatArray]) -> Histograms:
    engine = ENGINES.get("onnxruntime")
    return observe_histograms(
        MODEL, batches, tensors=TENSORS, engine=engine, data_digest="d", total=len(batches)
    )


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 12),
    spread=st.floats(-6, 6),
    data=st.data(),
)
def test_order_and_batches_change_nothing(
    seed: int, count: int, spread: float, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    scales = np.float32(10) ** rng.uniform(-abs(spread), abs(spread), (count, 1, 1, 1))
    images = rng.standard_normal((count, 4, 12, 12), np.float32) * scales.astype(np.float32)
    order = data.draw(st.permutations(range(count)))
    cuts = data.draw(st.lists(st.integers(1, count), max_size=4))
    pieces = [part for part in np.split(images[list(order)], sorted(cuts)) if len(part)]
    whole, split = observed([images]), observed(pieces)
    assert whole.images == split.images == count
    for tensor in TENSORS:
        assert contents(whole.tensors[tensor]) == contents(split.tensors[tensor])
    for calibrator in CALIBRATORS:
        for grid in (Grid(), Grid(symmetric=True)):
            assert calibrate(whole, calibrator, grid) == calibrate(split, calibrator, grid)
