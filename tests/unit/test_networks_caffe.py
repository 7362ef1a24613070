"""GoogLeNet of the paper against Caffe's `bvlc_googlenet`, on tensors under Caffe's layer names.

Caffe cannot be installed here, so its published network (deploy.prototxt) is transcribed as plain
functions that share nothing with the package, its normalisation and pooling rules written out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from caffe_models import caffemodel
from peers import Drawn, block_outputs, loaded, noise, too_far
from small_networks import exported, golden_of
from torch import Tensor
from torch.nn import functional as F

from inception_deploy.engines import ENGINES
from inception_deploy.errors import CheckpointError
from inception_deploy.networks import NETWORKS
from inception_deploy.networks.googlenet_lrn import LRN
from inception_deploy.reference import load_reference

SPEC = NETWORKS.get("googlenet_lrn")
PIXELS = 60.0  # standard deviation of pixels in 0-255: LRN does nothing to values of order one


def lrn(x: Tensor, size: int = 5, alpha: float = 1e-4, beta: float = 0.75) -> Tensor:
    """Caffe's ACROSS_CHANNELS: x / (1 + alpha / size · Σ x²)^beta, channel by channel."""
    outputs = []
    for channel in range(x.shape[1]):
        near = x[:, max(channel - size // 2, 0) : channel + size // 2 + 1]
        outputs.append(x[:, channel] / (1 + alpha / size * near.square().sum(1)) ** beta)
    return torch.stack(outputs, 1)


def pool(x: Tensor, size: int, stride: int, pad: int) -> Tensor:
    """Caffe's MAX: sides round up, and no window starts in the padding on the far side."""
    sides = []
    for side in x.shape[2:]:
        count = math.ceil((side + 2 * pad - size) / stride) + 1
        if pad and (count - 1) * stride >= side + pad:
            count -= 1
        sides.append(count)
    far = [(count - 1) * stride + size - side - pad for count, side in zip(sides, x.shape[2:])]  # noqa: B905
    x = F.pad(x, (pad, max(far[1], 0), pad, max(far[0], 0)), value=-torch.inf)
    return F.max_pool2d(x, size, stride)[:, :, : sides[0], : sides[1]]


@dataclass
class Caffe:
    """One pass: the tensors of the model, and what every block put out."""

    tensors: Drawn = field(default_factory=lambda: Drawn(seed=9))
    blocks: dict[str, Tensor] = field(default_factory=dict)

    def conv(self, x: Tensor, layer: str, channels: int, size: int, stride: int = 1) -> Tensor:
        """Convolution with bias and half padding, ReLU."""
        fan_in = x.shape[1] * size * size
        shape = (channels, x.shape[1], size, size)
        weight = self.tensors.normal(f"{layer}.weight", *shape, std=(2 / fan_in) ** 0.5)
        bias = self.tensors.normal(f"{layer}.bias", channels, std=5.0)
        return F.relu(F.conv2d(x, weight, bias, stride, size // 2))

    def end(self, name: str, x: Tensor) -> Tensor:
        self.blocks[name] = x
        return x

    def logits(self, x: Tensor, classes: int) -> Tensor:
        x = self.end("conv1_7x7_s2", self.conv(x, "conv1/7x7_s2", 64, 7, 2))
        x = self.end("pool1_norm1", lrn(pool(x, 3, 2, 0)))
        x = self.end("conv2_3x3_reduce", self.conv(x, "conv2/3x3_reduce", 64, 1))
        x = self.end("conv2_3x3", self.conv(x, "conv2/3x3", 192, 3))
        x = pool(self.end("conv2_norm2", lrn(x)), 3, 2, 0)
        for row, ones, r3, threes, r5, fives, proj in (
            ("3a", 64, 96, 128, 16, 32, 32),
            ("3b", 128, 128, 192, 32, 96, 64),
            ("4a", 192, 96, 208, 16, 48, 64),
            ("4b", 160, 112, 224, 24, 64, 64),
            ("4c", 128, 128, 256, 24, 64, 64),
            ("4d", 112, 144, 288, 32, 64, 64),
            ("4e", 256, 160, 320, 32, 128, 128),
            ("5a", 256, 160, 320, 32, 128, 128),
            ("5b", 384, 192, 384, 48, 128, 128),
        ):
            if row in ("4a", "5a"):
                x = pool(x, 3, 2, 0)
            name = f"inception_{row}"
            branches = (
                self.conv(x, f"{name}/1x1", ones, 1),
                self.conv(self.conv(x, f"{name}/3x3_reduce", r3, 1), f"{name}/3x3", threes, 3),
                self.conv(self.conv(x, f"{name}/5x5_reduce", r5, 1), f"{name}/5x5", fives, 5),
                self.conv(pool(x, 3, 1, 1), f"{name}/pool_proj", proj, 1),
            )
            x = self.end(name, torch.cat(branches, 1))
        weight = self.tensors.normal("loss3/classifier.weight", classes, 1024, std=0.01)
        return x.mean((2, 3)) @ weight.t() + self.tensors.normal("loss3/classifier.bias", classes)


def as_zoo(name: str) -> str:
    """Caffe's name → the initialiser's in ONNX's model zoo."""
    return name.replace(".weight", "_w_0").replace(".bias", "_b_0")


@pytest.mark.parametrize("size", [64, 83])
@pytest.mark.parametrize(("rename", "layout"), [(str, "caffe"), (as_zoo, "onnx model zoo")])
def test_every_block_equals_caffe_s(size: int, rename: Callable[[str], str], layout: str) -> None:
    theirs, x = Caffe(), noise(size) * PIXELS
    expected = theirs.logits(x, 1000)
    assert sum(t.numel() for t in theirs.tensors.values()) == SPEC.params == 6_998_552
    ours, found = loaded("googlenet_lrn", {rename(n): t for n, t in theirs.tensors.items()})
    assert found.layout.name == layout
    names = [name for name, _ in ours.blocks()]
    assert names == list(theirs.blocks)
    assert too_far(names, block_outputs(ours, names, x), [*theirs.blocks.values(), expected]) == {}


def layers_of(tensors: Mapping[str, Tensor]) -> dict[str, list[Any]]:
    """Layer → its blobs, weight first."""
    layers: dict[str, list[Any]] = {}
    for name, tensor in tensors.items():
        layers.setdefault(name.rpartition(".")[0], []).append(tensor.numpy())
    return layers


@pytest.mark.parametrize("legacy", [True, False], ids=["layers", "layer"])
def test_a_caffemodel_gives_caffe_s_logits(tmp_path: Path, legacy: bool) -> None:
    theirs, x = Caffe(), noise(64) * PIXELS
    expected = theirs.logits(x, 1000)
    path = tmp_path / "bvlc_googlenet.caffemodel"
    path.write_bytes(caffemodel(layers_of(theirs.tensors), legacy=legacy))
    reference = load_reference(None, str(path), image_size=64)
    assert reference.spec is SPEC
    assert reference.weights.detail == "caffe layout, 1000 classes"
    with torch.no_grad():
        assert too_far([], [reference.module(x)], [expected]) == {}


def test_a_caffemodel_cut_between_two_layers_lacks_the_rest(tmp_path: Path) -> None:
    theirs = Caffe()
    theirs.logits(noise(64), 10)
    kept = {n: t for n, t in theirs.tensors.items() if not n.startswith("inception_5b/")}
    path = tmp_path / "cut.caffemodel"
    path.write_bytes(caffemodel(layers_of(kept)))
    with pytest.raises(CheckpointError, match=r"12 tensors missing \(inception_5b\.conv_1x1"):
        load_reference("googlenet_lrn", str(path))


def test_auxiliary_classifiers_are_dropped() -> None:
    theirs = Caffe()
    theirs.logits(noise(64), 10)
    auxiliary = {"loss1/conv.weight": torch.zeros(128, 512, 1, 1), "loss2/fc.bias": torch.zeros(3)}
    _, found = loaded("googlenet_lrn", {**theirs.tensors, **auxiliary})
    assert set(found.dropped) == set(auxiliary)


class TestLRNIsOneNativeNode:
    """ONNX, OpenVINO, Caffe and PyTorch divide alpha by the size; TensorFlow does not."""

    x = noise(7, channels=9) * PIXELS

    def test_it_equals_caffe_s_and_pytorch_s(self) -> None:
        torch.testing.assert_close(LRN()(self.x), lrn(self.x))
        torch.testing.assert_close(LRN()(self.x), F.local_response_norm(self.x, 5, 1e-4, 0.75, 1.0))
        assert not torch.allclose(LRN()(self.x), lrn(self.x, alpha=5e-4), rtol=0.05)

    @pytest.mark.parametrize("size", [1, 3, 5])
    def test_any_odd_window(self, size: int) -> None:
        ours = LRN(size, alpha=2e-3, beta=0.5)(self.x)
        torch.testing.assert_close(ours, lrn(self.x, size, alpha=2e-3, beta=0.5))

    def test_onnx_runtime_computes_the_same(self) -> None:
        node = onnx.helper.make_node("LRN", ["x"], ["y"], size=5, alpha=1e-4, beta=0.75, bias=1.0)
        value = onnx.helper.make_tensor_value_info
        shape = list(self.x.shape)
        graph = onnx.helper.make_graph(
            [node],
            "lrn",
            [value("x", onnx.TensorProto.FLOAT, shape)],
            [value("y", onnx.TensorProto.FLOAT, shape)],
        )
        opsets = [onnx.helper.make_opsetid("", 20)]
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
        # not onnx's own evaluator: its LRN counts channels along the batch (onnx 1.23)
        with ENGINES.get("onnxruntime").session(model.SerializeToString(), optimise=False) as run:
            native = run.infer({"x": self.x.numpy()})["y"]
        np.testing.assert_allclose(LRN()(self.x).numpy(), native, rtol=1e-5)

    def test_the_export_holds_two_and_nothing_of_a_decomposition(self) -> None:
        graph = exported("googlenet_lrn").model.graph
        found = [node for node in graph.node if node.op_type == "LRN"]
        assert [node.name for node in found] == ["pool1_norm1", "conv2_norm2"]
        for node in found:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            assert attributes["size"] == 5
            assert attributes["alpha"] == pytest.approx(1e-4)
            assert attributes["beta"] == pytest.approx(0.75)
            assert attributes["bias"] == pytest.approx(1.0)
        kinds = {node.op_type for node in graph.node}
        head = {"GlobalAveragePool", "Flatten", "Gemm"}
        assert kinds == {"Conv", "Relu", "MaxPool", "LRN", "Concat"} | head
        assert set(golden_of("googlenet_lrn").blocks) >= {"pool1_norm1", "conv2_norm2"}

    def test_gradients_flow(self) -> None:
        x = self.x.double().requires_grad_()
        assert torch.autograd.gradcheck(LRN(3, alpha=0.1), x[:1, :4, :2, :2] / PIXELS)
