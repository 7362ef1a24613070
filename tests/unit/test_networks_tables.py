"""Channels and grid after every block at the native size, as the papers and ports print them."""

from __future__ import annotations

import pytest
import torch
from peers import block_outputs

from inception_deploy.networks import NETWORKS

Row = tuple[str, int, int]


def shapes(network: str, size: int | None = None) -> list[Row]:
    """(block, channels, side); side 1 after the global pool."""
    spec = NETWORKS.get(network)
    with torch.device("meta"):
        module = spec.build().eval()
        names = [name for name, _ in module.blocks()]
        side = spec.input_size if size is None else size
        *outputs, _ = block_outputs(module, names, torch.empty(1, 3, side, side))
    assert all(t.ndim == 2 or t.shape[2] == t.shape[3] for t in outputs)
    sides = [t.shape[2] if t.ndim == 4 else 1 for t in outputs]
    return [(n, t.shape[1], s) for n, t, s in zip(names, outputs, sides, strict=True)]


INCEPTION_V1 = {  # arXiv 1409.4842, table 1
    **{"3a": (256, 28), "3b": (480, 28)},
    **{"4a": (512, 14), "4b": (512, 14), "4c": (512, 14), "4d": (528, 14), "4e": (832, 14)},
    **{"5a": (832, 7), "5b": (1024, 7)},
}


def test_googlenet() -> None:
    assert shapes("googlenet") == [
        *(("conv1", 64, 112), ("conv2", 64, 56), ("conv3", 192, 56)),
        *((f"inception{row}", *shape) for row, shape in INCEPTION_V1.items()),
    ]


def test_googlenet_lrn() -> None:
    assert shapes("googlenet_lrn") == [
        *(("conv1_7x7_s2", 64, 112), ("pool1_norm1", 64, 56)),
        *(("conv2_3x3_reduce", 64, 56), ("conv2_3x3", 192, 56), ("conv2_norm2", 192, 56)),
        *((f"inception_{row}", *shape) for row, shape in INCEPTION_V1.items()),
    ]


def test_bn_inception() -> None:
    """arXiv 1502.03167, figure 5."""
    rows = {
        **{"3a": (256, 28), "3b": (320, 28), "3c": (576, 14)},
        **{"4a": (576, 14), "4b": (576, 14), "4c": (608, 14), "4d": (608, 14), "4e": (1056, 7)},
        **{"5a": (1024, 7), "5b": (1024, 7)},
    }
    assert shapes("bn_inception") == [
        *(("conv1_7x7_s2", 64, 112), ("conv2_3x3_reduce", 64, 56), ("conv2_3x3", 192, 56)),
        *((f"inception_{row}", *shape) for row, shape in rows.items()),
    ]


def test_inception_v2() -> None:
    """arXiv 1512.00567, table 1: the printed rows, with the reductions between them."""
    assert shapes("inception_v2") == [
        *(("Conv2d_1a_3x3", 32, 149), ("Conv2d_2a_3x3", 32, 147), ("Conv2d_2b_3x3", 64, 147)),
        *(("Conv2d_3b_3x3", 80, 71), ("Conv2d_4a_3x3", 192, 35), ("Conv2d_4b_3x3", 288, 35)),
        *((f"Mixed_5{letter}", 288, 35) for letter in "bcd"),
        *((f"Mixed_6{letter}", 768, 17) for letter in "abcdef"),
        *(("Mixed_7a", 1280, 8), ("Mixed_7b", 2048, 8), ("Mixed_7c", 2048, 8)),
    ]


@pytest.mark.parametrize("network", ["inception_v3", "inception_v3_fid"])
def test_inception_v3(network: str) -> None:
    assert shapes(network) == [
        *(("Conv2d_1a_3x3", 32, 149), ("Conv2d_2a_3x3", 32, 147), ("Conv2d_2b_3x3", 64, 147)),
        *(("Conv2d_3b_1x1", 80, 73), ("Conv2d_4a_3x3", 192, 71)),
        *(("Mixed_5b", 256, 35), ("Mixed_5c", 288, 35), ("Mixed_5d", 288, 35)),
        *((f"Mixed_6{letter}", 768, 17) for letter in "abcde"),
        *(("Mixed_7a", 1280, 8), ("Mixed_7b", 2048, 8), ("Mixed_7c", 2048, 8)),
    ]


def test_inception_v4() -> None:
    """arXiv 1602.07261, figures 3 and 9."""
    rows = [
        *((32, 149), (32, 147), (64, 147), (160, 73), (192, 71), (384, 35)),
        *[(384, 35)] * 4,
        *[(1024, 17)] * 8,
        *[(1536, 8)] * 4,
    ]
    assert shapes("inception_v4") == [(f"features.{i}", *row) for i, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("size", "sides"),
    [(160, (79, 77, 77, 38, 36, 17, 8, 3)), (299, (149, 147, 147, 73, 71, 35, 17, 8))],
)
def test_inception_resnet_v1(size: int, sides: tuple[int, ...]) -> None:
    """The paper's 35, 17 and 8 are 17, 8 and 3 on facenet's 160-pixel faces."""
    stem = ("conv2d_1a", "conv2d_2a", "conv2d_2b", "conv2d_3b", "conv2d_4a", "conv2d_4b")
    first, second, third = sides[5:]
    assert shapes("inception_resnet_v1", size) == [
        *zip(stem, (32, 32, 64, 80, 192, 256), sides[:6], strict=True),
        *((f"repeat_1.{index}", 256, first) for index in range(5)),
        ("mixed_6a", 896, second),
        *((f"repeat_2.{index}", 896, second) for index in range(10)),
        ("mixed_7a", 1792, third),
        *((f"repeat_3.{index}", 1792, third) for index in range(5)),
        *(("block8", 1792, third), ("last_bn", 512, 1)),
    ]


def test_inception_resnet_v2() -> None:
    assert shapes("inception_resnet_v2") == [
        *(("conv2d_1a", 32, 149), ("conv2d_2a", 32, 147), ("conv2d_2b", 64, 147)),
        *(("conv2d_3b", 80, 73), ("conv2d_4a", 192, 71), ("mixed_5b", 320, 35)),
        *((f"repeat.{index}", 320, 35) for index in range(10)),
        ("mixed_6a", 1088, 17),
        *((f"repeat_1.{index}", 1088, 17) for index in range(20)),
        ("mixed_7a", 2080, 8),
        *((f"repeat_2.{index}", 2080, 8) for index in range(9)),
        *(("block8", 2080, 8), ("conv2d_7b", 1536, 8)),
    ]
