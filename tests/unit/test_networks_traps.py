"""What goes wrong when these networks are ported, each with a test of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from peers import BOUND, loaded, noise, randomise, relative_errors
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from inception_deploy.checkpoints import Checkpoint
from inception_deploy.errors import CheckpointError, RecipeError
from inception_deploy.matching import Match, blank, identify, match
from inception_deploy.networks import NETWORKS, InceptionNetwork, NetworkSpec
from inception_deploy.networks.googlenet import GoogLeNet
from inception_deploy.networks.inception_resnet_v1 import InceptionResNetV1
from inception_deploy.networks.inception_resnet_v2 import InceptionResNetV2
from inception_deploy.networks.inception_v3 import InceptionV3
from inception_deploy.networks.inception_v3_fid import InceptionV3FID
from inception_deploy.preprocess import IMAGENET_MEAN, IMAGENET_STD
from inception_deploy.reference import load_reference

WIDTH = 0.125


def built(network: str) -> InceptionNetwork:
    return NETWORKS.get(network).build(num_classes=10, width=WIDTH).eval()


def checkpoint(tensors: dict[str, Tensor]) -> Checkpoint:
    return Checkpoint(Path("weights.pth"), "0" * 64, tensors)


def fitted(weights: Checkpoint, spec: NetworkSpec, num_classes: int | None = None) -> Match:
    return match(weights, spec, num_classes=num_classes, width=WIDTH)


def zeros(network: str, classes: int) -> dict[str, Tensor]:
    """A narrow state dict in the network's own names; row r of the classifier holds r."""
    spec = NETWORKS.get(network)
    blueprint = blank(spec, classes, WIDTH).state_dict()
    tensors = {name: torch.zeros(tensor.shape) for name, tensor in blueprint.items()}
    for part in ("weight", "bias"):
        rows = tensors[f"{spec.classifier}.{part}"]
        rows += torch.arange(float(classes)).reshape(-1, *[1] * (rows.ndim - 1))
    return tensors


class TestPaddingOfAveragePools:
    """Counted by torchvision's, timm's and Caffe's networks, excluded where TensorFlow's SAME is
    reproduced."""

    @pytest.mark.parametrize(
        ("network", "corner"),
        [
            ("bn_inception", 4 / 9),
            ("inception_v3", 4 / 9),
            ("inception_v2", 1.0),
            ("inception_v3_fid", 1.0),
            ("inception_v4", 1.0),
            ("inception_resnet_v2", 1.0),
        ],
    )
    def test_the_corner_of_a_constant_map(self, network: str, corner: float) -> None:
        pools = [m for m in built(network).modules() if isinstance(m, nn.AvgPool2d)]
        assert pools
        for pool in pools:
            pooled = pool(torch.ones(1, 1, 5, 5))
            assert pooled.shape == (1, 1, 5, 5)
            assert float(pooled[..., 0, 0]) == pytest.approx(corner)
            assert torch.equal(pooled[..., 1:-1, 1:-1], torch.ones(1, 1, 3, 3))

    def test_a_ninth_of_a_35_by_35_map_changes(self) -> None:
        x = torch.rand(1, 1, 35, 35)
        include, exclude = (
            next(m for m in InceptionV3(width=WIDTH, count_include_pad=flag).modules()
                 if isinstance(m, nn.AvgPool2d))
            for flag in (True, False)
        )  # fmt: skip
        changed = include(x) != exclude(x)
        assert float(changed.float().mean()) == pytest.approx(1 - 33**2 / 35**2)

    def test_slim_s_weights_get_slim_s_pools(self) -> None:
        layouts = {layout.name: layout for layout in NETWORKS.get("inception_v3").layouts}
        assert layouts["tf-slim"].build == {"count_include_pad": False}
        assert layouts["torchvision"].build == layouts["timm"].build == {}


