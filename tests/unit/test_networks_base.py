"""The shared pieces: widths, channel counts, initialisation, batch-norm calibration."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from inception_deploy.networks.base import (
    ConvNormAct,
    Fork,
    calibrate_batch_norm,
    output_channels,
    scaled,
)
from inception_deploy.networks.inception_resnet_v2 import InceptionResNetV2


@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    [(64, 1.0, 64), (3, 1.0, 3), (64, 0.5, 32), (16, 0.125, 8), (208, 0.25, 52), (64, 1.5, 96)],
)
def test_scaled_follows_the_depth_multiplier_rule(
    channels: int, width: float, expected: int
) -> None:
    assert scaled(channels, width) == expected


def test_output_channels_takes_each_branch_s_last_convolution() -> None:
    single = ConvNormAct(4, 5, 1)
    double = nn.Sequential(nn.MaxPool2d(2), ConvNormAct(4, 9, 1), ConvNormAct(9, 7, 3))
    assert output_channels(single, double) == 12
    assert output_channels(single, double) == single.out_channels + 7


def test_a_fork_concatenates_in_order_and_passes_pools_through() -> None:
    chain = nn.Sequential(ConvNormAct(4, 9, 1), ConvNormAct(9, 7, 2, stride=2))
    fork = Fork(4, last=nn.MaxPool2d(2), first=chain).eval()
    assert fork.out_channels == 4 + 7
    assert [name for name, _ in fork.named_children()] == ["last", "first"]
    x = torch.randn(2, 4, 6, 6)
    out = fork(x)
    assert out.shape == (2, 11, 3, 3)
    assert torch.equal(out[:, :4], nn.functional.max_pool2d(x, 2))
    assert torch.equal(out[:, 4:], chain(x))


def test_a_bias_before_batch_norm_is_the_exception() -> None:
    assert ConvNormAct(3, 4, 1).conv.bias is None
    assert ConvNormAct(3, 4, 1, bias=True).conv.bias is not None


def test_calibration_reaches_batch_norm_after_pooling() -> None:
    torch.manual_seed(0)
    linear, norm = nn.Linear(12, 5), nn.BatchNorm1d(5)
    images = torch.randn(16, 3, 2, 2)
    calibrate_batch_norm(nn.Sequential(nn.Flatten(), linear, norm), images)
    outputs = linear(images.flatten(1))
    torch.testing.assert_close(norm.running_mean, outputs.mean(0))
    torch.testing.assert_close(norm.running_var, outputs.var(0, correction=0))


def test_initialisation_is_he_normal() -> None:
    torch.manual_seed(0)
    module = InceptionResNetV2(num_classes=10, width=0.25, repeats=(1, 1, 1))
    weight = module.conv2d_7b.conv.weight.detach()
    assert float(weight.std()) == pytest.approx((2 / weight.shape[1]) ** 0.5, rel=0.02)
    assert float(module.classif.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
    assert module.classif.bias.count_nonzero() == 0
    assert module.block8.conv2d.bias is not None
    assert module.block8.conv2d.bias.count_nonzero() == 0


def test_repeats_set_the_residual_blocks() -> None:
    module = InceptionResNetV2(num_classes=10, width=0.125, repeats=(2, 3, 1))
    names = [name for name, _ in module.blocks()]
    assert names == [
        *("conv2d_1a", "conv2d_2a", "conv2d_2b", "conv2d_3b", "conv2d_4a", "mixed_5b"),
        *("repeat.0", "repeat.1", "mixed_6a", "repeat_1.0", "repeat_1.1", "repeat_1.2"),
        *("mixed_7a", "repeat_2.0", "block8", "conv2d_7b"),
    ]
    assert module.eval()(torch.zeros(1, 3, 75, 75)).shape == (1, 10)


def test_calibration_gives_normalised_activations_and_restores_the_module() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(ConvNormAct(3, 8, 3), ConvNormAct(8, 6, 3)).train()
    images = torch.randn(4, 3, 16, 16) * 5 + 3
    calibrate_batch_norm(module, images)
    assert all(m.training for m in module.modules())

    last = module.get_submodule("1.bn")
    assert isinstance(last, nn.BatchNorm2d)
    assert last.running_mean is not None
    statistics = last.running_mean.clone()
    seen: list[torch.Tensor] = []
    last.register_forward_hook(lambda _m, _i, output: seen.append(output.clone()))
    module.eval()(images)
    assert torch.equal(last.running_mean, statistics)  # measured once, and not again
    torch.testing.assert_close(seen[0].mean((0, 2, 3)), torch.zeros(6), atol=1e-5, rtol=0)
    assert last.running_var is not None
    expected = last.running_var / (last.running_var + last.eps)
    torch.testing.assert_close(seen[0].var((0, 2, 3), correction=0), expected)


def test_calibration_restores_the_module_when_the_images_do_not_fit() -> None:
    module = nn.Sequential(ConvNormAct(3, 8, 3)).train()
    with pytest.raises(RuntimeError):
        calibrate_batch_norm(module, torch.zeros(1, 4, 8, 8))
    assert module.training
    norm = module.get_submodule("0.bn")
    assert not norm._forward_pre_hooks
