"""InceptionNeXt: against timm's, the published table, the mixer's split and the layer scale."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import timm
import torch
from peers import block_outputs, layer_counts, loaded, noise, randomise, relative_errors
from small_networks import CLASSES, golden_of, images, small_network
from torch import nn

from inception_deploy.export import export
from inception_deploy.networks import NETWORKS
from inception_deploy.networks.inception_next import InceptionNeXt, MetaNeXtBlock, TokenMixer
from inception_deploy.preprocess import IMAGENET_MEAN, IMAGENET_STD

BOUND = 1e-5  # max |ours - theirs| / max |theirs|

SIZES = ("atto", "tiny", "small", "base")

each_size = pytest.mark.parametrize("size", SIZES)


@pytest.fixture(autouse=True)
def _lean() -> Iterator[None]:
    """No gradients, and one thread: small images only wait on a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


def timm_network(size: str, seed: int = 3) -> nn.Module:
    module: nn.Module = timm.create_model(f"inception_next_{size}", pretrained=False)
    randomise(module, seed)
    return module.eval()


def timm_name(block: str) -> str:
    return f"head.{block}" if block in ("fc1", "norm") else block


@pytest.mark.parametrize(
    ("size", "side"), [("atto", 79), ("tiny", 79), ("small", 47), ("base", 47)]
)
def test_every_block_equals_timm_s(size: str, side: int) -> None:
    """Sides that no stride divides: what is left over is dropped."""
    theirs = timm_network(size)
    ours, found = loaded(f"inception_next_{size}", theirs.state_dict())
    assert found.layout.name == "timm"
    names = [name for name, _ in ours.blocks()]
    got = block_outputs(ours, names, noise(side))
    expected = block_outputs(theirs, map(timm_name, names), noise(side))
    errors = dict(zip([*names, "logits"], relative_errors(got, expected), strict=True))
    assert {name: error for name, error in errors.items() if not error <= BOUND} == {}


@each_size
def test_counts_are_the_published_ones(size: str) -> None:
    params, giga_macs, *rest = {
        "atto": (4_156_520, "0.503", 64, 16, 4_336, 226),
        "tiny": (28_055_680, "4.189", 94, 22, 14_806, 322),
        "small": (49_374_016, "8.356", 184, 40, 28_648, 610),
        "base": (86_672_136, "14.841", 184, 40, 38_184, 610),
    }[size]
    spec = NETWORKS.get(f"inception_next_{size}")
    assert (spec.params, f"{spec.macs / 1e9:.3f}") == (params, giga_macs)
    assert layer_counts(spec.name) == tuple(rest)


@each_size
def test_block_table(size: str) -> None:
    """arXiv 2303.16900, table 1; `fc1` triples the last stage's channels."""
    depths, channels = {
        "atto": ((2, 2, 6, 2), (40, 80, 160, 320)),
        "tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
        "small": ((3, 3, 27, 3), (96, 192, 384, 768)),
        "base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
    }[size]
    expected: list[tuple[str, tuple[int, ...]]] = [("stem", (channels[0], 56, 56))]
    for stage, (depth, count, side) in enumerate(
        zip(depths, channels, (56, 28, 14, 7), strict=True)
    ):
        names = ["downsample"] if stage else []
        names += [f"blocks.{index}" for index in range(depth)]
        expected += [(f"stages.{stage}.{name}", (count, side, side)) for name in names]
    expected += [("fc1", (3 * channels[-1],)), ("norm", (3 * channels[-1],))]

    with torch.device("meta"):
        module = NETWORKS.get(f"inception_next_{size}").build().eval()
        names = [name for name, _ in module.blocks()]
        outputs = block_outputs(module, names, torch.empty(1, 3, 224, 224))
    assert [(n, tuple(t.shape[1:])) for n, t in zip(names, outputs, strict=False)] == expected