class TestPoolsOfTheFIDNetwork:
    """FID's Inception takes the maximum in 7c, and in 7c only."""

    @pytest.mark.parametrize("network", ["inception_v3", "inception_v3_fid"])
    def test_kinds(self, network: str) -> None:
        module = built(network)
        kinds = {name: type(getattr(block, "pool", None)) for name, block in module.blocks()}
        last = nn.MaxPool2d if network.endswith("fid") else nn.AvgPool2d
        assert kinds["Mixed_7c"] is last
        assert {kinds[f"Mixed_{n}"] for n in ("5b", "5c", "5d", "6b", "6e", "7b")} == {nn.AvgPool2d}

    def test_each_pool_shows_in_the_features(self) -> None:
        torch.manual_seed(0)
        plain = InceptionV3(num_classes=10, width=WIDTH).eval()
        variants = [
            InceptionV3(num_classes=10, width=WIDTH, count_include_pad=False),
            InceptionV3FID(num_classes=10, width=WIDTH),
        ]
        with torch.no_grad():
            outputs = [plain.forward_features(noise(139))]
            for variant in variants:
                variant.load_state_dict(plain.state_dict())
                outputs.append(variant.eval().forward_features(noise(139)))
        assert relative_errors([outputs[1]], [outputs[0]])[0] > 0.01
        assert relative_errors([outputs[2]], [outputs[1]])[0] > 0.01


class TestEpsilonOfBatchNorm:
    """1e-3 where TensorFlow trained, 1e-5 in BN-Inception's port."""

    @pytest.mark.parametrize(
        ("network", "epsilon"),
        [
            ("bn_inception", 1e-5),
            ("googlenet", 1e-3),
            ("inception_v2", 1e-3),
            ("inception_v3", 1e-3),
            ("inception_v3_fid", 1e-3),
            ("inception_v4", 1e-3),
            ("inception_resnet_v1", 1e-3),
            ("inception_resnet_v2", 1e-3),
        ],
    )
    def test_of_every_layer(self, network: str, epsilon: float) -> None:
        norms = (nn.BatchNorm1d, nn.BatchNorm2d)
        found = {m.eps for m in built(network).modules() if isinstance(m, norms)}
        assert found == {epsilon}


class TestTransformInput:
    """torchvision's layer re-maps ImageNet-normalised pixels to 0.5/0.5; here pixels are so
    normalised at once. Either, never both."""

    @staticmethod
    def theirs(network: str) -> Any:
        build = {
            "googlenet": torchvision.models.googlenet,
            "inception_v3": torchvision.models.inception_v3,
        }[network]
        module = build(weights=None, aux_logits=True, transform_input=True, init_weights=False)
        randomise(module, seed=3, gain=2.0)
        return module.eval()

    @pytest.mark.parametrize("network", ["googlenet", "inception_v3"])
    def test_either_but_not_both(self, network: str) -> None:
        theirs = self.theirs(network)
        ours, found = loaded(network, theirs.state_dict())
        assert found.layout.name == "torchvision"
        preprocessing = found.layout.preprocessing
        assert preprocessing.mean == preprocessing.std == (0.5, 0.5, 0.5)
        pixels = np.random.default_rng(0).integers(0, 256, (2, 97, 97, 3), np.uint8)
        imagenet = (pixels / 255.0 - IMAGENET_MEAN) / IMAGENET_STD
        normalised = torch.from_numpy(imagenet.transpose(0, 3, 1, 2).astype(np.float32))
        with torch.no_grad():
            expected = theirs(normalised)
            once = ours(torch.from_numpy(preprocessing.normalise(pixels)))
            twice = theirs(torch.from_numpy(preprocessing.normalise(pixels)))
        assert relative_errors([once], [expected])[0] <= BOUND
        assert relative_errors([twice], [expected])[0] > 1e-3

    def test_timm_s_weights_say_the_same(self) -> None:
        config = timm.get_pretrained_cfg("inception_v3.tv_in1k")
        assert config is not None
        assert config.mean == config.std == (0.5, 0.5, 0.5)


