"""The golden: FP32, complete, finite."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inception_deploy.artifact import FloatArray
from inception_deploy.errors import StageError
from inception_deploy.golden import BATCH, record_golden
from inception_deploy.networks import InceptionNetwork
from inception_deploy.networks.base import Head


class Tiny(InceptionNetwork):
    """Two blocks: a convolution, and a scaling whose output a later module overwrites in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.second = nn.Conv2d(4, 4, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward_features(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.second(self.first(x)))
        return out.mean((2, 3))

    def classify(self, features: Tensor) -> Tensor:
        return features

    def blocks(self) -> Iterator[tuple[str, nn.Module]]:
        yield "first", self.first
        yield "second", self.second


def noise(count: int = 3) -> FloatArray:
    return np.random.default_rng(1).standard_normal((count, 3, 5, 5)).astype(np.float32)


@pytest.mark.parametrize("head", ["logits", "probabilities", "features"])
def test_outputs_are_the_modules(head: Head) -> None:
    module, inputs = Tiny(), noise(BATCH + 3)
    module.head = head
    golden = record_golden(module, inputs)
    with torch.no_grad():
        expected = module(torch.from_numpy(inputs)).numpy()
    assert golden.output_name == head
    assert golden.outputs.dtype == np.float32
    assert golden.inputs is inputs
    np.testing.assert_allclose(golden.outputs, expected, rtol=0, atol=1e-5 * golden.scale)


def test_blocks_cover_the_first_images() -> None:
    module = Tiny()
    golden = record_golden(module, noise(BATCH + 2), block_images=BATCH + 1)
    assert list(golden.blocks) == ["first", "second"]
    assert golden.block_images == BATCH + 1
    assert {rows.shape for rows in golden.blocks.values()} == {(BATCH + 1, 4, 5, 5)}
    assert record_golden(module, noise(2), block_images=4).block_images == 2


def test_a_block_is_kept_as_it_was_before_later_modules_worked_in_place() -> None:
    golden = record_golden(Tiny(), noise())
    assert (golden.blocks["second"] < 0).any()


def test_full_precision_inside_and_the_users_settings_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    class Watching(Tiny):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(
                (
                    torch.get_float32_matmul_precision(),
                    torch.backends.cudnn.allow_tf32,
                    torch.is_grad_enabled(),
                    torch.is_autocast_enabled("cpu"),
                    self.training,
                )
            )
            return super().forward(x)

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            golden = record_golden(Watching().train(), noise())
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == [("highest", False, False, False, False)]
    assert torch.backends.cudnn.allow_tf32
    assert golden.outputs.dtype == np.float32


def test_no_hook_stays_behind() -> None:
    module = Tiny()
    record_golden(module, noise())
    with torch.no_grad():
        module.first.weight[0, 0] = float("nan")
    with pytest.raises(StageError):
        record_golden(module, noise())
    assert not module.first._forward_hooks
    assert not module.second._forward_hooks


def test_the_first_block_with_nan_is_named() -> None:
    module = Tiny()
    with torch.no_grad():
        module.get_parameter("second.bias")[2] = float("inf")
    with pytest.raises(StageError, match=r"block 'second' .* NaN or Inf"):
        record_golden(module, noise())


def test_nan_after_the_last_block_is_named_too() -> None:
    class Broken(Tiny):
        def classify(self, features: Tensor) -> Tensor:
            return features / 0.0

    with pytest.raises(StageError, match=r"the head .* NaN or Inf"):
        record_golden(Broken(), noise())


@pytest.mark.parametrize(
    "inputs",
    [noise().astype(np.float64), noise()[0], noise()[:0]],
    ids=["float64", "no batch axis", "no images"],
)
def test_inputs_of_another_kind_are_refused(inputs: Any) -> None:
    with pytest.raises(StageError, match=r"float32 \(N, 3, H, W\)"):
        record_golden(Tiny(), inputs)


def test_inputs_with_nan_are_refused() -> None:
    inputs = noise()
    inputs[1, 2, 3, 4] = np.nan
    with pytest.raises(StageError, match="inputs contain NaN"):
        record_golden(Tiny(), inputs)


def test_a_half_precision_network_is_refused() -> None:
    with pytest.raises(StageError, match="bfloat16 weights"):
        record_golden(Tiny().bfloat16(), noise())
