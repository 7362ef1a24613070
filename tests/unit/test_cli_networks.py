"""`inception-deploy networks`: complete as JSON, whole at 80 columns, everything about one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from inception_deploy.cli.networks import command
from inception_deploy.errors import UnknownName
from inception_deploy.networks import NETWORKS, NetworkSpec


def shown(*arguments: str, columns: int = 80) -> str:
    done = CliRunner().invoke(
        command, arguments, env={"COLUMNS": str(columns)}, catch_exceptions=False
    )
    assert done.exit_code == 0
    return done.stdout


@pytest.mark.parametrize("columns", [80, 100])
def test_nothing_is_cut_off(columns: int) -> None:
    text = shown(columns=columns)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= columns
    for spec in NETWORKS:
        assert text.count(f" {spec.name} ") == 2  # facts, weights


@pytest.mark.parametrize(
    ("network", "cells"),
    [
        ("googlenet", ["6.62", "1.50", "224", "0.5/0.5", "69.78", "69.83"]),
        ("googlenet_lrn", ["7.00", "1.58", "224", "BGR", "−104/117/123", "67.79", "67.69"]),
        ("inception_v2", ["23.93", "5.77", "299", "0.5/0.5", "–", "–"]),
        ("inception_resnet_v1", ["24.00", "1.42", "160", "127.5/128", "80.37", "–"]),
        ("xception", ["22.86", "8.36", "299", "0.5/0.5", "78.94", "78.43"]),
        ("inception_next_tiny", ["28.06", "4.19", "224", "ImageNet", "82.51", "–"]),
    ],
)
def test_a_row_of_the_overview(network: str, cells: list[str]) -> None:
    row = next(line.split() for line in shown().splitlines() if line.split()[:1] == [network])
    assert row[1:] == cells


def test_json_holds_everything() -> None:
    found: list[dict[str, Any]] = json.loads(shown("--json"))
    assert [n["name"] for n in found] == list(NETWORKS.names())
    v3 = next(n for n in found if n["name"] == "inception_v3")
    assert v3["layouts"] == ["torchvision", "timm", "tf-slim", "keras"]
    assert v3["published"][0] == {
        "weights": "torchvision",
        "fp32": 77.294,
        "int8": 77.176,
        "method": "post-training, fbgemm",
        "source": "torchvision 0.28, weights' metadata",
    }
    assert v3["pretrained"][0]["tag"] == "tv_in1k"
    assert v3["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    assert {n["name"] for n in found if n["embedded"]} >= {"googlenet"}


@pytest.mark.parametrize("spec", list(NETWORKS), ids=NETWORKS.names())
def test_one_network_in_detail(spec: NetworkSpec) -> None:
    text = " ".join(shown(spec.name, columns=200).split())
    assert spec.title in text
    assert f"{spec.params:,}" in text
    assert f"{spec.macs:,}" in text
    for layout in spec.layouts:
        assert layout.name in text
    for accuracy in spec.published:
        assert accuracy.source in text
    assert json.loads(shown(spec.name, "--json"))[0]["name"] == spec.name


def test_an_unknown_network() -> None:
    with pytest.raises(UnknownName, match="did you mean 'inception_v3'"):
        CliRunner().invoke(command, ["inception_v33"], catch_exceptions=False)


@pytest.mark.parametrize("spec", list(NETWORKS), ids=NETWORKS.names())
def test_published_numbers_are_percent_and_say_whose_they_are(spec: NetworkSpec) -> None:
    for accuracy in spec.published:
        assert 60 < accuracy.fp32 < 90
        assert accuracy.weights
        assert accuracy.source
        assert bool(accuracy.method) == (accuracy.int8 is not None)
        if accuracy.int8 is not None:
            assert abs(accuracy.int8 - accuracy.fp32) < 3


def test_networks_nobody_measured_on_imagenet_quote_nothing() -> None:
    silent = {s.name for s in NETWORKS if not s.published and not s.pretrained}
    assert silent == {"inception_v2", "inception_v3_fid"}
