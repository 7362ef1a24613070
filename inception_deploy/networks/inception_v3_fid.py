"""The Inception v3 that FID is measured with: TensorFlow's `inception-2015-12-05`, via pytorch-fid.

An earlier training of `inception_v3` with the same tensors and other pools: average pools exclude
their padding, and the last block's takes the maximum. The classifier has 1008 rows, of which 1000
were trained. FID compares the 2048 pooled features (arXiv 1706.08500), so ask for
`--head features`.
"""

from __future__ import annotations

from inception_deploy.networks.base import CheckpointLayout, NetworkSpec
from inception_deploy.networks.inception_v3 import InceptionV3
from inception_deploy.preprocess import Preprocessing

__all__ = ["NETWORKS", "InceptionV3FID"]


class InceptionV3FID(InceptionV3):
    """Inception v3 with the pools of the FID network; 299×299 natively, 2048 features."""

    def __init__(self, num_classes: int = 1008, width: float = 1.0, dropout: float = 0.2) -> None:
        super().__init__(num_classes, width, dropout, count_include_pad=False, max_pool_7c=True)


def _key(key: str) -> str | None:
    return key


# FID implementations resize the whole image to 299×299 and crop nothing. Here the shorter side
# becomes 299 and the longer one is cropped, which is the same for square images; and Pillow smooths
# where pytorch-fid's `interpolate` samples four pixels, which is the better practice (2104.11222),
# but moves FID values: do not mix numbers of the two.
PREPROCESSING = Preprocessing(size=299, resize=299, interpolation="bilinear")

NETWORKS = (
    NetworkSpec(
        name="inception_v3_fid",
        title="Inception v3 (FID)",
        paper="1512.00567",
        build=InceptionV3FID,
        min_size=75,
        preprocessing=PREPROCESSING,
        params=23_850_960,
        macs=5_713_232_480,
        classifier="fc",
        num_classes=1008,
        layouts=(
            CheckpointLayout(
                name="pytorch-fid",
                signature=frozenset({"Mixed_5b.branch5x5_1.conv.weight", "fc.weight"}),
                rename=_key,
                preprocessing=PREPROCESSING,
                classes=1008,
            ),
        ),
        download="pytorch-fid's pt_inception-2015-12-05-6726825d.pth",
    ),
)
