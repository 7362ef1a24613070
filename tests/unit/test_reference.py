"""The reference network: random, embedded and local weights, and the preprocessing it brings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from inception_deploy import reference as reference_module
from inception_deploy.errors import BadInput, CheckpointError, RecipeError, UnknownName
from inception_deploy.model_card import ModelCard
from inception_deploy.networks import NETWORKS, InceptionNetwork
from inception_deploy.preprocess import Preprocessing
from inception_deploy.reference import embedded_networks, load_reference, overridden

SHAPES = ("circle", "square", "triangle")
SMALL = Preprocessing(size=96, resize=96, interpolation="bilinear")


def tensors_of(module: InceptionNetwork) -> Mapping[str, Tensor]:
    return module.state_dict()


def refusal(network: str | None, weights: str, **options: Any) -> str:
    with pytest.raises(BadInput) as caught:
        load_reference(network, weights, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def write_trained(
    folder: Path, network: str = "googlenet", name: str | None = None, **changes: Any
) -> InceptionNetwork:
    """A narrow network with its card, as the training script writes them."""
    extra: dict[str, Any] = {"repeats": [1, 2, 1]} if network == "inception_resnet_v2" else {}
    torch.manual_seed(5)
    module: InceptionNetwork = NETWORKS.get(network).build(num_classes=3, width=0.125, **extra)
    path = folder / f"{name or network}.safetensors"
    save_file(dict(module.state_dict()), path)
    card = ModelCard(
        network=network,
        width=0.125,
        num_classes=3,
        class_names=SHAPES,
        image_size=96,
        preprocessing=SMALL,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        build=extra,
        data="shapes",
        top1=97.25,
    )
    path.with_suffix(".json").write_text(json.dumps(card.to_dict() | changes))
    return module.eval()


@pytest.fixture
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(reference_module, "EMBEDDED_DIR", tmp_path)
    return tmp_path


class TestRandom:
    def test_it_says_that_nothing_was_trained(self) -> None:
        info = load_reference(
            "googlenet", "random:7", num_classes=4, width=0.125, image_size=64
        ).weights
        assert info.source == "random:7"
        assert not info.trained
        assert "NOT TRAINED" in info.detail
        assert info.num_classes == 4
        assert info.sha256 is None
        assert info.layout is None

    def test_defaults(self) -> None:
        reference = load_reference(None, "random", width=0.125, image_size=64)
        assert reference.spec.name == "googlenet"
        assert reference.weights.source == "random:0"
        assert reference.module.num_classes == 1000
        assert reference.preprocessing == reference.spec.preprocessing.with_size(64)
        assert reference.class_names is None
        assert reference.default_data is None

    @pytest.mark.parametrize("weights", ["random:x", "random:-1", "random:1.5"])
    def test_seeds_that_are_none(self, weights: str) -> None:
        assert "random:SEED" in refusal("googlenet", weights)


class TestHeadAndModule:
    @pytest.mark.parametrize(
        ("head", "columns"), [("logits", 6), ("probabilities", 6), ("features", 128)]
    )
    def test_heads(self, head: Any, columns: int) -> None:
        module = load_reference(
            "googlenet", "random", num_classes=6, head=head, width=0.125, image_size=64
        ).module
        assert module(torch.zeros(1, 3, 32, 32)).shape == (1, columns)

    def test_the_module_is_frozen_in_evaluation_mode(self) -> None:
        module = load_reference("googlenet", "random", width=0.125, image_size=64).module
        assert not any(m.training for m in module.modules())
        assert not any(p.requires_grad for p in module.parameters())
        assert {p.dtype for p in module.parameters()} == {torch.float32}

    def test_an_unknown_head(self) -> None:
        assert "did you mean 'logits'?" in refusal("googlenet", "random", head="logit")


class TestPreprocessing:
    def load(self, **options: Any) -> Preprocessing:
        return load_reference("googlenet", "random", width=0.125, **options).preprocessing

    def test_a_size_keeps_the_ratio_of_resize_to_crop(self) -> None:
        assert (self.load(image_size=112).size, self.load(image_size=112).resize) == (112, 128)

    def test_overrides(self) -> None:
        found = self.load(
            crop_pct=0.5, interpolation="lanczos", mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0)
        )
        assert found == Preprocessing(
            size=224, resize=448, interpolation="lanczos", mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0)
        )

    def test_overrides_are_rgb_0_to_1_whatever_the_network_wants(self) -> None:
        caffe = Preprocessing(
            size=224, resize=256, channel_order="BGR", pixel_max=255.0, mean=(104.0, 117.0, 123.0)
        )
        found = overridden(
            caffe,
            image_size=None,
            mean=(0.1, 0.2, 0.3),
            std=(0.4, 0.5, 0.6),
            crop_pct=None,
            interpolation=None,
        )
        assert found.mean == pytest.approx((76.5, 51.0, 25.5))
        assert found.std == pytest.approx((153.0, 127.5, 102.0))

    @pytest.mark.parametrize("network", NETWORKS.names())
    def test_an_image_below_the_minimum(self, network: str) -> None:
        minimum = NETWORKS.get(network).min_size
        message = refusal(network, "random", image_size=minimum - 1)
        assert f"image size {minimum - 1} is below the {minimum} pixels that {network}" in message

    def test_values_that_make_no_sense(self) -> None:
        assert "crop_pct" in refusal("googlenet", "random", width=0.125, crop_pct=0.0)
        assert "std" in refusal("googlenet", "random", width=0.125, std=(0.0, 1.0, 1.0))


class TestEmbedded:
    @pytest.mark.parametrize("network", ["googlenet", "inception_resnet_v2"])
    def test_card_and_tensors(self, embedded: Path, network: str) -> None:
        trained = write_trained(embedded, network)
        reference = load_reference(network, "embedded")
        loaded = tensors_of(reference.module)
        assert all(torch.equal(loaded[name], t) for name, t in tensors_of(trained).items())
        assert reference.module(torch.zeros(1, 3, 96, 96)).shape == (1, 3)
        assert reference.class_names == SHAPES
        assert reference.preprocessing == SMALL
        assert reference.default_data == "shapes"
        info = reference.weights
        assert (info.source, info.trained, info.num_classes) == ("embedded", True, 3)
        path = embedded / f"{network}.safetensors"
        assert info.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert "width 0.125, trained on shapes, validation top-1 97.25 %" in info.detail

    def test_googlenet_is_the_default(self, embedded: Path) -> None:
        write_trained(embedded, "googlenet")
        write_trained(embedded, "inception_resnet_v2")
        assert embedded_networks() == ("googlenet", "inception_resnet_v2")
        assert load_reference(None, "embedded").spec.name == "googlenet"

    def test_a_network_without_one(self, embedded: Path) -> None:
        write_trained(embedded)
        message = refusal("inception_v3", "embedded")
        assert "no weights of inception_v3 are embedded (embedded: googlenet)" in message
        assert "--weights pretrained" in message

    def test_another_digest_than_the_card_s(self, embedded: Path) -> None:
        write_trained(embedded, sha256="0" * 64)
        assert "does not match its card" in refusal("googlenet", "embedded")

    def test_a_missing_card(self, embedded: Path) -> None:
        write_trained(embedded)
        (embedded / "googlenet.json").unlink()
        assert "lacks its card googlenet.json" in refusal("googlenet", "embedded")

    def test_another_class_count(self, embedded: Path) -> None:
        write_trained(embedded)
        assert "3 classes, 5 were asked for" in refusal("googlenet", "embedded", num_classes=5)

    def test_arguments_the_network_does_not_take(self, embedded: Path) -> None:
        write_trained(embedded, build={"depth": 3})
        assert "googlenet cannot be built with {'depth': 3}" in refusal("googlenet", "embedded")


class TestPath:
    def test_torchvision_s_file_gives_torchvision_s_logits(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        theirs = torchvision.models.googlenet(
            weights=None, num_classes=5, transform_input=False, init_weights=False
        )
        path = tmp_path / "tuned.pth"
        torch.save({"state_dict": theirs.state_dict(), "epoch": 9}, path)
        reference = load_reference("googlenet", str(path), num_classes=5)
        x = torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            expected = theirs.eval()(x)
            error = (reference.module(x) - expected).abs().max() / expected.abs().max()
        assert float(error) <= 1e-5
        assert reference.weights.source == "tuned.pth"
        assert reference.weights.trained
        assert reference.weights.detail.endswith("20 auxiliary tensors dropped")
        assert reference.preprocessing.resize == 256
        assert reference.class_names is None

    def test_the_network_need_not_be_named(self, tmp_path: Path) -> None:
        path = tmp_path / "w.safetensors"
        save_file(dict(NETWORKS.get("googlenet").build(num_classes=5).state_dict()), path)
        assert load_reference(None, str(path)).spec.name == "googlenet"

    def folder(self, tmp_path: Path, **config: Any) -> str:
        save_file(
            dict(NETWORKS.get("googlenet").build(num_classes=3).state_dict()),
            tmp_path / "model.safetensors",
        )
        inner = {
            "input_size": [3, 192, 192],
            "crop_pct": 0.96,
            "interpolation": "bicubic",
            "mean": [0.4, 0.5, 0.6],
            "std": [0.2, 0.2, 0.2],
        }
        content = {"architecture": "googlenet", "pretrained_cfg": inner, **config}
        (tmp_path / "config.json").write_text(json.dumps(content))
        return str(tmp_path)

    def test_a_folder_brings_its_preprocessing_and_labels(self, tmp_path: Path) -> None:
        reference = load_reference("googlenet", self.folder(tmp_path, label_names=SHAPES))
        assert reference.preprocessing == Preprocessing(
            size=192, resize=200, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2)
        )
        assert reference.class_names == SHAPES
        assert reference.weights.source == tmp_path.name

    def test_labels_of_another_count(self, tmp_path: Path) -> None:
        path = self.folder(tmp_path, label_names=["a", "b"])
        assert "label_names must be a list of 3 names" in refusal("googlenet", path)

    def test_a_config_without_preprocessing(self, tmp_path: Path) -> None:
        path = self.folder(tmp_path, pretrained_cfg={"mean": [0, 0, 0]})
        assert "config.json lacks a usable input_size" in refusal("googlenet", path)

    def test_weights_with_a_card_of_ours(self, tmp_path: Path) -> None:
        write_trained(tmp_path, "inception_resnet_v2", name="mine")
        reference = load_reference(None, str(tmp_path / "mine.safetensors"))
        assert reference.spec.name == "inception_resnet_v2"
        assert reference.weights.source == "mine.safetensors"
        assert reference.class_names == SHAPES

    def test_a_card_of_another_network(self, tmp_path: Path) -> None:
        write_trained(tmp_path, "inception_resnet_v2", name="mine")
        message = refusal("googlenet", str(tmp_path / "mine.safetensors"))
        assert "weights of inception_resnet_v2 by its card, not of googlenet" in message

    def test_a_missing_file(self, tmp_path: Path) -> None:
        message = refusal("googlenet", str(tmp_path / "absent.pth"))
        assert message.startswith("no such weights file")
        assert "embedded, pretrained, random" in message

    def test_a_misspelt_source(self) -> None:
        assert "did you mean 'pretrained'?" in refusal("inception_v3", "pretraind:tv_in1k")


def test_options_that_contradict_each_other() -> None:
    with pytest.raises(RecipeError, match="width"):
        load_reference("googlenet", "embedded", width=0.5)
    with pytest.raises(RecipeError, match="at least 1"):
        load_reference("googlenet", "random", num_classes=0)
    with pytest.raises(UnknownName, match="did you mean 'inception_v3'"):
        load_reference("inception_v33", "random")
    with pytest.raises(CheckpointError, match=r"googlenet-1378be20\.pth .*--weights PATH"):
        load_reference("googlenet", "pretrained")
