"""What the rewrites gain: how rows become means, and that profiles follow what was measured."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from benchmarks.rewrites import NETWORKS, PAYS, PLAIN, RESULTS, STEPS, combination, summary
from inception_deploy.fusions import FUSIONS, Phase
from inception_deploy.targets import TARGETS, Choice, Target

RECORDED: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))


def row(network: str, ratio: float, *, precision: str = "int8", batch: int = 1) -> dict[str, Any]:
    step = STEPS["pool_as_conv"]
    return {
        **{"network": network, "target": "onnxruntime", "precision": precision, "batch": batch},
        "ratios": [{"without": step.before, "with": step.after, "ratio": ratio, "ci95": [1, 2]}],
    }


def test_steps_lead_from_what_is_given_to_one_rewrite_more() -> None:
    assert combination(()) == "fold"
    step = STEPS["sibling_merge/pool_projection"]
    assert (step.before, step.after) == ("pool_projection", "pool_projection+sibling_merge")
    assert {s.adds for s in STEPS.values()} == {f.name for f in FUSIONS if f.phase > Phase.FOLD}


def test_means_are_geometric_and_over_networks_and_batches() -> None:
    found = summary([row("a", 4.0), row("b", 1.0), row("a", 0.5, batch=8)])
    means = found["pool_as_conv"]["onnxruntime"]["int8"]
    assert means["geometric_mean"] == pytest.approx(2 ** (1 / 3), abs=1e-4)
    assert means["worst"] == {"a, batch 8": 0.5}
    assert found["pool_projection"] == {}


def test_precisions_are_apart() -> None:
    found = summary([row("a", 4.0), row("a", 0.5, precision="fp32")])
    by_precision = found["pool_as_conv"]["onnxruntime"]
    assert {name: means["geometric_mean"] for name, means in by_precision.items()} == {
        "int8": 4.0,
        "fp32": 0.5,
    }


def test_the_whole_is_the_profile_against_the_plain_graph() -> None:
    chosen = {f.name for f in TARGETS.get("onnxruntime").rewrites("fp32") if f.phase > Phase.FOLD}
    means = RECORDED["whole"]["onnxruntime"]["fp32"]
    assert means["without"] == PLAIN
    assert set(means["with"].split("+")) - {"fold"} == chosen


def test_the_recorded_summary_is_that_of_the_recorded_rows() -> None:
    made = summary(RECORDED["rows"])
    assert {key: RECORDED[key] for key in made} == made
    assert {r["network"] for r in RECORDED["rows"]} <= set(NETWORKS)


def choices(targets: Iterable[Target]) -> list[Any]:
    return [
        pytest.param(target, choice, id=f"{target.name}-{choice.fusion}")
        for target in targets
        for choice in target.choices
    ]


ON_CPUS = choices(map(TARGETS.get, ("onnxruntime", "openvino")))


@pytest.mark.parametrize(("target", "choice"), choices(TARGETS))
def test_the_evidence_of_a_choice_exists(target: Target, choice: Choice) -> None:
    file, _, key = choice.evidence.partition("#")
    assert key in json.loads((RESULTS.parent / file).read_text(encoding="utf-8"))
    assert FUSIONS.get(choice.fusion).phase > Phase.FOLD
    assert target.name in TARGETS.names()


@pytest.mark.parametrize(("target", "choice"), ON_CPUS)
def test_a_choice_is_what_was_measured(target: Target, choice: Choice) -> None:
    """FP16 is FP32 arithmetic there (docs/decisions/002), so it goes by the figures of FP32."""
    key = choice.evidence.partition("#")[2]
    means = {name: facts["geometric_mean"] for name, facts in RECORDED[key][target.name].items()}
    assert set(means) >= {"fp32", "int8"}
    means.setdefault("fp16", means["fp32"])
    chosen = {c.fusion: set(c.precisions) for c in target.choices}
    for name in list(means):  # what it gains behind rewrites that do not run is of no use
        if any(name not in chosen[given] for given in STEPS[key].given):
            del means[name]
    assert set(choice.precisions) == {name for name, mean in means.items() if mean >= PAYS}


def test_every_optional_rewrite_is_decided_for_onnxruntime() -> None:
    choices = TARGETS.get("onnxruntime").choices
    assert {c.fusion for c in choices} == {f.name for f in FUSIONS if f.phase > Phase.FOLD}
