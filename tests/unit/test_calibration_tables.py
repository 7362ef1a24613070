"""Range tables as the benchmark writes them: of this graph and no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_networks import exported

from benchmarks.calibration import ImageStream, table
from inception_deploy.artifact import model_digest
from inception_deploy.observation import observed
from inception_deploy.ranges import StaleTable, load_table


def test_a_table_fits_its_graph_and_is_refused_for_another(tmp_path: Path) -> None:
    model, other = exported("googlenet").model, exported("inception_v3").model
    made = table(model, name="auto", grid="s8", images=3)
    path = tmp_path / "googlenet.json"
    path.write_text(json.dumps(made, allow_nan=False))
    ranges = load_table(path)
    assert set(ranges.tensors) == set(observed(model))
    data = ImageStream(model, 3).dataset.digest
    ranges.check(model=model_digest(model), data=data, images=3, calibrator="auto")
    assert [entry["images"] for entry in made["stability"]] == [1, 2]
    assert {choice.grid for choice in ranges.choices.values()} == {"s8"}
    with pytest.raises(StaleTable, match="another graph"):
        ranges.check(model=model_digest(other))
    with pytest.raises(StaleTable, match="other images"):
        ranges.check(model=model_digest(model), data=ImageStream(model, 4).dataset.digest)
