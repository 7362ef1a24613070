"""docs/checkpoints.md says what the registry has, and its snippet runs as far as it can."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from inception_deploy.networks import NETWORKS

TEXT = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text(encoding="utf-8")


def rows(header: str) -> list[list[str]]:
    """The cells of the table with this header line."""
    lines = TEXT[TEXT.index(header) :].splitlines()[2:]
    table = [line for line in lines[: lines.index("")] if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_every_layout_of_every_network_has_its_place() -> None:
    documented = {
        (network, layout)
        for layout, networks, *_ in rows("| layout | networks | files")
        for network in re.findall(r"`(\w+)`", networks)
    }
    registered = {(spec.name, layout.name) for spec in NETWORKS for layout in spec.layouts}
    assert documented == registered


def test_what_a_layout_builds_differently_is_told() -> None:
    told = {
        (network.strip("`"), layout)
        for layouts, network, _ in rows("| layout | network | differs in")
        for layout in layouts.split(", ")
    }
    built = {(spec.name, found.name) for spec in NETWORKS for found in spec.layouts if found.build}
    assert built <= told


def test_the_snippet_keeps_slim_s_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With TensorFlow's two calls stood in for; its own file format is TensorFlow's matter."""
    variables = {"InceptionV3/Conv2d_1a_3x3/weights": np.ones((3, 3, 3, 32), np.float32)}
    reader = SimpleNamespace(
        get_variable_to_shape_map=lambda: {name: v.shape for name, v in variables.items()},
        get_tensor=variables.__getitem__,
    )
    tensorflow = SimpleNamespace(train=SimpleNamespace(load_checkpoint=lambda _path: reader))
    monkeypatch.setitem(sys.modules, "tensorflow", tensorflow)
    (snippet,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    script = tmp_path / "convert.py"
    script.write_text(snippet, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["convert.py", "model.ckpt", str(tmp_path / "slim.npz")])
    runpy.run_path(str(script))
    with np.load(tmp_path / "slim.npz") as archive:
        assert set(archive.files) == set(variables)
