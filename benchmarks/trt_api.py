"""Which of the names used here each version of TensorRT's Python bindings has.

    pip download --no-deps -d WHEELS tensorrt_cu12_bindings==VERSION
    python -m benchmarks.trt_api WHEELS/*.whl

Bindings wheels come without the library they bind, so they are read and not loaded: an extension
module holds the names of its classes, members and enumerators as text. The names that are used are
read from the engine files, as attributes of what those call the library's objects. Writes
benchmarks/results/trt_api.json; names that version 11 removed are looked up beside them, as a
check that reading finds what is there and nothing else.
"""

from __future__ import annotations

import argparse
import ast
import zipfile
from collections.abc import Iterable
from pathlib import Path

from inception_deploy.bundle import write_json

__all__ = ["CONTROL", "RESULTS", "missing", "used_names"]

RESULTS = Path(__file__).parent / "results" / "trt_api.json"
ENGINES = Path(__file__).parents[1] / "inception_deploy" / "engines"
PARTS = ("build", "kernels", "lane", "library", "session")
FILES = tuple(ENGINES / f"_trt_{part}.py" for part in PARTS)

OBJECTS = frozenset(
    {"trt", "library", "flags", "levels", "builder", "network", "parser", "config", "made"}
    | {"tensor", "first", "engine", "context", "runtime", "refitter", "inspector"}
    | {"_engine", "NetworkDefinitionCreationFlag", "MemoryPoolType", "ProfilingVerbosity"}
    | {"TensorIOMode", "LayerInformationFormat", "BuilderFlag", "_cache", "cache"}
    | {"DynamicShapesKernelSpecializationStrategy"}
)
"""What the engine files call the library, and the objects and enumerations it gives them."""

COMMON = frozenset({"name", "shape"})
"""Attributes too common to be looked for as text."""

CONTROL = (
    "platform_has_fast_int8",
    "int8_calibrator",
    "set_quantization_flag",
    "create_execution_context_without_device_memory",
)
"""Names that TensorRT 10 has and 11 has not."""


def used_names(files: Iterable[Path] = FILES) -> set[str]:
    """Attributes that the engine files ask of TensorRT's objects."""
    found: set[str] = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                owner = node.value
                label = owner.attr if isinstance(owner, ast.Attribute) else ""
                label = owner.id if isinstance(owner, ast.Name) else label
                if label in OBJECTS:
                    found.add(node.attr)
    return {name for name in found - COMMON if not name.startswith("__")}


def missing(wheel: Path, names: Iterable[str]) -> list[str]:
    """Those of `names` that a bindings wheel does not hold as a text of its own."""
    with zipfile.ZipFile(wheel) as archive:
        extension = next(n for n in archive.namelist() if n.endswith(".so"))
        content = archive.read(extension)
    # a linker may store a text as the end of a longer one, so only its end is looked at
    return sorted(name for name in names if name.encode() + b"\0" not in content)


def main(wheels: Iterable[Path]) -> None:
    """Look `used_names` and `CONTROL` up in every wheel, and write the file."""
    names = sorted(used_names())
    versions = {
        wheel.name.split("-")[1]: {"missing": missing(wheel, names)}
        | {"control_missing": missing(wheel, CONTROL)}
        for wheel in wheels
    }
    write_json(
        RESULTS,
        {
            "command": "python -m benchmarks.trt_api WHEEL...",
            "names": names,
            "control": list(CONTROL),
            "versions": dict(sorted(versions.items(), key=lambda item: _order(item[0]))),
        },
    )


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheels", nargs="+", type=Path)
    main(parser.parse_args().wheels)
