"""Range tables: written, read again, and refused where they do not belong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from inception_deploy.errors import BadInput, StageError
from inception_deploy.ranges import Choice, Ranges, StaleTable, TensorRange, load_table

TABLE = Ranges(
    {"input": TensorRange(-1.5, 2.25), "Mixed_5b": TensorRange(0.0, 0.1)},
    model="a" * 64,
    data="b" * 64,
    images=64,
    calibrator="auto",
    choices={"Mixed_5b": Choice("percentile:99.999", "u8", 41.5)},
)


def test_tables_survive_json() -> None:
    assert Ranges.from_dict(json.loads(json.dumps(TABLE.to_dict()))) == TABLE
    exact = replace(TABLE, choices={}, calibrator="min_max")
    assert Ranges.from_dict(json.loads(json.dumps(exact.to_dict()))) == exact
    dead = replace(TABLE, choices={"Mixed_5b": Choice("mse", "s8", None)})
    assert Ranges.from_dict(json.loads(json.dumps(dead.to_dict()))) == dead


def test_a_table_that_fits_is_accepted() -> None:
    TABLE.check(model="a" * 64)
    TABLE.check(model="a" * 64, data="b" * 64, images=64, calibrator="auto")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"model": "c" * 64}, "another graph (aaaaaaaaaaaa…, this is cccccccccccc…)"),
        ({"data": "c" * 64}, "other images (bbbbbbbbbbbb…, these are cccccccccccc…)"),
        ({"images": 2048}, "64 images, not 2,048"),
        ({"calibrator": "mse"}, "by 'auto', not by 'mse'"),
    ],
)
def test_a_stale_or_foreign_table_is_refused_in_one_line(
    asked: dict[str, object], message: str
) -> None:
    fits = {"model": TABLE.model, "data": TABLE.data, "images": 64, "calibrator": "auto"}
    with pytest.raises(StaleTable) as refusal:
        TABLE.check(**(fits | asked))  # type: ignore[arg-type]
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert isinstance(refusal.value, StageError)


@pytest.mark.parametrize(
    "damage",
    [
        lambda values: values.pop("model"),
        lambda values: values.update(tensors=[]),
        lambda values: values["tensors"]["input"].update(minimum=3.0),
        lambda values: values["tensors"]["input"].update(maximum=float("nan")),
        lambda values: values["tensors"]["input"].update(maximum="wide"),
        lambda values: values["tensors"]["Mixed_5b"].pop("grid"),
        lambda values: values.update(images="many"),
    ],
)
def test_a_damaged_table_is_refused(damage: object) -> None:
    values = json.loads(json.dumps(TABLE.to_dict()))
    assert callable(damage)
    damage(values)
    with pytest.raises(BadInput, match="calibrate anew"):
        Ranges.from_dict(values)


def test_tables_are_loaded_from_files(tmp_path: Path) -> None:
    path = tmp_path / "googlenet.json"
    path.write_text(json.dumps({"recipe": {}, "ranges": TABLE.to_dict()}))
    assert load_table(path) == TABLE
    for text in ("", "[]", "{}", '{"ranges": 3}', '{"ranges": {"tensors": 1}}'):
        path.write_text(text)
        with pytest.raises(BadInput, match=r"googlenet\.json"):
            load_table(path)
    with pytest.raises(BadInput, match="cannot read range table"):
        load_table(tmp_path / "missing.json")
