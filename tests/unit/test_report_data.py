"""Reading bundles: what is missing, foreign or damaged is named in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inception_deploy.errors import BundleError
from inception_deploy.report import load_bundle, render
from inception_deploy.reporting.data import Record

SOURCE = Path(__file__).parents[1] / "golden" / "report_bundle" / "googlenet_fp16"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SOURCE, tmp_path / "demo"))


def edit(path: Path, change: Callable[[Any], None]) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def refused(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        render([load_bundle(folder)])
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


def test_reads_every_file(folder: Path) -> None:
    data = load_bundle(folder)
    assert data.name == "demo"
    assert data.parity is not None
    assert data.throughput is not None
    assert data.samples is not None
    assert len(data.samples) == 8


def test_only_the_manifest_must_be_there(folder: Path) -> None:
    for name in ("parity.json", "throughput.json", "samples.json"):
        (folder / name).unlink()
    data = load_bundle(folder)
    assert (data.parity, data.throughput, data.samples) == (None, None, None)


def test_no_folder(tmp_path: Path) -> None:
    assert "no bundle at" in refused(tmp_path / "nothing")


def test_no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    assert "holds no manifest.json" in refused(folder)


@pytest.mark.parametrize("name", ["manifest.json", "parity.json", "throughput.json"])
@pytest.mark.parametrize("schema", [2, "1", None])
def test_foreign_schema(folder: Path, name: str, schema: object) -> None:
    edit(folder / name, lambda value: value.update(schema=schema))
    message = refused(folder)
    assert name in message
    assert f"has schema {schema!r}, this version reads 1" in message


@pytest.mark.parametrize("name", ["manifest.json", "parity.json", "samples.json"])
@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"3"])
def test_not_the_json_it_should_be(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    assert name in refused(folder)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("manifest.json", lambda v: v.pop("weights"), "'weights' is missing, expected an object"),
        ("manifest.json", lambda v: v["weights"].pop("trained"), "weights: 'trained' is missing"),
        ("manifest.json", lambda v: v["weights"].update(trained="no"), "expected true or false"),
        ("manifest.json", lambda v: v["stages"][1].update(seconds="2"), "stages[1]: 'seconds'"),
        ("manifest.json", lambda v: v["stages"][4]["refused"][0].pop("reason"), "refused[0]"),
        ("manifest.json", lambda v: v["graph"].update(bytes=-1), "a number of at least 0"),
        ("manifest.json", lambda v: v["preprocessing"].update(mean=[]), "three numbers"),
        ("manifest.json", lambda v: v["preprocessing"].update(size=None), "'size'"),
        ("parity.json", lambda v: v.update(verdict="MAYBE"), "known: PASS, FAIL"),
        ("parity.json", lambda v: v.update(top1_agreement=101), "a percentage from 0 to 100"),
        ("parity.json", lambda v: v.update(drop_ci95=[1]), "a pair of numbers or null"),
        ("parity.json", lambda v: v.update(blocks={}), "'blocks' is {}, expected a list"),
        ("parity.json", lambda v: v["data"].update(images=float("inf")), "expected a count"),
        ("throughput.json", lambda v: v.update(rows=[1]), "a list of objects"),
        ("throughput.json", lambda v: v["rows"][2].update(batch=None), "rows[2]: 'batch'"),
        ("throughput.json", lambda v: v["rows"][0].update(engine=7), "'engine' is 7"),
        ("samples.json", lambda v: v[3].update(reference=[["a"]]), "pairs of class name"),
        ("samples.json", lambda v: v[0].pop("image"), "samples.json[0]: 'image' is missing"),
    ],
)
def test_damage_is_named(folder: Path, name: str, change: Callable[[Any], None], said: str) -> None:
    edit(folder / name, change)
    message = refused(folder)
    assert name in message
    assert said in message


def test_a_long_value_is_cut_short() -> None:
    with pytest.raises(BundleError) as caught:
        Record("x.json", {"a": "y" * 10_000}).number("a")
    assert len(str(caught.value)) < 250
