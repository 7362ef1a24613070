from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from inception_deploy.bundle import MANIFEST, SCHEMA, Bundle, staged, write_json
from inception_deploy.errors import BundleError

FIELDS: dict[str, Any] = {
    "schema": SCHEMA,
    "network": {},
    "weights": {},
    "class_names": None,
    "preprocessing": {},
    "input": {"dtype": "float32", "layout": "NCHW"},
    "head": "logits",
    "precision": "fp32",
    "target": "onnxruntime",
    "graph": {"file": "model.onnx"},
    "reference": {"file": "reference.onnx"},
    "stages": [],
    "recipe": {},
    "data": None,
    "parity": {},
}


def make_bundle(path: Path) -> Bundle:
    with staged(path, force=False) as directory:
        (directory / "model.onnx").write_bytes(b"graph")
        Bundle.seal(directory, FIELDS)
    return Bundle.open(path)


def left_behind(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_bundle_appears_only_when_complete(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    with staged(output, force=False) as directory:
        (directory / "model.onnx").write_bytes(b"graph")
        assert not output.exists()
    assert left_behind(tmp_path) == ["bundle"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_an_early_end_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), staged(tmp_path / "bundle", force=False) as directory:
        (directory / "model.onnx").write_bytes(b"half")
        raise error
    assert left_behind(tmp_path) == []


def test_an_early_end_with_force_keeps_the_old_bundle(tmp_path: Path) -> None:
    old = make_bundle(tmp_path / "bundle")
    with pytest.raises(KeyboardInterrupt), staged(old.path, force=True) as directory:
        (directory / "model.onnx").write_bytes(b"half")
        raise KeyboardInterrupt
    assert Bundle.open(old.path).model.read_bytes() == b"graph"
    assert left_behind(tmp_path) == ["bundle"]


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(BundleError, match="No space left on device; nothing was left behind"),
        staged(tmp_path / "bundle", force=False),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert left_behind(tmp_path) == []


def test_existing_output_needs_force(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    with pytest.raises(BundleError, match="--force"), staged(bundle.path, force=False):
        raise AssertionError("unreachable")
    with staged(bundle.path, force=True) as directory:
        (directory / "model.onnx").write_bytes(b"new")
        Bundle.seal(directory, FIELDS)
    assert Bundle.open(bundle.path).model.read_bytes() == b"new"


def test_force_never_deletes_what_is_not_a_bundle(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    with pytest.raises(BundleError, match="not a bundle"), staged(home, force=True):
        raise AssertionError("unreachable")
    assert (home / "thesis.tex").read_text() == "years of work"


def test_changed_and_missing_files_are_refused(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    (bundle.path / "model.onnx").write_bytes(b"other")
    with pytest.raises(BundleError, match="sha256 differs"):
        _ = bundle.model
    (bundle.path / "model.onnx").unlink()
    with pytest.raises(BundleError, match="is missing"):
        _ = bundle.model


def test_rewriting_a_file_keeps_the_manifest_true(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle").rewrite("report.html", "<p>new</p>")
    assert Bundle.open(bundle.path).checked("report.html").read_text() == "<p>new</p>"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 99}, "has schema 99, this version reads 1"),
        ({"stages": None}, "lacks 'stages'"),
        ({"files": {"../../secret": "0"}}, "outside the bundle"),
        ({"files": {"/etc/hosts": "0"}}, "outside the bundle"),
    ],
)
def test_foreign_manifests_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    fields = {**bundle.manifest, **change}
    for name in [name for name, value in change.items() if value is None]:
        del fields[name]
    write_json(bundle.path / MANIFEST, fields)
    with pytest.raises(BundleError, match=message):
        Bundle.open(bundle.path)


def test_unreadable_manifests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle"):
        Bundle.open(tmp_path)
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(BundleError, match="cannot read"):
        Bundle.open(tmp_path)
    (tmp_path / MANIFEST).write_text(json.dumps([1, 2]))
    with pytest.raises(BundleError, match="has schema None"):
        Bundle.open(tmp_path)


def test_nan_never_reaches_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"sqnr_db": float("nan")})
    assert left_behind(tmp_path) == []
