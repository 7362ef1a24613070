"""The training script: its schedule, its symmetries, and a run small enough to watch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks import train_embedded
from benchmarks.image_pool import render
from benchmarks.train_embedded import Plan, evaluate, main, train
from inception_deploy.networks import NETWORKS
from inception_deploy.preprocess import Preprocessing
from inception_deploy.shapes import Shapes


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the script does: oneDNN's threads wait for one another, badly so on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_rate_warms_up_and_falls_to_zero() -> None:
    plan = Plan(seed=0, images=6_400, epochs=10)
    assert plan.steps == 1_000
    rates: list[float] = [plan.rate_at(step) for step in range(plan.steps)]
    assert rates[0] == pytest.approx(plan.rate / 30)
    assert max(rates) == rates[30] == plan.rate
    assert all(np.diff(rates[:30]) > 0)
    assert all(np.diff(rates[30:]) < 0)
    assert 0 < rates[-1] < 1e-4 * plan.rate


def test_the_eight_symmetries_differ() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    seen = {train_embedded._turned(pixels, symmetry).tobytes() for symmetry in range(8)}
    assert len(seen) == 8
    np.testing.assert_array_equal(train_embedded._turned(pixels, 0), pixels)


def test_every_image_is_seen_once_per_epoch() -> None:
    plan = Plan(seed=1, images=64, epochs=2, batch=16)
    pool = np.arange(64, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    labels = np.arange(64, dtype=np.int64)
    seen = []
    for pixels, target in train_embedded._batches(plan, pool, labels):
        np.testing.assert_array_equal(pixels[:, 0, 0, 0], target)
        seen += target.tolist()
    assert sorted(seen[:64]) == sorted(seen[64:]) == list(range(64))
    assert seen[:64] != seen[64:]


def test_rendering_in_parallel_keeps_the_order(tmp_path: Path) -> None:
    source = Shapes(3, "train", 32)
    pool = render(source, 20, tmp_path / "pool.u8")
    np.testing.assert_array_equal(pool, np.stack([source.image(i) for i in range(20)]))


def test_training_repeats_itself_and_learns() -> None:
    """Two runs of one seed agree; the loss on a handful of images falls."""
    plan = Plan(seed=0, images=32, epochs=12, batch=32, size=32)
    preprocessing = Preprocessing(32, 32, "bilinear")
    source = Shapes(0, "train", 32)
    pool = np.stack([source.image(i) for i in range(plan.images)])
    logs: list[list[str]] = [[], []]
    networks = []
    for log in logs:
        torch.manual_seed(0)
        network = NETWORKS.get("googlenet").build(num_classes=24, width=0.125)
        train(network, plan, preprocessing, pool, log.append)
        networks.append(network)
    losses = [[float(line.split("loss ")[1].split()[0]) for line in log] for log in logs]
    assert losses[0][-1] < losses[0][0] - 0.15
    np.testing.assert_allclose(losses[0], losses[1], atol=0.02)
    assert not networks[0].training
    assert 0 <= evaluate(networks[0], source, 24, preprocessing) <= 100


def test_the_command_writes_weights_and_their_card(tmp_path: Path) -> None:
    arguments = (
        "inception_resnet_v2 --width 0.05 --repeats 1,1,1 --images 64 --epochs 1 --workers 1"
    )
    result = CliRunner().invoke(
        main, [*arguments.split(), "--val-images", "24", "-o", str(tmp_path)]
    )
    assert result.exit_code == 0, result.output
    card = json.loads((tmp_path / "inception_resnet_v2.json").read_text())
    weights = (tmp_path / "inception_resnet_v2.safetensors").read_bytes()
    assert card["sha256"] == hashlib.sha256(weights).hexdigest()
    assert card["build"] == {"repeats": [1, 1, 1]}
    assert (card["width"], card["val_images"], card["training"]["images"]) == (0.05, 24, 64)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]
