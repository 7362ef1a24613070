"""The test suite in the environment of the Python that runs this: what passed with which versions.

    uv pip compile --resolution lowest-direct --extra test pyproject.toml -o floor.txt
    PYTHON_OF_AN_ENVIRONMENT -m benchmarks.environments "oldest supported"

Adds a row to benchmarks/results/environments.json, in place of the one of that name. Rows of
failed runs are written, too: the table shows them. Tests of the documents are left out: they know
no environment, and one of them judges the table that is made from these rows.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click

from benchmarks.trt_api import version_order
from inception_deploy.bundle import write_json
from inception_deploy.machine import describe, library_versions

__all__ = ["RESULTS", "environments_table", "main"]

RESULTS = Path(__file__).parent / "results" / "environments.json"
SHOWN = ("torch", "onnx", "onnxruntime", "onnx-graphsurgeon", "numpy", "openvino", "tensorrt-rtx")
SUITE = (
    *("-q", "-m", "not device and not full", "-n", "auto", "--maxprocesses", "4"),
    *("--dist", "loadfile", "-p", "no:cacheprovider", "--ignore", "tests/unit/test_readme.py"),
)


@click.command(help="Run the suite here and keep its outcome under NAME.")
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
def main(name: str, out: Path) -> None:
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "junit.xml")
        command = [sys.executable, "-m", "pytest", *SUITE, f"--junitxml={report}"]
        subprocess.run(command, check=False)
        suites = ElementTree.parse(report).getroot().iter("testsuite")
        totals = [{key: int(suite.attrib[key]) for key in _COUNTS} for suite in suites]
    counted = {key: sum(total[key] for total in totals) for key in _COUNTS}
    failed = counted["failures"] + counted["errors"]
    row = {
        "name": name,
        "passed": counted["tests"] - failed - counted["skipped"],
        "failed": failed,
        "skipped": counted["skipped"],
        "seconds": round(time.perf_counter() - started),
        "machine": describe().to_dict(),
        "versions": library_versions(),
    }
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"] if out.exists() else []
    rows = [other for other in rows if other["name"] != name]
    write_json(out, {"command": "python -m benchmarks.environments NAME", "rows": [*rows, row]})
    sys.exit(1 if failed else 0)


_COUNTS = ("tests", "failures", "errors", "skipped")


def environments_table(results: Mapping[str, Any]) -> str:
    """Environment by environment: versions, and how the suite ended."""
    lines = [
        f"| environment | Python | {' | '.join(SHOWN)} | passed | failed |",
        f"|---|---|{'---|' * len(SHOWN)}---:|---:|",
    ]
    for row in sorted(results["rows"], key=lambda row: version_order(row["versions"]["torch"])):
        versions = " | ".join(row["versions"].get(name, "–").partition("+")[0] for name in SHOWN)
        python = ".".join(row["machine"]["python"].split(".")[:2])
        lines.append(
            f"| {row['name']} | {python} | {versions} | {row['passed']:,} | {row['failed']} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
