"""`export --int8` the whole way: heads, foreign graphs, and images that will not do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from small_graphs import build, noise, observe_on

from inception_deploy.bundle import Bundle
from inception_deploy.engines import ENGINES
from inception_deploy.errors import BadInput, DataError, StageError
from inception_deploy.pipeline import deploy
from inception_deploy.ranges import StaleTable
from inception_deploy.recipe import Head, Recipe

QUICK: dict[str, Any] = {"data_size": 16, "calibration_size": 32, "seconds": 0.0}


def int8(**options: Any) -> Recipe:
    return Recipe(precision="int8", **{**QUICK, **options})


def last_nodes(bundle: Bundle) -> list[str]:
    return [node.op_type for node in onnx.load(bundle.model).graph.node][-2:]


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("probabilities", "Softmax"),
        ("features", "Flatten"),
    ],
)
def test_what_leaves_the_graph_is_computed_in_float(
    head: Head, expected: str, tmp_path: Path
) -> None:
    bundle = deploy(int8(head=head), tmp_path / "b")
    assert last_nodes(bundle)[-1] == expected
    with ENGINES.get("onnxruntime").session(bundle.model) as session:
        outputs = session.run(bundle.golden().inputs)
    assert outputs.dtype == np.float32
    parity = bundle.read_json("parity.json")
    assert parity["sqnr_db"] > 25
    if head == "probabilities":
        np.testing.assert_allclose(outputs.sum(axis=1), 1, atol=1e-5)
    if head == "features":
        assert len(np.unique(outputs)) > 256  # an eight-bit grid would not hold as many


@pytest.mark.parametrize(("asked", "bits"), [(True, 7), (False, 8)])
def test_the_manifest_tells_the_bits_of_the_weights(asked: bool, bits: int, tmp_path: Path) -> None:
    bundle = deploy(int8(reduce_range=asked), tmp_path / "b")
    (stage,) = [s for s in bundle.manifest["stages"] if s["name"] == "lower/int8"]
    assert stage["facts"]["weight_bits"] == bits
    integers = [
        onnx.numpy_helper.to_array(t)
        for t in onnx.load(bundle.model).graph.initializer
        if t.name.endswith(".weight:int8")
    ]
    assert max(np.abs(values.astype(int)).max() for values in integers) == 2 ** (bits - 1) - 1


def test_weights_are_rounded_as_asked_and_the_manifest_says_how(tmp_path: Path) -> None:
    sqnr = {}
    for asked in ("gptq", "nearest"):
        bundle = deploy(int8(weight_rounding=asked, data_size=96), tmp_path / asked)
        (stage,) = [s for s in bundle.manifest["stages"] if s["name"] == "lower/int8"]
        weighted = [a for a in stage["applied"] if a["detail"] in ("Conv", "Gemm")]
        by_moments = stage["facts"]["rounded_by_moments"]
        assert by_moments == (len(weighted) if asked == "gptq" else 0)
        assert bundle.manifest["recipe"]["weight_rounding"] == asked
        sqnr[asked] = bundle.read_json("parity.json")["sqnr_db"]
    assert sqnr["gptq"] > sqnr["nearest"] + 0.2


def test_what_auto_decides_about_clipping_is_in_the_table(tmp_path: Path) -> None:
    """The trained network keeps its outliers; of one method asked for nothing is tried."""
    tables = [
        deploy(int8(calibrator=asked), tmp_path / asked.replace(":", "-")).read_json(
            "calibration.json"
        )
        for asked in ("auto", "auto:16", "auto:1")
    ]
    assert [table["calibrator"] for table in tables] == ["auto", "auto", "auto:1"]
    assert tables[0] == tables[1] != tables[2]


def test_a_foreign_graph_is_quantised(tmp_path: Path) -> None:
    first = deploy(Recipe(**QUICK), tmp_path / "first")
    recipe = int8(
        onnx=str(first.reference), image_size=96, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    )
    bundle = deploy(recipe, tmp_path / "b")
    assert "QuantizeLinear" in {n.op_type for n in onnx.load(bundle.model).graph.node}
    assert bundle.read_json("parity.json")["sqnr_db"] > 25


@pytest.mark.parametrize("network", ["xception", "inception_next_atto"])
def test_networks_of_every_kind_are_quantised(network: str, tmp_path: Path) -> None:
    recipe = int8(network=network, weights="random:0", width=0.125, image_size=96, num_classes=7)
    bundle = deploy(recipe, tmp_path / "b")
    kinds = [n.op_type for n in onnx.load(bundle.model).graph.node]
    assert kinds.count("QuantizeLinear") > 10
    assert bundle.read_json("parity.json")["cosine"] > 0.9


def test_images_of_another_size_are_an_error_of_one_line(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.npz"
    np.savez(wrong, input=np.zeros((4, 3, 64, 64), np.float32))
    with pytest.raises(DataError, match=r"shape \(3, 64, 64\), but .* \(3, 96, 96\)") as raised:
        deploy(int8(calibration=str(wrong)), tmp_path / "b")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("equalise", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_images_that_are_not_finite_are_an_error_of_one_line(
    value: float, equalise: bool, tmp_path: Path
) -> None:
    broken = np.zeros((4, 3, 96, 96), np.float32)
    broken[2, 1, 5, 5] = value
    np.savez(tmp_path / "broken.npz", input=broken)
    with pytest.raises((StageError, BadInput), match="NaN or infinity") as raised:
        recipe = int8(calibration=str(tmp_path / "broken.npz"), equalise=equalise)
        deploy(recipe, tmp_path / "b")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "b").exists()


def test_a_table_of_another_network_is_refused() -> None:
    one = build("output = Relu(input)")
    other = build("output = Neg(input)")
    seen = observe_on(one, noise(one))
    with pytest.raises(StaleTable, match="made for another graph"):
        seen.check(model=observe_on(other, noise(other)).model)
