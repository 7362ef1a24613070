"""What the gate writes: JUnit XML, GitHub's summary and annotations; and the action's script."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import junitparser
import pytest
import xmlschema
import yaml

from inception_deploy.cli.gate import parse_size
from inception_deploy.errors import BadInput
from inception_deploy.gate import Bounds, Check, GateVerdict, default_bounds
from inception_deploy.gate.github import (
    annotation_lines,
    append_summary,
    summary_markdown,
    summary_path,
)
from inception_deploy.gate.junit import junit_xml, write_junit
from inception_deploy.gate.verdict import judged

ROOT = Path(__file__).parents[2]

# What the schemas of Jenkins' xUnit plugin (junit-10.xsd) and of Maven Surefire have in common:
# elements, which attributes they need, and in which order children come.
SCHEMA = """<?xml version="1.0"?>
<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema">
  <xs:simpleType name="time"><xs:restriction base="xs:string">
    <xs:pattern value="(([0-9]{0,3},)*[0-9]{3}|[0-9]{0,3})*(\\.[0-9]{0,3})?"/>
  </xs:restriction></xs:simpleType>
  <xs:complexType name="said" mixed="true"><xs:sequence/>
    <xs:attribute name="type" type="xs:string"/><xs:attribute name="message" type="xs:string"/>
  </xs:complexType>
  <xs:element name="testsuites"><xs:complexType><xs:sequence>
    <xs:element name="testsuite" minOccurs="0" maxOccurs="unbounded"><xs:complexType><xs:sequence>
      <xs:element name="properties" minOccurs="0"><xs:complexType><xs:sequence>
        <xs:element name="property" maxOccurs="unbounded"><xs:complexType>
          <xs:attribute name="name" type="xs:string" use="required"/>
          <xs:attribute name="value" type="xs:string" use="required"/>
        </xs:complexType></xs:element>
      </xs:sequence></xs:complexType></xs:element>
      <xs:element name="testcase" minOccurs="0" maxOccurs="unbounded"><xs:complexType>
        <xs:sequence>
          <xs:choice minOccurs="0" maxOccurs="unbounded">
            <xs:element name="skipped" type="said"/>
            <xs:element name="error" type="said"/>
            <xs:element name="failure" type="said"/>
            <xs:element name="system-out" type="xs:string"/>
          </xs:choice>
        </xs:sequence>
        <xs:attribute name="name" type="xs:string" use="required"/>
        <xs:attribute name="classname" type="xs:string" use="required"/>
        <xs:attribute name="time" type="time" use="required"/>
      </xs:complexType></xs:element>
    </xs:sequence>
      <xs:attribute name="name" type="xs:string" use="required"/>
      <xs:attribute name="tests" type="xs:nonNegativeInteger" use="required"/>
      <xs:attribute name="failures" type="xs:nonNegativeInteger" use="required"/>
      <xs:attribute name="errors" type="xs:nonNegativeInteger" use="required"/>
      <xs:attribute name="skipped" type="xs:nonNegativeInteger"/>
      <xs:attribute name="time" type="time"/>
      <xs:attribute name="timestamp">
        <xs:simpleType><xs:restriction base="xs:dateTime">
          <xs:pattern value="[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}"/>
        </xs:restriction></xs:simpleType>
      </xs:attribute>
    </xs:complexType></xs:element>
  </xs:sequence>
    <xs:attribute name="name" type="xs:string"/><xs:attribute name="time" type="time"/>
    <xs:attribute name="tests" type="xs:nonNegativeInteger"/>
    <xs:attribute name="failures" type="xs:nonNegativeInteger"/>
    <xs:attribute name="errors" type="xs:nonNegativeInteger"/>
    <xs:attribute name="skipped" type="xs:nonNegativeInteger"/>
  </xs:complexType></xs:element>