@each_size
def test_images_are_prepared_as_published(size: str) -> None:
    preprocessing = NETWORKS.get(f"inception_next_{size}").preprocessing
    assert (preprocessing.mean, preprocessing.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert preprocessing.resize == (235 if size == "base" else 256)


@pytest.mark.parametrize(
    ("channels", "band", "ratio", "group"), [(96, 11, 0.125, 12), (40, 9, 0.25, 10)]
)
def test_the_mixer_splits_identity_square_wide_high(
    channels: int, band: int, ratio: float, group: int
) -> None:
    """A pulse in every channel spreads to the shape of the kernel that reads it."""
    mixer = TokenMixer(channels, band, ratio)
    for conv in (mixer.dwconv_hw, mixer.dwconv_w, mixer.dwconv_h):
        nn.init.ones_(conv.weight)
        assert conv.bias is not None
        nn.init.zeros_(conv.bias)
    pulse = torch.zeros(1, channels, 15, 15)
    pulse[:, :, 7, 7] = 1.0
    out = mixer(pulse)[0]
    spread = [(int(m.any(1).sum()), int(m.any(0).sum())) for m in out != 0]  # (rows, columns)
    kinds = [(1, 1)] * (channels - 3 * group)
    kinds += [(3, 3)] * group + [(1, band)] * group + [(band, 1)] * group
    assert spread == kinds


def test_gamma_is_a_scale_per_channel_that_folds_into_fc2() -> None:
    block = MetaNeXtBlock(16, band=11, ratio=0.125, mlp_ratio=4).double().eval()
    randomise(block, seed=1)
    x = noise(9, channels=16).double()
    expected = block(x)
    gamma = block.gamma.clone()
    assert gamma.shape == (16, 1, 1)
    nn.init.ones_(block.gamma)
    assert relative_errors([block(x)], [expected])[0] > 0.1
    block.mlp.fc2.weight.mul_(gamma[..., None])
    assert block.mlp.fc2.bias is not None
    block.mlp.fc2.bias.mul_(gamma.flatten())
    assert relative_errors([block(x)], [expected])[0] <= 1e-12


def test_the_norm_folds_forwards_into_fc1() -> None:
    """Its input is no convolution's, as a part of it passes the mixer untouched."""
    block = MetaNeXtBlock(16, band=11, ratio=0.125, mlp_ratio=4).double().eval()
    randomise(block, seed=1)
    x = noise(9, channels=16).double()
    expected = block(x)
    norm, fc1 = block.norm, block.mlp.fc1
    scale = norm.weight / (norm.get_buffer("running_var") + norm.eps).sqrt()
    shift = norm.bias - norm.get_buffer("running_mean") * scale
    assert fc1.bias is not None
    fc1.bias.add_(fc1.weight[:, :, 0, 0] @ shift)
    fc1.weight.mul_(scale[None, :, None, None])
    block.norm = nn.Identity()  # type: ignore[assignment]
    assert relative_errors([block(x)], [expected])[0] <= 1e-12


def test_own_weights_load_again() -> None:
    tensors = timm_network("atto").state_dict()
    ours = loaded("inception_next_atto", tensors)[0].state_dict()
    again, found = loaded("inception_next_atto", ours)
    assert found.layout.name == "inception-deploy"
    assert all(torch.equal(tensor, ours[key]) for key, tensor in again.state_dict().items())


@pytest.mark.parametrize("width", [0.01, 0.1, 0.3, 0.7])
def test_every_branch_keeps_a_channel_at_any_width(width: float) -> None:
    for size in SIZES:
        build = NETWORKS.get(f"inception_next_{size}").build
        with torch.device("meta"):
            module = build(num_classes=3, width=width)
        splits = [m.split for m in module.modules() if isinstance(m, TokenMixer)]
        assert all(min(split) >= 1 for split in splits)


def test_norms_have_the_published_eps() -> None:
    module = InceptionNeXt(num_classes=3, width=0.125)

    def eps(kind: type[nn.BatchNorm2d] | type[nn.LayerNorm]) -> set[float]:
        return {layer.eps for layer in module.modules() if isinstance(layer, kind)}

    assert eps(nn.BatchNorm2d) == {1e-5}
    assert eps(nn.LayerNorm) == {1e-6}


@pytest.mark.parametrize("opset", [17, 20])
def test_operators_of_the_exported_graph(opset: int) -> None:
    name = "inception_next_atto"
    artifact = export(
        small_network(name),
        golden_of(name),
        network=name,
        preprocessing=NETWORKS.get(name).preprocessing.with_size(images(name).shape[-1]),
        class_names=CLASSES,
        opset=opset,
    )
    counts = Counter(node.op_type for node in artifact.model.graph.node)
    # 12 blocks; GELU of each and of the head is one node from opset 20 on, before x·(1+erf(x/√2))/2
    gelu = {"Gelu": 13} if opset == 20 else {"Erf": 13, "Div": 13}
    blocks = {"Split": 12, "Concat": 12, "Conv": 64, "BatchNormalization": 16}
    tail = {"GlobalAveragePool": 1, "Flatten": 1, "Gemm": 2, "LayerNormalization": 1}
    for operator, count in {**gelu, **blocks, **tail}.items():
        assert counts[operator] == count, operator
    assert not {"Reshape", "Transpose", "Slice", "Shape"} & set(counts)
    record = artifact.records[0]
    assert record.error is not None
    assert record.error <= 1e-5