class TestTheLastBlock8:
    """Linear, with scale 1: a ReLU would cut off half of what is classified."""

    @pytest.mark.parametrize("network", ["inception_resnet_v1", "inception_resnet_v2"])
    def test_it_adds_and_does_nothing_else(self, network: str) -> None:
        torch.manual_seed(0)
        module = built(network)
        assert isinstance(module, (InceptionResNetV1, InceptionResNetV2))
        ups: list[Tensor] = []
        module.block8.conv2d.register_forward_hook(lambda _m, _i, up: ups.append(up))
        channels = module.block8.conv2d.out_channels
        x = torch.randn(2, channels, 3, 3).relu()
        with torch.no_grad():
            out = module.block8(x)
        assert torch.equal(out, x + ups[0])
        assert float((out < 0).float().mean()) > 0.1

    @pytest.mark.parametrize("network", ["inception_resnet_v1", "inception_resnet_v2"])
    def test_all_other_blocks_scale_and_rectify(self, network: str) -> None:
        module = built(network)
        scales: dict[float, int] = {}
        for name, block in module.blocks():
            if name.startswith("repeat"):
                assert isinstance(block.relu, nn.ReLU)
                scale = block.scale
                assert isinstance(scale, float)
                scales[scale] = scales.get(scale, 0) + 1
        count = (5, 10, 5) if network.endswith("v1") else (10, 20, 9)
        assert scales == dict(zip((0.17, 0.10, 0.20), count, strict=True))


class TestBGRInputs:
    """Caffe's networks take BGR pixels of 0–255 minus a mean, not scaled."""

    @pytest.mark.parametrize(
        ("network", "mean"),
        [("bn_inception", (104, 117, 128)), ("googlenet_lrn", (104, 117, 123))],
    )
    def test_a_red_image(self, network: str, mean: tuple[int, int, int]) -> None:
        spec = NETWORKS.get(network)
        red = Image.new("RGB", (320, 256), (255, 0, 10))
        blue, green, third = spec.preprocessing(red)
        assert blue.shape == (224, 224)
        assert np.unique(blue).tolist() == [10 - mean[0]]
        assert np.unique(green).tolist() == [0 - mean[1]]
        assert np.unique(third).tolist() == [255 - mean[2]]

    def test_options_are_given_as_rgb_in_0_to_1_all_the_same(self) -> None:
        """--mean and --std speak of RGB pixels in 0-1 for every network."""
        reference = load_reference(
            "bn_inception", "random:0", width=WIDTH, image_size=32, mean=(0.4, 0.2, 0.1)
        )
        assert reference.preprocessing.mean == pytest.approx((25.5, 51.0, 102.0))
        assert reference.preprocessing.channel_order == "BGR"


class TestClassCounts:
    """1001 rows start with the background, 1008 are the FID network's."""

    @pytest.mark.parametrize("network", ["inception_v3", "inception_v4", "inception_resnet_v2"])
    def test_row_0_of_1001_is_dropped(self, network: str) -> None:
        spec = NETWORKS.get(network)
        found = fitted(checkpoint(zeros(network, 1001)), spec)
        assert found.background_dropped
        assert found.state_dict[f"{spec.classifier}.bias"].tolist() == list(range(1, 1001))
        kept = fitted(checkpoint(zeros(network, 1001)), spec, num_classes=1001)
        assert not kept.background_dropped
        assert kept.num_classes == 1001

    @pytest.mark.parametrize("network", ["googlenet", "bn_inception", "inception_resnet_v1"])
    def test_1001_classes_without_a_background_are_kept(self, network: str) -> None:
        found = fitted(checkpoint(zeros(network, 1001)), NETWORKS.get(network))
        assert found.num_classes == 1001

    def test_1008_rows_are_the_fid_network_s(self) -> None:
        tensors = zeros("inception_v3", 1008)
        assert identify(checkpoint(tensors)).name == "inception_v3_fid"
        assert fitted(checkpoint(tensors), NETWORKS.get("inception_v3_fid")).num_classes == 1008
        with pytest.raises(CheckpointError) as caught:
            fitted(checkpoint(tensors), NETWORKS.get("inception_v3"))
        assert "with 1008 classes these are weights of inception_v3_fid" in str(caught.value)
        assert "confirm with --num-classes 1008" in str(caught.value)

    def test_a_fine_tuned_1008_class_network_can_say_so(self) -> None:
        found = fitted(checkpoint(zeros("inception_v3", 1008)), NETWORKS.get("inception_v3"),
                      num_classes=1008)  # fmt: skip
        assert found.layout.name == "timm"

    def test_1000_rows_are_not(self) -> None:
        with pytest.raises(
            CheckpointError, match=r"weights of inception_v3 \(timm layout\), not of"
        ):
            fitted(checkpoint(zeros("inception_v3", 1000)), NETWORKS.get("inception_v3_fid"))


