"""Xception, plain and aligned: against timm's, the published tables, and the traps of the ports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import timm
import torch
from peers import block_outputs, layer_counts, loaded, noise, randomise, relative_errors
from torch import Tensor, nn
from torch.nn import functional as F

from inception_deploy.checkpoints import Checkpoint
from inception_deploy.matching import identify
from inception_deploy.networks import NETWORKS, InceptionNetwork
from inception_deploy.networks.base import calibrate_batch_norm
from inception_deploy.networks.xception import Block, SamePool, Xception
from inception_deploy.networks.xception_aligned import XceptionBlock

BOUND = 1e-5  # max |ours - theirs| / max |theirs|

ALIGNED = ("xception41", "xception65", "xception71", "xception41p", "xception65p")


@pytest.fixture(autouse=True)
def _lean() -> Iterator[None]:
    """No gradients, and one thread: small images only wait on a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


def timm_network(name: str, seed: int = 3) -> nn.Module:
    module: nn.Module = timm.create_model(name, pretrained=False)
    randomise(module, seed)
    return module.eval()


def timm_name(block: str, network: str) -> str:
    """What timm calls the module with the output of our block."""
    if network == "xception":
        return block.replace("conv", "act")
    if network.endswith("p") and block == "stem.1":
        return "blocks.0.norm"
    return block.replace("block.", "blocks.")


@pytest.mark.parametrize(
    ("network", "peer", "side"),
    [("xception", "legacy_xception", 75), *((name, name, 43) for name in ALIGNED)],
)
def test_every_block_equals_timm_s(network: str, peer: str, side: int) -> None:
    """Sides that give even and odd maps at every stride."""
    theirs = timm_network(peer)
    ours, found = loaded(network, theirs.state_dict())
    assert found.layout.name == "timm"
    names = [name for name, _ in ours.blocks()]
    got = block_outputs(ours, names, noise(side))
    expected = block_outputs(theirs, [timm_name(name, network) for name in names], noise(side))
    errors = dict(zip([*names, "logits"], relative_errors(got, expected), strict=True))
    assert {name: error for name, error in errors.items() if not error <= BOUND} == {}


@pytest.mark.parametrize("network", ["xception", *ALIGNED])
def test_counts_are_the_published_ones(network: str) -> None:
    params, giga_macs, *rest = {
        "xception": (22_855_952, "8.357", 74, 40, 54_568, 276),
        "xception41": (26_969_560, "9.204", 84, 84, 115_396, 506),
        "xception65": (39_916_312, "13.853", 132, 132, 185_332, 794),
        "xception71": (42_338_736, "17.947", 146, 146, 199_122, 878),
        "xception41p": (26_907_752, "9.204", 84, 40, 53_544, 286),
        "xception65p": (39_819_560, "13.853", 132, 64, 88_512, 454),
    }[network]
    spec = NETWORKS.get(network)
    assert (spec.params, f"{spec.macs / 1e9:.3f}") == (params, giga_macs)
    assert layer_counts(network) == tuple(rest)


def shapes(network: str) -> list[tuple[str, int, int]]:
    """(block, channels, side) at the native size."""
    with torch.device("meta"):
        module = NETWORKS.get(network).build().eval()
        names = [name for name, _ in module.blocks()]
        outputs = block_outputs(module, names, torch.empty(1, 3, 299, 299))
    return [(name, t.shape[1], t.shape[2]) for name, t in zip(names, outputs, strict=False)]


def test_block_table_of_xception() -> None:
    """arXiv 1610.02357, figure 5."""
    assert shapes("xception") == [
        ("conv1", 32, 149),
        ("conv2", 64, 147),
        ("block1", 128, 74),
        ("block2", 256, 37),
        ("block3", 728, 19),
        *((f"block{number}", 728, 19) for number in range(4, 12)),
        ("block12", 1024, 10),
        ("conv3", 1536, 10),
        ("conv4", 2048, 10),
    ]


@pytest.mark.parametrize("network", ALIGNED)
def test_block_table_of_the_aligned_ones(network: str) -> None:
    """arXiv 1802.02611, figure 4, and DeepLab's table for 71; padded stem, so 299 → 150."""
    entry = [(128, 75), (256, 38), (728, 19)]
    if network == "xception71":
        entry = [(128, 75), (256, 75), (256, 38), (728, 38), (728, 19)]
    middle = [(728, 19)] * (8 if "41" in network else 16)
    rows = [*entry, *middle, (1024, 10), (2048, 10)]
    expected = [("stem.0", 32, 150), ("stem.1", 64, 150)]
    expected += [(f"block.{index}", *row) for index, row in enumerate(rows)]
    assert shapes(network) == expected


