"""Serialised engine → engine: which runtime takes it, and in one line why none does.

An engine that later versions can load holds no runtime of its own here: that would be native code,
which is never run from an engine. A later TensorRT hands it to the lean runtime of the version that
built it, a package of NVIDIA's, where that is installed.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inception_deploy.engines._trt_library import Flavour, gpus, listening
from inception_deploy.errors import StageError

__all__ = ["LEAN", "explained", "put_back", "taken"]

LEAN = "tensorrt_lean_libs"
"""Python package of the lean runtime."""

_VERSION = "was built by another version"
_CAUSES: Sequence[tuple[str, str]] = (
    (r"driver version is insufficient|no CUDA-capable", "there is no NVIDIA driver here"),
    (r"[Vv]ersion tag|library version|newer plan|incompatible serialization version", _VERSION),
    (r"incompatible with (the|current) version", _VERSION),
    (r"[Cc]ompute capability|expecting compute|incompatible device", "was built for other GPUs"),
    (r"[Pp]latform specific tag|PlatformTag", "was built on another system"),
    (r"lean runtime", "holds a runtime, which is not run"),
    (r"[Mm]agic|MAGIC|blobSize|[Nn]ot enough data|truncat|corrupt", "is truncated or no engine"),
)
"""What TensorRT logs when it does not take a plan → what that means.

The texts are those of libnvinfer_lean 10.16 to 11.4 and of libtensorrt_rtx 1.7.
"""


def taken(flavour: Flavour, library: Any, plan: bytes) -> tuple[Any, Any]:
    """A runtime, and the engine that it made of a plan; the engine must not outlive the runtime.

    Raises:
        StageError: the plan is of another version, for another GPU, or damaged.
    """
    ears, errors = listening(library)
    runtime = library.Runtime(ears)
    runtime.engine_host_code_allowed = False
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is not None:
        return runtime, engine
    said = explained(flavour, library.__version__, errors, [gpu.sm for gpu in gpus()])
    path = None if flavour.ahead or _cause(errors) != _VERSION else _lean_runtime()
    if path is not None:
        errors.clear()
        lean = runtime.load_runtime(str(path))
        engine = None if lean is None else lean.deserialize_cuda_engine(plan)
        if engine is not None:
            return (lean, runtime), engine
        said = f"{said}; nor does the lean runtime {path.name} load it: {_last(errors)}"
    raise StageError(said)


def put_back(library: Any, engine: Any, weights: Path) -> None:
    """Give a stripped engine its weights.

    Args:
        weights: the ONNX file it was built from.

    Raises:
        StageError: these are not its weights.
    """
    ears, errors = listening(library)
    refitter = library.Refitter(engine, ears)
    parser = library.OnnxParserRefitter(refitter, ears)
    if not (parser.refit_from_file(str(weights)) and refitter.refit_cuda_engine()):
        raise StageError(
            f"{weights} does not hold the weights of this engine: {_last(errors)}; export it again"
        )


def explained(flavour: Flavour, version: str, errors: Sequence[str], here: Sequence[int]) -> str:
    """One line for a plan that the library did not take, from what it logged.

    Args:
        here: compute capabilities of the GPUs of this machine, times ten.
    """
    cause = _cause(errors)
    if cause is None:
        said = _last(errors)
        return f"{flavour.title} {version} does not load the engine: {said}; export it again"
    if cause.startswith("there is"):
        return f"{flavour.title} cannot load the engine: {cause}"
    sms = ", ".join(f"SM{sm}" for sm in here) or "no GPU"
    return f"the engine {cause} (here: {flavour.title} {version}, {sms}); export it again here"


def _cause(errors: Sequence[str]) -> str | None:
    text = " ".join(errors)
    return next((said for pattern, said in _CAUSES if re.search(pattern, text)), None)


def _last(errors: Sequence[str]) -> str:
    return " ".join(errors[-1].split())[:200] if errors else "no reason given"


def _lean_runtime() -> Path | None:
    """The library of the lean runtime that is installed; None where there is none."""
    found = importlib.util.find_spec(LEAN)
    places = (found.submodule_search_locations or ()) if found else ()
    libraries = (path for place in places for path in Path(place).glob("libnvinfer_lean.so*"))
    return next(libraries, None)
