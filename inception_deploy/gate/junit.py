"""The verdict as JUnit XML, for Jenkins, GitLab, Azure and whatever else draws test reports.

One suite per group of checks, one case per check. A failed check is a `failure`, one that could not
be decided an `error`; an undecided check that does not count, and one that was not made, are
`skipped`. Elements and attributes are those of the schema of Jenkins' xUnit plugin and of Maven
Surefire, which agree on them.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

from inception_deploy.gate.verdict import Check, GateVerdict

__all__ = ["junit_xml", "write_junit"]

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, not even as a reference."""


def junit_xml(verdict: GateVerdict, *, at: datetime | None = None) -> str:
    """The document, with its declaration.

    Args:
        at: when the gate ended; None means now.
    """
    stamp = (at or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%S")
    root = ET.Element("testsuites", name="inception-deploy gate")
    # sorted is stable: groups in the order in which they are first met, checks as they were made
    order = list(dict.fromkeys(check.group for check in verdict.checks))
    ordered = sorted(verdict.checks, key=lambda check: order.index(check.group))
    for number, (group, checks) in enumerate(groupby(ordered, key=lambda check: check.group)):
        seconds = verdict.seconds if number == 0 else 0.0
        _suite(root, verdict, group, list(checks), stamp, seconds)
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in root)))
    root.set("time", f"{verdict.seconds:.3f}")
    ET.indent(root)
    text = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def write_junit(path: Path, verdict: GateVerdict) -> None:
    """Write the document through a temporary sibling. Raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(junit_xml(verdict), encoding="utf-8")
    temporary.replace(path)


def _suite(
    root: ET.Element,
    verdict: GateVerdict,
    group: str,
    checks: list[Check],
    stamp: str,
    seconds: float,
) -> None:
    suite = ET.SubElement(
        root,
        "testsuite",
        name=f"gate.{group}",
        tests=str(len(checks)),
        failures=str(sum(check.failed for check in checks)),
        errors=str(sum(check.undecided for check in checks)),
        skipped=str(sum(_skipped(check) for check in checks)),
        time=f"{seconds:.3f}",
        timestamp=stamp,
    )
    properties = ET.SubElement(suite, "properties")
    for name in ("bundle", "network", "precision", "target", "truth", "images", "outcome"):
        value = _clean(str(getattr(verdict, name)))
        ET.SubElement(properties, "property", name=name, value=value)
    classname = f"{verdict.network}.{verdict.precision}.{group}"
    for check in checks:
        case = ET.SubElement(
            suite, "testcase", name=_clean(check.name), classname=_clean(classname), time="0.000"
        )
        reason = _clean(check.reason)
        if check.failed:
            ET.SubElement(case, "failure", message=reason, type="bound").text = reason
        elif check.undecided:
            ET.SubElement(case, "error", message=reason, type="inconclusive").text = reason
        elif _skipped(check):
            ET.SubElement(case, "skipped", message=reason)
        else:
            ET.SubElement(case, "system-out").text = reason


def _skipped(check: Check) -> bool:
    return check.outcome == "NOT_ASKED" or (check.outcome == "INCONCLUSIVE" and not check.counts)


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("�", text)
