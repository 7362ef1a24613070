"""`--weights pretrained` against a local cache laid out as the hub does; nothing is downloaded."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file

from inception_deploy.errors import CheckpointError, UnknownName
from inception_deploy.networks import NETWORKS
from inception_deploy.preprocess import IMAGENET_MEAN, IMAGENET_STD
from inception_deploy.reference import load_reference

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def put(cache: Path, repo: str, name: str, content: bytes) -> None:
    """One file of a repository in the cache: a blob, and a link to it in the snapshot."""
    root = cache / f"models--{repo.replace('/', '--')}"
    blob = root / "blobs" / hashlib.sha256(content).hexdigest()
    snapshot = root / "snapshots" / COMMIT
    for folder in (blob.parent, snapshot, root / "refs"):
        folder.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    (root / "refs" / "main").write_text(COMMIT)
    (snapshot / name).symlink_to(os.path.relpath(blob, snapshot))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An HF_HOME whose cache holds inception_v3.gluon_in1k, and only the config of tf_in1k."""
    home = tmp_path_factory.mktemp("hf")
    cache = home / "hub"
    torch.manual_seed(0)
    weights = home / "model.safetensors"
    save_file(dict(NETWORKS.get("inception_v3").build().state_dict()), weights)
    config = {
        "architecture": "inception_v3",
        "num_classes": 1000,
        "pretrained_cfg": {
            "tag": "gluon_in1k",
            "input_size": [3, 299, 299],
            "interpolation": "bicubic",
            "crop_pct": 0.875,
            "crop_mode": "center",
            "mean": list(IMAGENET_MEAN),
            "std": list(IMAGENET_STD),
            "num_classes": 1000,
        },
    }
    encoded = json.dumps(config).encode()
    put(cache, "timm/inception_v3.gluon_in1k", "config.json", encoded)
    put(cache, "timm/inception_v3.gluon_in1k", "model.safetensors", weights.read_bytes())
    put(cache, "timm/inception_v3.tf_in1k", "config.json", encoded)
    return home


@pytest.fixture
def offline(hub: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # huggingface_hub reads the environment once, at import
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return hub


def test_weights_and_config_come_from_the_cache(offline: Path) -> None:
    reference = load_reference("inception_v3", "pretrained:gluon_in1k")
    assert reference.preprocessing.mean == IMAGENET_MEAN  # the config's, not the layout's
    assert (reference.preprocessing.size, reference.preprocessing.resize) == (299, 341)
    info = reference.weights
    assert (info.source, info.layout, info.trained) == ("pretrained:gluon_in1k", "timm", True)
    content = (offline / "model.safetensors").read_bytes()
    assert info.sha256 == hashlib.sha256(content).hexdigest()
    assert "published top-1 78.806 %" in info.detail
    with torch.no_grad():
        assert reference.module(torch.zeros(1, 3, 75, 75)).shape == (1, 1000)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("network", "weights", "repo"),
    [
        ("inception_v3", "pretrained", "timm/inception_v3.tv_in1k"),
        ("inception_v3", "pretrained:tf_in1k", "timm/inception_v3.tf_in1k"),
        ("inception_resnet_v2", "pretrained", "timm/inception_resnet_v2.tf_in1k"),
    ],
)
def test_what_the_cache_lacks_is_an_error_naming_the_way_out(
    network: str, weights: str, repo: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_reference(network, weights)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"cannot fetch {repo} (HF_HUB_OFFLINE is set")
    assert message.endswith("--weights PATH")


@pytest.mark.usefixtures("offline")
def test_an_unknown_tag_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="tag of inception_v3 'tv_in1'; did you mean 'tv_in1k'"):
        load_reference("inception_v3", "pretrained:tv_in1")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (LocalEntryNotFoundError("long\nstory"), "no connection, and the cache lacks it"),
        (ConnectionResetError("reset by peer\nagain"), r"\(reset by peer\)"),
    ],
)
def test_a_failing_connection(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: str) -> str:
        raise error

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(CheckpointError, match=rf"^cannot fetch timm/.*{words}.*PATH$"):
        load_reference("inception_v3", "pretrained")


def test_the_environment_variables_are_respected(hub: Path) -> None:
    program = (
        "from inception_deploy.reference import load_reference\n"
        "print(load_reference('inception_v3', 'pretrained:gluon_in1k').weights.source)\n"
        "load_reference('inception_v3', 'pretrained:tv_in1k')\n"
    )
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE_"))}
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env=inherited | {"HF_HOME": str(hub), "HF_HUB_OFFLINE": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout.strip() == "pretrained:gluon_in1k"
    assert "HF_HUB_OFFLINE is set and the cache lacks it" in ran.stderr.splitlines()[-1]