def flat(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Pointwise weights as matrices, as in xception-b5690688.pth."""
    return {k: t.flatten(1) if ".pointwise." in k else t for k, t in tensors.items()}


def last_linear(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The classifier's name in weights saved from Cadene's module."""
    return {k.replace("fc.", "last_linear."): t for k, t in tensors.items()}


@pytest.mark.parametrize(
    ("change", "layout"),
    [
        (flat, "timm"),
        (last_linear, "cadene"),
        (lambda tensors: flat(last_linear(tensors)), "cadene"),
        (lambda tensors: loaded("xception", tensors)[0].state_dict(), "inception-deploy"),
    ],
    ids=["2-D pointwise", "last_linear", "both", "own"],
)
def test_every_layout_of_xception_gives_the_same_tensors(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], layout: str
) -> None:
    tensors = timm_network("legacy_xception").state_dict()
    expected = loaded("xception", tensors)[0].state_dict()
    module, found = loaded("xception", change(tensors))
    assert found.layout.name == layout
    assert all(torch.equal(tensor, expected[key]) for key, tensor in module.state_dict().items())


@pytest.mark.parametrize("network", ALIGNED)
def test_depths_and_kinds_are_told_from_the_names(network: str) -> None:
    with torch.device("meta"):
        tensors = timm.create_model(network, pretrained=False).state_dict()
    assert identify(Checkpoint(Path("weights.pth"), "0" * 64, tensors)).name == network


