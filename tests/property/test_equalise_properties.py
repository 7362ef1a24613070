"""Whatever channels are scaled by, nothing changes in float."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from random_graphs import BATCH, CHANNELS, SIDE, models

from inception_deploy.channel_groups import FIXED, channel_groups
from inception_deploy.channel_scales import STEPS, ChannelScales
from inception_deploy.engines import ENGINES
from inception_deploy.equalise import with_scales
from inception_deploy.graphs import tensor_names

SEEDS = st.integers(0, 2**32 - 1)


def drawn_scales(model: onnx.ModelProto, seed: int, *, octaves: bool) -> ChannelScales:
    """One exponent per group; whole octaves make factors that float32 multiplies by exactly."""
    groups = channel_groups(model)
    rng = np.random.default_rng(seed)
    count = 1 + max(int(g.max(initial=FIXED)) for g in groups.values())
    exponents = rng.integers(0, 4, count) * STEPS if octaves else rng.integers(0, 33, count)
    exponents[FIXED] = 0
    present = tensor_names(model)
    found = {t: exponents[g].astype(np.uint8) for t, g in groups.items() if t in present}
    return ChannelScales({tensor: k for tensor, k in found.items() if k.any()})


def everything(model: onnx.ModelProto, seed: int) -> dict[str, NDArray[np.float32]]:
    """Values of all tensors, as the graph is written."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    shown = {value.name for value in probe.graph.output}
    probe.graph.output.extend(v for v in probe.graph.value_info if v.name not in shown)
    images = np.random.default_rng(seed).standard_normal((BATCH, CHANNELS, SIDE, SIDE))
    with ENGINES.get("onnxruntime").session(probe.SerializeToString(), optimise=False) as session:
        return session.infer({"input": images.astype(np.float32)})


@settings(max_examples=25, deadline=None)
@given(models(), SEEDS)
def test_whole_octaves_change_no_bit(model: onnx.ModelProto, seed: int) -> None:
    scales = drawn_scales(model, seed, octaves=True)
    before, after = everything(model, seed), everything(with_scales(model, scales), seed)
    for name, values in before.items():
        assert np.array_equal(scales.restored(name, after[name]), values), name


@settings(max_examples=25, deadline=None)
@given(models(), SEEDS)
def test_other_factors_change_float32_noise(model: onnx.ModelProto, seed: int) -> None:
    scales = drawn_scales(model, seed, octaves=False)
    before, after = everything(model, seed), everything(with_scales(model, scales), seed)
    for name, values in before.items():
        back = scales.restored(name, after[name])
        np.testing.assert_allclose(back, values, atol=2e-5 * np.abs(values).max(initial=1e-30))