class TestTheFiveByFives:
    """3×3 in the BN GoogLeNet's trained weights, real in the paper's."""

    @pytest.mark.parametrize(
        ("network", "layer", "side"),
        [
            ("googlenet", "inception3a.branch3.1.conv", 3),
            ("googlenet_lrn", "inception_3a.conv_5x5.conv", 5),
            ("inception_v3", "Mixed_5b.branch5x5_2.conv", 5),
        ],
    )
    def test_kernels(self, network: str, layer: str, side: int) -> None:
        conv = built(network).get_submodule(layer)
        assert isinstance(conv, nn.Conv2d)
        assert conv.kernel_size == (side, side)

    def test_the_last_pool_differs_too(self) -> None:
        assert built("googlenet").get_submodule("maxpool4").kernel_size == 2
        assert built("googlenet_lrn").get_submodule("pool4_3x3_s2").kernel_size == 3


class TestStridedPaddingOfTensorFlow:
    """7×7/2 SAME on an even side pads (2, 3), the ports (3, 3)."""

    def test_the_stem_for_slim_s_weights(self) -> None:
        torch.manual_seed(0)
        port = GoogLeNet(num_classes=10, width=WIDTH).eval()
        same = GoogLeNet(num_classes=10, width=WIDTH, same_padding=True).eval()
        same.load_state_dict(port.state_dict())
        x = noise(64)
        with torch.no_grad():
            expected = port.conv1.conv.weight
            shifted = F.conv2d(F.pad(x, (2, 3, 2, 3)), expected, stride=2)
            assert torch.equal(same.conv1.conv(same.pad(x)), shifted)
            assert same(x).shape == port(x).shape
            assert relative_errors([same(x)], [port(x)])[0] > 1e-3

    @pytest.mark.parametrize("side", [112, 56, 28])
    def test_pools_that_round_up_are_the_same_on_even_sides(self, side: int) -> None:
        pool = GoogLeNet(width=WIDTH).maxpool1
        x = noise(side)
        assert torch.equal(pool(x), F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-torch.inf), 3, 2))


class TestBNInception:
    """A bias before every batch norm; strides that want even maps; a max pool in 5b."""

    def test_every_convolution_has_a_bias(self) -> None:
        convolutions = [m for m in built("bn_inception").modules() if isinstance(m, nn.Conv2d)]
        assert len(convolutions) == 69
        assert all(layer.bias is not None for layer in convolutions)

    def test_the_last_pool_takes_the_maximum(self) -> None:
        module = built("bn_inception")
        kinds = {name: type(block.pool) for name, block in module.blocks() if "inception" in name}
        maxima = {name for name, kind in kinds.items() if kind is nn.MaxPool2d}
        assert maxima == {"inception_3c", "inception_4e", "inception_5b"}

    def test_sizes_between_multiples_of_32_are_refused(self) -> None:
        with pytest.raises(RecipeError, match=r"no multiple of 32.*ask for 96 or 128"):
            load_reference("bn_inception", "random:0", image_size=100)


class TestNames:
    """Three networks are called Inception v2 by somebody."""

    def test_rethinking_s_is_not_batch_normalisation_s(self) -> None:
        papers = {name: NETWORKS.get(name).paper for name in ("inception_v2", "bn_inception")}
        assert papers == {"inception_v2": "1512.00567", "bn_inception": "1502.03167"}

    def test_nobody_published_rethinking_s(self) -> None:
        with pytest.raises(CheckpointError, match="nobody has published weights of inception_v2"):
            load_reference("inception_v2", "pretrained")
