"""The measurement of our networks against others: what it measures, refuses and has recorded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from benchmarks.peer_networks import Sample, TorchOrigin, torchvision_googlenet
from benchmarks.sources import BOUND, ORIGINS, RESULTS, compare, main
from inception_deploy.networks import NETWORKS

GOOGLENET = TorchOrigin(
    "googlenet", "torchvision", "googlenet", "torchvision", 64, torchvision_googlenet
)


class Shifted(TorchOrigin):
    """An implementation whose logits are off by a thousandth."""

    def sample(self, folder: Path) -> Sample:
        sample = super().sample(folder)
        return replace(sample, logits=sample.logits + sample.logits.abs().max() * 1e-3)


def test_an_origin_is_saved_loaded_and_compared(tmp_path: Path) -> None:
    found = compare(GOOGLENET, tmp_path)
    assert (found.network, found.layout, found.file) == ("googlenet", "torchvision", ".pth")
    assert (found.size, found.classes) == (64, 1000)
    assert found.max_relative_error <= BOUND


def test_a_difference_is_measured(tmp_path: Path) -> None:
    off = compare(Shifted(**vars(GOOGLENET)), tmp_path)
    assert off.max_relative_error == pytest.approx(1e-3, rel=0.05)


def test_a_layout_that_is_taken_for_another_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"was taken for \('googlenet', 'torchvision'\)"):
        compare(replace(GOOGLENET, layout="timm"), tmp_path)


def test_logits_without_a_scale_are_an_error(tmp_path: Path) -> None:
    class Silent(TorchOrigin):
        def sample(self, folder: Path) -> Sample:
            sample = super().sample(folder)
            return replace(sample, logits=torch.zeros_like(sample.logits))

    with pytest.raises(ValueError, match="show nothing"):
        compare(Silent(**vars(GOOGLENET)), tmp_path)


def test_a_run_writes_its_table_and_its_versions(tmp_path: Path) -> None:
    output = tmp_path / "sources.json"
    done = CliRunner().invoke(
        main, ["--only", "googlenet torchvision", "--output", str(output)], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert "worst" in done.stdout
    written: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    assert [c["network"] for c in written["comparisons"]] == ["googlenet"]
    assert set(written["versions"]) == {"python", "torch", "torchvision"}


def test_the_recorded_result_is_of_every_origin_and_within_the_bound() -> None:
    recorded: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    names = [(c["network"], c["package"], c["model"], c["size"]) for c in recorded["comparisons"]]
    assert names == [(o.network, o.package, o.model, o.size) for o in ORIGINS]
    assert all(
        c["max_relative_error"] <= BOUND == recorded["bound"] for c in recorded["comparisons"]
    )
    assert {o.package for o in ORIGINS} < set(recorded["versions"])


def test_origins_name_layouts_that_exist() -> None:
    for origin in ORIGINS:
        assert origin.layout in {layout.name for layout in NETWORKS.get(origin.network).layouts}