def same_pool(x: Tensor) -> Tensor:
    """TensorFlow's SAME for 3×3/2: ceil(n / 2) outputs, the smaller half of the padding first."""
    total = [max((-(-n // 2) - 1) * 2 + 3 - n, 0) for n in x.shape[-2:]]
    high, wide = ((t // 2, t - t // 2) for t in total)
    return F.max_pool2d(F.pad(x, (*wide, *high), value=float("-inf")), 3, stride=2)


def pools(module: Xception) -> dict[str, nn.MaxPool2d]:
    return {
        name: layer for name, layer in module.named_modules() if isinstance(layer, nn.MaxPool2d)
    }


def test_ports_pad_every_pool_by_one() -> None:
    module = Xception(width=0.125)
    assert list(pools(module)) == ["block1.rep.5", "block2.rep.6", "block3.rep.6", "block12.rep.6"]
    for pool in pools(module).values():
        for side in (147, 37, 19):
            assert torch.equal(pool(noise(side)), same_pool(noise(side)))
        port, tensorflow = pool(noise(74)), same_pool(noise(74))
        assert port.shape == tensorflow.shape == (2, 3, 37, 37)
        assert 0.66 < float((port != tensorflow).float().mean()) < 0.72


@pytest.mark.parametrize("side", [299, 75, 98])
def test_keras_s_pools_are_tensorflow_s_at_any_size(side: int) -> None:
    module = Xception(width=0.125, same_pools=True).eval()
    seen: list[int] = []

    def compare(_m: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert torch.equal(output, same_pool(inputs[0]))
        seen.append(inputs[0].shape[-1])

    for pool in module.modules():
        if isinstance(pool, SamePool):
            pool.register_forward_hook(compare)
    module(noise(side, batch=1))
    assert seen == {299: [147, 74, 37, 19], 75: [35, 18, 9, 5], 98: [46, 23, 12, 6]}[side]


def keras_xception(w: dict[str, Tensor], x: Tensor) -> Tensor:
    """`keras.applications.xception`, transcribed layer by layer; logits before the softmax."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, variance = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        return F.batch_norm(x, mean, variance, w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-3)

    def separable(x: Tensor, name: str) -> Tensor:
        depthwise = w[f"{name}.conv1.weight"]
        x = F.conv2d(x, depthwise, padding=1, groups=len(depthwise))
        return F.conv2d(x, w[f"{name}.pointwise.weight"])

    x = F.relu(norm(F.conv2d(x, w["conv1.conv.weight"], stride=2), "conv1.bn"))
    x = F.relu(norm(F.conv2d(x, w["conv2.conv.weight"]), "conv2.bn"))
    for number in range(1, 13):
        block, residual = f"block{number}", x
        if number in (1, 2, 3, 12):
            residual = norm(F.conv2d(x, w[f"{block}.skip.weight"], stride=2), f"{block}.skipbn")
        indices = {1: (0, 3), 2: (1, 4), 3: (1, 4), 12: (1, 4)}.get(number, (1, 4, 7))
        for index in indices:
            x = x if index == 0 else F.relu(x)
            x = norm(separable(x, f"{block}.rep.{index}"), f"{block}.rep.{index + 1}")
        x = (same_pool(x) if len(indices) == 2 else x) + residual
    for name in ("conv3", "conv4"):
        x = F.relu(norm(separable(x, f"{name}.conv"), f"{name}.bn"))
    return F.linear(x.mean((2, 3)), w["fc.weight"], w["fc.bias"])


def test_keras_s_network_is_a_variant_of_the_ports() -> None:
    side = 75
    module = Xception(num_classes=10, width=0.125, eps=1e-3, same_pools=True)
    randomise(module, seed=5)
    calibrate_batch_norm(module, noise(side, batch=4))
    tensors, x = module.state_dict(), noise(side)
    expected = keras_xception(tensors, x)
    assert relative_errors([module.eval()(x)], [expected])[0] <= BOUND
    for wrong in (
        Xception(10, 0.125, same_pools=True),  # trap: eps
        Xception(10, 0.125, eps=1e-3),  # trap: pools
    ):
        wrong.load_state_dict(tensors)
        assert relative_errors([wrong.eval()(x)], [expected])[0] > 100 * BOUND


@pytest.mark.parametrize(
    ("network", "eps"),
    [
        ("xception", 1e-5),
        ("xception41", 1e-3),
        ("xception65", 1e-3),
        ("xception71", 1e-3),
        ("xception41p", 1e-5),
        ("xception65p", 1e-3),
    ],
)
def test_every_batch_norm_has_the_source_s_eps(network: str, eps: float) -> None:
    module = NETWORKS.get(network).build(width=0.125)
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {eps}


@pytest.mark.parametrize("network", ["xception", "xception41", "xception41p"])
def test_no_block_writes_to_its_input(network: str) -> None:
    """The skip reads the input after the first ReLU has run."""
    module = NETWORKS.get(network).build(num_classes=10, width=0.125).eval()
    untouched: list[bool] = []
    for _, block in module.blocks():
        kept: list[Tensor] = []

        def before(_m: nn.Module, i: tuple[Tensor, ...], kept: list[Tensor] = kept) -> None:
            kept.append(i[0].clone())

        def after(
            _m: nn.Module, i: tuple[Tensor, ...], _o: Tensor, kept: list[Tensor] = kept
        ) -> None:
            untouched.append(torch.equal(i[0], kept[0]))

        block.register_forward_pre_hook(before)
        block.register_forward_hook(after)
    module(noise(48))
    assert untouched
    assert all(untouched)


@pytest.mark.parametrize("network", ["xception", "xception41"])
def test_an_in_place_first_relu_would_be_noticed(network: str) -> None:
    module: InceptionNetwork = NETWORKS.get(network).build(num_classes=10, width=0.125).eval()
    block = next(b for _, b in list(module.blocks())[7:])
    assert isinstance(block, (Block, XceptionBlock))
    relu = (block.rep if isinstance(block, Block) else block.stack)[0]
    assert isinstance(relu, nn.ReLU)
    x = noise(9, channels=91)
    expected = block(x.clone())
    relu.inplace = True
    assert relative_errors([block(x.clone())], [expected])[0] > 0.01


@pytest.mark.parametrize("network", ["xception41", "xception41p"])
def test_random_networks_are_not_chaotic(network: str) -> None:
    """Rounding the weights to float16 moves no block by more than a few times float16's step."""
    torch.manual_seed(0)
    exact = NETWORKS.get(network).build(num_classes=10, width=0.25)
    calibrate_batch_norm(exact, noise(48, batch=8))
    rounded = NETWORKS.get(network).build(num_classes=10, width=0.25)
    rounded.load_state_dict({k: t.half().to(t.dtype) for k, t in exact.state_dict().items()})
    names = [name for name, _ in exact.blocks()]
    moved, expected = (block_outputs(m.eval(), names, noise(48)) for m in (rounded, exact))
    assert max(relative_errors(moved, expected)) < 16 * 2.0**-11
