"""What every network of the folder promises."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from inception_deploy.networks import NETWORKS, InceptionNetwork, NetworkSpec
from inception_deploy.networks.base import calibrate_batch_norm

pytestmark = pytest.mark.parametrize("spec", list(NETWORKS), ids=NETWORKS.names())


@pytest.fixture(autouse=True)
def _lean() -> Iterator[None]:
    """No gradients, and one thread: narrow networks only wait on a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


def built(
    spec: NetworkSpec, num_classes: int = 10, width: float = 0.125, seed: int = 0
) -> InceptionNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return spec.build(num_classes=num_classes, width=width).eval()


def images(spec: NetworkSpec, batch: int = 2, size: int | None = None) -> Tensor:
    side = spec.min_size if size is None else size
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))


def relative_error(candidate: Tensor, reference: Tensor) -> float:
    return float((candidate - reference).abs().max() / reference.abs().max())


def test_parameters_at_full_width_are_those_of_the_spec(spec: NetworkSpec) -> None:
    with torch.device("meta"):
        module = spec.build()
    assert sum(p.numel() for p in module.parameters()) == spec.params
    assert module.num_classes == spec.num_classes


def test_multiply_adds_at_native_size_are_those_of_the_spec(spec: NetworkSpec) -> None:
    with torch.device("meta"):
        module = spec.build().eval()
    counts: list[int] = []

    def count(layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        counts.append(output.numel() * layer.weight[0].numel())

    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(count)
    module(torch.empty(1, 3, spec.input_size, spec.input_size, device="meta"))
    assert sum(counts) == spec.macs


@pytest.mark.parametrize("width", [0.125, 0.25, 0.5])
def test_any_width_and_class_count(spec: NetworkSpec, width: float) -> None:
    module = built(spec, num_classes=7, width=width)
    assert module(images(spec)).shape == (2, 7)
    assert module.num_classes == 7
    assert sum(p.numel() for p in module.parameters()) < spec.params


def test_smallest_size_works_and_one_less_does_not(spec: NetworkSpec) -> None:
    module = built(spec)
    assert module(images(spec)).isfinite().all()
    misfit = spec.min_size - 1 if spec.size_step == 1 else spec.min_size + spec.size_step // 2
    with pytest.raises(RuntimeError):
        module(images(spec, size=misfit))


def test_sizes_between_the_steps_do_not_matter(spec: NetworkSpec) -> None:
    module = built(spec)
    for size in range(spec.min_size, spec.min_size + 33, max(spec.size_step, 3)):
        assert module(images(spec, batch=1, size=size)).shape == (1, 10)


def test_blocks_resolve_and_run_once_each_in_order(spec: NetworkSpec) -> None:
    module = built(spec)
    named = list(module.blocks())
    assert all(module.get_submodule(name) is block for name, block in named)
    ran: list[str] = []
    for name, block in named:

        def record(
            _block: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor, name: str = name
        ) -> None:
            assert output.ndim in (2, 4)
            ran.append(name)

        block.register_forward_hook(record)
    module(images(spec))
    assert ran == [name for name, _ in named]


def test_blocks_hold_every_parameter_but_the_classifier(spec: NetworkSpec) -> None:
    module = built(spec)
    blocks = tuple(f"{name}." for name, _ in module.blocks())
    outside = {key for key in module.state_dict() if not key.startswith(blocks)}
    inner = {"last_linear.weight"} if spec.name == "inception_resnet_v1" else set()
    assert outside == {f"{spec.classifier}.weight", f"{spec.classifier}.bias"} | inner


def test_heads(spec: NetworkSpec) -> None:
    module, x = built(spec), images(spec)
    logits = module(x)
    module.head = "features"
    assert module(x).shape == (2, module.num_features)
    module.head = "probabilities"
    probabilities = module(x)
    assert probabilities.shape == logits.shape == (2, 10)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2))
    torch.testing.assert_close(probabilities, logits.softmax(1))


def test_an_image_does_not_see_its_batch(spec: NetworkSpec) -> None:
    # float64: the property itself, not the rounding of two float32 kernels
    module, x = built(spec).double(), images(spec, batch=3).double()
    calibrate_batch_norm(module, images(spec, batch=8).double())
    together = module(x)
    alone = torch.cat([module(image[None]) for image in x])
    assert relative_error(alone, together) <= 1e-10
    assert relative_error(together[:1], together[1:2]) > 1e-2  # and the images do matter


def test_construction_is_reproducible_from_torch_s_generator(spec: NetworkSpec) -> None:
    one, two, other = built(spec), built(spec), built(spec, seed=1)
    weight = f"{spec.classifier}.weight"
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.state_dict()[weight], other.state_dict()[weight])


def test_facts_agree_with_each_other(spec: NetworkSpec) -> None:
    module = built(spec)
    classifier = module.get_submodule(spec.classifier)
    assert isinstance(classifier, nn.Linear)
    assert classifier.in_features == module.num_features
    assert spec.min_size <= spec.input_size <= spec.preprocessing.resize
    assert spec.layouts
    assert not (spec.pretrained and spec.download)
    assert spec.min_size % spec.size_step == spec.input_size % spec.size_step == 0
    assert all(f".{p.tag}" in p.repo and 0 < p.top1 < 100 for p in spec.pretrained)
