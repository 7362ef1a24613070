"""The rules of the house that a reader of imports can check."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "inception_deploy"

STAGES = ("reference", "golden", "export", "fuse", "calibrate", "lower", "parity", "throughput")
"""In processing order: a stage may import from earlier ones only."""

ABOVE = ("pipeline", "compare", "bench", "gate", "cli")
"""What may see every stage, and may be imported by none."""


def imported(path: Path) -> set[str]:
    """Modules of this package that `path` imports, as dotted names below the package."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "inception_deploy":
                found.update(alias.name for alias in node.names)
            elif node.module.startswith("inception_deploy."):
                found.add(node.module.removeprefix("inception_deploy."))
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_imports_a_later_one(stage: str) -> None:
    later = set(STAGES[STAGES.index(stage) + 1 :]) | set(ABOVE)
    files = [PACKAGE / f"{stage}.py", *(PACKAGE / stage).glob("*.py")]
    existing = [path for path in files if path.exists()]
    assert existing
    for path in existing:
        assert not {name.split(".")[0] for name in imported(path)} & later, path.name


@pytest.mark.parametrize(
    "folder",
    ["networks", "fusions", "calibrators", "placements", "precisions", "engines", "targets"],
)
def test_variants_import_no_stage(folder: str) -> None:
    for path in (PACKAGE / folder).glob("*.py"):
        seen = {name.split(".")[0] for name in imported(path)}
        assert not seen & {*STAGES, *ABOVE}, path.name


def test_vendor_imports_stay_in_engines() -> None:
    vendors = {"onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"}
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name == "engines":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names.append(node.module or "")
            assert not {name.split(".")[0] for name in names} & vendors, path


@pytest.mark.parametrize("module", ["inception_deploy", "inception_deploy.cli.main"])
def test_light_imports_stay_light(module: str) -> None:
    heavy = "{'torch', 'onnx', 'onnxruntime', 'numpy', 'PIL'} & set(sys.modules)"
    code = f"import sys, {module}\nassert not {heavy}, {heavy}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_engine_is_found_without_pytorch() -> None:
    """Serving takes three seconds and 200 MB more where the look-up imports it on the way."""
    code = (
        "import sys; from inception_deploy.engines import ENGINES\n"
        "ENGINES.get('onnxruntime').availability()\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_is_quick() -> None:
    command = [sys.executable, "-m", "inception_deploy.cli.main", "--help"]
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds.append(time.perf_counter() - started)
    assert "export" in done.stdout
    assert min(seconds) < 0.3  # the quickest of five: the other four may share the machine
