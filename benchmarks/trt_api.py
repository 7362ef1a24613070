"""Which of the calls made here each version of TensorRT's Python bindings takes.

    pip download --no-deps -d WHEELS tensorrt_cu12_bindings==VERSION
    python -m benchmarks.trt_api WHEELS/*.whl

Bindings wheels (of this Python) come without the library they bind. Each is loaded, in a process of
its own, over empty libraries that a C compiler makes here: its classes are then there, and say of
each method what it takes. What is asked of them is read from the engine files: attributes and calls
of what those name the library's objects. Writes benchmarks/results/trt_api.json; names that version
11 removed are looked up beside them, as a check that looking finds what is there and nothing else.
"""

from __future__ import annotations

import argparse
import ast
import ctypes
import importlib.util
import inspect
import multiprocessing
import re
import subprocess
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from typing import Any

from inception_deploy.bundle import write_json

__all__ = ["CONTROL", "RESULTS", "Call", "described", "takes", "used", "version_order"]

RESULTS = Path(__file__).parent / "results" / "trt_api.json"
ENGINES = Path(__file__).parents[1] / "inception_deploy" / "engines"

_ENUMERATIONS = (
    *("BuilderFlag", "DynamicShapesKernelSpecializationStrategy", "HardwareCompatibilityLevel"),
    *("LayerInformationFormat", "MemoryPoolType", "NetworkDefinitionCreationFlag"),
    *("ProfilingVerbosity", "TensorIOMode"),
)
_MODULE = ""
OBJECTS: Mapping[str, Mapping[str, str]] = {
    "build": {
        **{"trt": _MODULE, "library": _MODULE, "builder": "Builder", "config": "IBuilderConfig"},
        **{"network": "INetworkDefinition", "tensor": "ITensor", "made": "IOptimizationProfile"},
        **{"parser": "OnnxParser", "first": "ParserError", "flags": "BuilderFlag"},
        **{"levels": "HardwareCompatibilityLevel", "timings": "ITimingCache"},
    },
    "kernels": {
        **{"library": _MODULE, "engine": "ICudaEngine", "_engine": "ICudaEngine"},
        **{"config": "IRuntimeConfig", "cache": "IRuntimeCache", "_cache": "IRuntimeCache"},
    },
    "lane": {"engine": "ICudaEngine", "context": "IExecutionContext"},
    "library": {"library": _MODULE},
    "plan": {
        **{"library": _MODULE, "runtime": "Runtime", "lean": "Runtime"},
        **{"engine": "ICudaEngine", "refitter": "Refitter", "parser": "OnnxParserRefitter"},
    },
    "session": {
        **{"library": _MODULE, "inspector": "EngineInspector"},
        **{"engine": "ICudaEngine", "_engine": "ICudaEngine"},
    },
}
"""Engine file → what it calls the library's objects → their class ("" is the library itself)."""

OF_THE_PACKAGE = frozenset({"__version__"})
"""Attributes that the Python package around the bindings adds."""

CONTROL = (
    "Builder.platform_has_fast_int8",
    "IBuilderConfig.int8_calibrator",
    "IBuilderConfig.set_quantization_flag",
    "ICudaEngine.create_execution_context_without_device_memory",
)
"""Names that TensorRT 10 has and 11 has not."""

ENTRY_POINTS = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL"),
    *("createInferRuntime_INTERNAL", "createNvOnnxParserRefitter_INTERNAL"),
    *("createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry", "getNvOnnxParserVersion"),
    *("getPluginRegistry", "initLibNvInferPlugins"),
)
"""What the bindings ask of the library by name: all else goes through its objects."""
LIBRARIES = ("libnvinfer", "libnvonnxparser", "libnvinfer_plugin")


@dataclass(frozen=True)
class Call:
    """How a method is called: arguments by position (`self` apart), and those by name."""

    positional: int
    keywords: tuple[str, ...] = ()


def used(files: Mapping[str, str] | None = None) -> dict[str, set[Call]]:
    """What the engine files ask of TensorRT: "Class.member" → how it is called, where it is.

    Args:
        files: part of the engine → its source; None takes those of the package.
    """
    if files is None:
        files = {p: (ENGINES / f"_trt_{p}.py").read_text(encoding="utf-8") for p in OBJECTS}
    found: dict[str, set[Call]] = {}
    for part, source in files.items():
        names = {**{name: name for name in _ENUMERATIONS}, **OBJECTS[part]}
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute) and (member := _member(node, names)) is not None:
                found.setdefault(member, set())
            for member, call in _calls(node, names):
                found.setdefault(member, set()).add(call)
    return found


def _member(node: ast.Attribute, names: Mapping[str, str]) -> str | None:
    """ "Class.member" of an attribute of one of the library's objects."""
    owner = node.value
    label = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
    if label not in names or node.attr in OF_THE_PACKAGE:
        return None
    return ".".join(filter(None, (names[label], node.attr)))


