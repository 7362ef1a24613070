"""The mutation benchmark on a few cases; the whole of it is run by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from benchmarks.faults import FAULTS
from benchmarks.gardens import Garden, plant
from benchmarks.mutation import RESULTS, clean_case, main, run_case
from benchmarks.mutation_table import GOALS, Case, goals, page, summary
from benchmarks.subjects import CLASSES, SHORT, Subject, pictures, subjects
from inception_deploy.artifact import model_digest
from inception_deploy.compare import compare_bundle
from inception_deploy.gate import gate
from inception_deploy.networks import NETWORKS
from inception_deploy.recipe import Recipe

SMALL = "googlenet"

PAGE = Path(__file__).parents[2] / "docs" / "mutation.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutation")


@pytest.fixture(scope="module")
def int8(folder: Path) -> Garden:
    return Garden(Subject(SMALL, folder), "int8")


def test_there_are_enough_kinds() -> None:
    assert len(FAULTS) >= 25
    assert {f.level for f in FAULTS} == {"graph", "lowered", "manifest", "data"}
    assert {s.name for s in subjects(Path("x"))} >= set(NETWORKS.names())
    assert set(SHORT) <= set(NETWORKS.names())


def test_planting_nothing_changes_nothing(int8: Garden) -> None:
    """The correct graph, made again the way mutants are, is the bundle's to the last bit."""
    again = int8.lowered(int8.fused(int8.exported))
    assert model_digest(again) == model_digest(int8.deployed)


def test_the_correct_bundle_answers_with_sense_and_raises_no_alarm(
    int8: Garden, tmp_path: Path
) -> None:
    assert set(int8.outputs.argmax(1)) == set(range(CLASSES))
    assert (int8.outputs.argmax(1) == int8.labels).mean() > 0.95
    case = clean_case(int8, 0, tmp_path)
    assert not case.caught, case.by
    assert not case.located


@pytest.mark.parametrize("fault", ["concat_swapped", "weight_scale", "rgb_bgr", "fc_transposed"])
def test_faults_are_caught_and_located(int8: Garden, tmp_path: Path, fault: str) -> None:
    case = run_case(int8, FAULTS.get(fault), 2, tmp_path)
    assert case is not None
    assert not case.equivalent
    assert case.caught
    assert case.right, (case.blocks, case.located)


@pytest.mark.parametrize(
    ("fault", "seed"), [("concat_swapped", 0), ("channel_scale", 2), ("rgb_bgr", 0), ("rgb_bgr", 2)]
)
def test_a_mutant_agrees_with_its_own_records(
    int8: Garden, tmp_path: Path, fault: str, seed: int
) -> None:
    """As a wrong pipeline writes it: nothing is caught because records are of another bundle."""
    planted = FAULTS.get(fault).plant(int8.site, np.random.default_rng(seed))
    assert planted is not None
    bundle, _ = plant(int8, planted, seed, tmp_path / "bundle")
    verdict = gate(bundle, reference=int8.reference)
    assert verdict.outcome == "FAIL"
    assert not {"files", "history", "interface", "as_exported"} & {c.name for c in verdict.failed}
    recorded = bundle.read_json("parity.json")
    fresh = compare_bundle(bundle, data_size=Recipe.from_dict(bundle.manifest["recipe"]).data_size)
    assert recorded["sqnr_db"] == pytest.approx(fresh.sqnr_db, abs=0.1)
    assert fresh.golden is not None
    assert recorded["golden"]["sqnr_db"] == pytest.approx(fresh.golden.sqnr_db, abs=0.1)


def test_an_equivalent_mutant_is_recognised(int8: Garden, tmp_path: Path) -> None:
    """ReLU before a grid that starts at zero: its quantiser cuts at zero as well."""
    case = run_case(int8, FAULTS.get("relu6"), 2, tmp_path)
    assert case is not None
    if case.equivalent:
        assert case.moved == 0.0
        assert case.top1_changed == 0.0
    else:
        assert case.moved