</xs:schema>"""

CHECKS = (
    Check("files", "integrity", "PASS", "every file is the one that was exported"),
    Check(
        "top1_drop", "accuracy", "FAIL", "drop <2.0> & 'more'\x07", 2.0, 0.5, (1.2, 2.9), "points"
    ),
    Check("agreement", "accuracy", "INCONCLUSIVE", "too few | to_tell", 0.4, 1.0, (0.1, 1.9), "%"),
    Check("default", "accuracy", "INCONCLUSIVE", "nobody asked", counts=False),
    Check("images", "integrity", "NOT_ASKED", "not at hand"),
)


def verdict(*checks: Check, warnings: tuple[str, ...] = ()) -> GateVerdict:
    outcome, reason = judged(checks)
    return GateVerdict(
        outcome, reason, checks, "/b", "googlenet", "int8", "onnxruntime", "pytorch", 128, False,
        1.5, warnings,
    )  # fmt: skip


# ---------------------------------------------------------------- the verdict


def test_one_failure_decides_and_an_undecided_default_does_not() -> None:
    passed, failed, undecided, ignored, unasked = CHECKS
    assert verdict(*CHECKS).outcome == "FAIL"
    assert verdict(passed, undecided, ignored).exit_code == 4
    assert verdict(passed, ignored, unasked).exit_code == 0
    assert verdict(passed, ignored).reason == (
        "checks that hold: 1; undecided, but not asked for: 1"
    )
    assert verdict(failed, failed).reason.endswith("(and 1 more)")


# ---------------------------------------------------------------- JUnit


def test_junit_is_valid_and_read_by_others(tmp_path: Path) -> None:
    write_junit(tmp_path / "deep" / "gate.xml", verdict(*CHECKS))
    text = (tmp_path / "deep" / "gate.xml").read_text()
    xmlschema.XMLSchema(SCHEMA).validate(text.split("\n", 1)[1])
    found = junitparser.JUnitXml.fromfile(str(tmp_path / "deep" / "gate.xml"))
    assert (found.tests, found.failures, found.errors, found.skipped) == (5, 1, 1, 2)
    suites = {suite.name: suite for suite in found}
    assert {name: suite.tests for name, suite in suites.items()} == {
        "gate.integrity": 2,
        "gate.accuracy": 3,
    }
    (failure,) = next(case for case in suites["gate.accuracy"] if case.name == "top1_drop").result
    assert failure.message == "drop <2.0> & 'more'�"  # the bell is no character of XML


def test_the_schema_can_refuse() -> None:
    text = junit_xml(verdict(*CHECKS)).split("\n", 1)[1]
    for wrong in (text.replace(' failures="1"', "", 2), text.replace("testcase", "case")):
        assert not xmlschema.XMLSchema(SCHEMA).is_valid(wrong)


# ---------------------------------------------------------------- GitHub


def test_summary_is_a_table_that_no_text_breaks(tmp_path: Path) -> None:
    page = tmp_path / "summary.md"
    append_summary(page, verdict(*CHECKS))
    append_summary(page, verdict(CHECKS[0]))
    text = page.read_text()
    assert text.count("###") == 2
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert all(row.replace("\\|", "").count("|") == 6 for row in rows)
    assert "2 points (1.20 … 2.90)" in text
    assert summary_markdown(verdict(CHECKS[0], warnings=("held to *it*",))).endswith(
        "> ⚠️ held to \\*it\\*\n"
    )


def test_annotations_are_escaped() -> None:
    bad = Check("a:b,c", "accuracy", "FAIL", "50 %\nof it")
    lines = list(annotation_lines(verdict(bad, CHECKS[2], CHECKS[3], warnings=("noisy",))))
    assert lines == [
        "::error title=gate%3A a%3Ab%2Cc (googlenet int8)::50 %25%0Aof it",
        "::warning title=gate%3A agreement (googlenet int8)::too few | to_tell",
        "::warning title=gate (googlenet int8)::noisy",
    ]


def test_where_the_summary_goes(tmp_path: Path) -> None:
    assert summary_path(None, {}) is None
    assert summary_path(None, {"GITHUB_STEP_SUMMARY": "/s"}) == Path("/s")
    assert summary_path(tmp_path, {"GITHUB_STEP_SUMMARY": "/s"}) == tmp_path


# ---------------------------------------------------------------- the action


def test_action_passes_every_option_of_the_gate() -> None:
    from inception_deploy.cli.gate import command

    action = yaml.safe_load((ROOT / "action.yml").read_text())
    options = {option.name.replace("_", "-") for option in command.params}
    own = {"json", "allow-inconclusive", "install"}
    assert set(action["inputs"]) - own <= options
    for step in action["runs"]["steps"]:
        assert "inputs." not in step["run"]  # text from outside never becomes part of a script


@pytest.mark.parametrize(("code", "allow", "exits"), [(0, "", 0), (1, "", 1), (4, "true", 0)])
def test_action_script(tmp_path: Path, code: int, allow: str, exits: int) -> None:
    """The script of the action, with a gate that says what it was given."""
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    tool = tmp_path / "inception-deploy"
    tool.write_text(
        f'#!/bin/bash\nprintf "%s\\n" "$@" > {tmp_path}/given\n'
        f'echo \'{{"outcome": "SAID"}}\'\nexit {code}\n'
    )
    tool.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "GITHUB_OUTPUT": str(tmp_path / "out"),
        "BUNDLE": "my bundle; rm -rf x",
        "MAX_DROP": "0.5",
        "JSON": str(tmp_path / "gate.json"),
        "ALLOW_INCONCLUSIVE": allow,
    }
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", action["runs"]["steps"][-1]["run"]],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == exits, done.stderr
    assert (tmp_path / "given").read_text().splitlines() == [
        *("gate", "--max-drop=0.5", "--json", "--", "my bundle; rm -rf x")
    ]
    assert (tmp_path / "out").read_text() == f"verdict=SAID\nexit-code={code}\n"


# ---------------------------------------------------------------- bounds


def test_bounds_are_the_users_and_the_defaults() -> None:
    bounds = Bounds.asked("int8", max_drop=1.0)
    assert bounds.max_drop == 1.0
    assert bounds.min_agreement == default_bounds("int8").min_agreement
    assert bounds.named == {"max_drop"}
    assert Bounds.asked("int8", defaults=False, max_drop=1.0).to_dict() == {"max_drop": 1.0}


@pytest.mark.parametrize(
    "given",
    [{"max_drop": -0.1}, {"max_drop": float("nan")}, {"min_agreement": 101}, {"max_size": 0}],
)
def test_bounds_that_make_no_sense(given: dict[str, float]) -> None:
    with pytest.raises(BadInput, match="--"):
        Bounds.asked("fp32", **given)


@pytest.mark.parametrize(
    ("text", "size"), [("25MB", 25_000_000), ("1.5 KiB", 1536), ("7", 7), ("2gb", 2 * 10**9)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "2XB", "-1", "1e3"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(BadInput, match="--max-size"):
        parse_size(text)


def test_help_states_the_defaults() -> None:
    from inception_deploy.cli.gate import command

    texts = {p.name: getattr(p, "help", None) or "" for p in command.params}
    for precision in ("fp32", "fp16", "bf16", "int8", "fp8"):
        bounds = default_bounds(precision)
        assert f"{bounds.max_drop:g}" in texts["max_drop"]
        assert f"{bounds.min_agreement:g}" in texts["min_agreement"]
        assert f"{precision} {bounds.min_sqnr:g}" in texts["min_sqnr"]
