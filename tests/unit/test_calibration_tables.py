"""Range tables as the benchmark writes them: of this graph and no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_networks import exported

from benchmarks.calibration import EMBEDDED, ROOT, ImageStream, embedded_graph, table
from inception_deploy.artifact import model_digest
from inception_deploy.pipeline import deploy
from inception_deploy.precisions import PRECISIONS
from inception_deploy.ranges import StaleTable, load_table
from inception_deploy.recipe import Recipe


def test_a_table_fits_its_graph_and_is_refused_for_another(tmp_path: Path) -> None:
    model, other = exported("googlenet").model, exported("inception_v3").model
    made = table(model, name="auto", grid="s8", images=3)
    path = tmp_path / "googlenet.json"
    path.write_text(json.dumps(made, allow_nan=False))
    ranges = load_table(path)
    watched = PRECISIONS.get("int8").at("onnxruntime").watched(model)
    assert set(ranges.tensors) == set(watched)
    data = ImageStream(model, 3).dataset.digest
    ranges.check(model=model_digest(model), data=data, images=3, calibrator="auto")
    assert [entry["images"] for entry in made["stability"]] == [1, 2]
    assert {choice.grid for choice in ranges.choices.values()} == {"s8"}
    with pytest.raises(StaleTable, match="another graph"):
        ranges.check(model=model_digest(other))
    with pytest.raises(StaleTable, match="other images"):
        ranges.check(model=model_digest(model), data=ImageStream(model, 4).dataset.digest)


@pytest.mark.parametrize("network", EMBEDDED)
def test_the_tables_kept_fit_the_graphs_of_today(network: str) -> None:
    ranges = load_table(ROOT / "calibration" / f"{network}.json")
    model = embedded_graph(network).model
    ranges.check(model=model_digest(model), images=512, calibrator="auto")


def test_export_takes_a_table(tmp_path: Path) -> None:
    kept = ROOT / "calibration" / "googlenet.json"
    recipe = Recipe(precision="int8", calibration=str(kept), data_size=64, seconds=0.0)
    bundle = deploy(recipe, tmp_path / "googlenet")
    assert bundle.manifest["calibration"]["images"] == 512
    assert bundle.manifest["parity"]["sqnr_db"] > 40
    foreign = recipe.but(network="inception_resnet_v2", weights="embedded")
    with pytest.raises(StaleTable, match="another graph"):
        deploy(foreign, tmp_path / "other")