def test_a_fault_without_a_place_is_none(int8: Garden, tmp_path: Path) -> None:
    assert run_case(int8, FAULTS.get("gelu_tanh"), 2, tmp_path) is None


def test_seeds_draw_places(int8: Garden) -> None:
    fault = FAULTS.get("bn_beta_zero")
    drawn = [fault.plant(int8.site, np.random.default_rng(seed)) for seed in (0, 0, 1, 2)]
    names = [planted.nodes for planted in drawn if planted is not None]
    assert names[0] == names[1]
    assert len(set(names)) > 1


def test_the_site_is_never_modified(int8: Garden) -> None:
    before = model_digest(int8.exported), model_digest(int8.deployed)
    for fault in (f for f in FAULTS if "int8" in f.precisions):
        fault.plant(int8.site, np.random.default_rng(1))
    assert (model_digest(int8.exported), model_digest(int8.deployed)) == before


def test_planted_graphs_are_valid(int8: Garden) -> None:
    for fault in (f for f in FAULTS if "int8" in f.precisions):
        planted = fault.plant(int8.site, np.random.default_rng(3))
        for model in () if planted is None else (planted.reference, planted.lowered):
            if model is not None and fault.name != "ceil_mode":  # may break the grid behind it
                onnx.checker.check_model(model)


def test_runs_are_taken_up_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    given = ["--network", SMALL, "--fault", "rgb_bgr", "--folder", str(folder), "--out", str(out)]
    assert CliRunner().invoke(main, given, catch_exceptions=False).exit_code == 0
    first = json.loads(out.read_text())
    assert first["total"]["planted"] == 3
    assert first["clean"] == {"runs": 12, "gate_failed": 0, "located": 0}
    lines = (folder / "cases.jsonl").read_text().splitlines()
    again = CliRunner().invoke(main, given, catch_exceptions=False)
    assert again.exit_code == 0
    assert (folder / "cases.jsonl").read_text().splitlines() == lines


def test_the_summary_leaves_equivalent_mutants_out() -> None:
    def case(equivalent: bool, top1: float, caught: bool, right: bool) -> Case:
        return Case(
            *("n", "f", "int8", 0, "graph", "", ("b",)),
            equivalent,
            0.1,
            top1,
            caught,
            "check",
            "",
            right,
            "",
            1.0,
        )

    table = summary(
        [
            case(True, 0.0, False, False),
            case(False, 0.5, True, True),
            case(False, 0.0, False, True),
        ]
    )
    total = table["total"]
    assert (total["planted"], total["equivalent"]) == (3, 1)
    assert (total["caught_percent"], total["located_percent"]) == (50.0, 100.0)
    assert (total["changing_top1"], total["caught_of_those_percent"]) == (1, 100.0)


def test_pictures_are_of_all_kinds() -> None:
    images, labels = pictures(64, 0)
    assert images.dtype == np.uint8
    assert set(labels) == set(range(CLASSES))
    assert (pictures(64, 0)[0] == images).all()


def test_the_published_figures_reach_what_is_asked() -> None:
    """A table of a run that was cut short says how many cases are waiting."""
    table = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert table["goals"] == GOALS
    assert goals(table) == table["reached"]
    assert all(table["reached"].values()), table["reached"]
    assert set(table["faults"]) == {fault.name for fault in FAULTS}
    if table["waiting"]:
        assert f"{table['waiting']:,} cases are waiting" in PAGE.read_text(encoding="utf-8")
    else:
        assert set(NETWORKS.names()) <= set(table["networks"])


def test_the_page_is_of_the_published_figures() -> None:
    table = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert PAGE.read_text(encoding="utf-8") == page(table)


def test_goals_are_missed_one_by_one() -> None:
    total = {"caught_of_those_percent": 100.0, "caught_percent": 96.0, "located_percent": None}
    clean = {"runs": 199, "gate_failed": 0, "located": 1}
    assert goals({"total": total, "clean": clean}) == {
        "caught_of_those_percent": True,
        "caught_percent": True,
        "located_percent": False,
        "clean_runs": False,
        "false_alarms": False,
    }