def _calls(node: ast.AST, names: Mapping[str, str]) -> Iterator[tuple[str, Call]]:
    """Calls of methods, and methods that a class here gives the library to call."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        member = _member(node.func, names)
        whole = not any(isinstance(argument, ast.Starred) for argument in node.args)
        if member is not None and whole:
            keywords = tuple(sorted(str(keyword.arg) for keyword in node.keywords))
            yield member, Call(len(node.args), keywords)
    elif isinstance(node, ast.ClassDef):
        for base in node.bases:
            if isinstance(base, ast.Attribute) and (owner := _member(base, names)) is not None:
                for method in node.body:
                    if isinstance(method, ast.FunctionDef) and method.name != "__init__":
                        yield f"{owner}.{method.name}", Call(len(method.args.args) - 1)


def takes(signature: str, call: Call) -> bool:
    """Whether a method whose signature is in pybind11's words can be called so."""
    # defaults are <Strategy.STATIC: 0>, and types without a Python name are C++'s
    readable = re.sub(r"<[^<>]*>", "None", signature).replace("::", ".")
    (function,) = ast.parse(f"def {readable}: ...").body
    assert isinstance(function, ast.FunctionDef)
    names = [argument.arg for argument in function.args.args if argument.arg != "self"]
    required = len(names) - len(function.args.defaults)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [
        inspect.Parameter(name, kind, default=inspect.Parameter.empty if n < required else None)
        for n, name in enumerate(names)
    ]
    try:
        inspect.Signature(parameters).bind(*range(call.positional), **dict.fromkeys(call.keywords))
    except TypeError:
        return False
    return True


def described(library: Any, members: Iterable[str]) -> dict[str, list[str] | None]:
    """ "Class.member" → its signatures (none of what is no method), None where it is missing."""
    return {member: _signatures(library, member) for member in members}


def _signatures(library: Any, member: str) -> list[str] | None:
    found = library
    for name in member.split("."):
        if not hasattr(found, name):
            return None
        found = getattr(found, name)
    name = member.split(".")[-1]
    if isinstance(found, type):
        found, name = found.__init__, "__init__"  # type: ignore[misc]
    lines = (found.__doc__ or "").splitlines() if callable(found) else []
    # one line each, numbered where there are several
    starts = (re.match(rf"(?:\d+\. )?({name}\(self: .*)", line) for line in lines)
    return [re.sub(r"\btensorrt(?:_rtx)?\.", "", start[1]) for start in starts if start]


def _loaded(wheel: Path, members: Iterable[str]) -> dict[str, list[str] | None]:
    """`described` of a bindings wheel. To be called once in a process."""
    with tempfile.TemporaryDirectory() as name, zipfile.ZipFile(wheel) as archive:
        inside = next(n for n in archive.namelist() if n.endswith("tensorrt.so"))
        extension = Path(archive.extract(inside, name))
        major = wheel.name.split("-")[1].split(".")[0]
        source = Path(name, "empty.c")
        source.write_text(
            "".join(f"void *{entry}(void) {{ return 0; }}\n" for entry in ENTRY_POINTS)
        )
        for library in LIBRARIES:
            title = f"{library}.so.{major}"
            built = Path(name, title)
            made = ("cc", "-shared", "-fPIC", f"-Wl,-soname,{title}", "-o", built, source)
            subprocess.run(made, check=True)
            ctypes.CDLL(str(built), ctypes.RTLD_GLOBAL)
        loader = ExtensionFileLoader("tensorrt", str(extension))
        spec = importlib.util.spec_from_loader("tensorrt", loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
        return described(module, members)


def main(wheels: Iterable[Path]) -> None:
    """Look what is `used`, and `CONTROL`, up in every wheel, and write the file."""
    members = sorted(used())
    versions: dict[str, Any] = {}
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawned, max_tasks_per_child=1) as processes:
        for wheel in wheels:
            found = processes.submit(_loaded, wheel, [*members, *CONTROL]).result()
            versions[wheel.name.split("-")[1]] = {
                "members": {member: found[member] for member in members},
                "control_missing": [member for member in CONTROL if found[member] is None],
            }
    results = {
        "command": "python -m benchmarks.trt_api WHEEL...",
        "control": list(CONTROL),
        "versions": dict(sorted(versions.items(), key=lambda item: version_order(item[0]))),
    }
    write_json(RESULTS, results)


def version_order(version: str) -> tuple[int, ...]:
    """The numbers of a version, for sorting."""
    return tuple(int(part) for part in version.partition("+")[0].split(".") if part.isdecimal())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheels", nargs="+", type=Path)
    main(parser.parse_args().wheels)
