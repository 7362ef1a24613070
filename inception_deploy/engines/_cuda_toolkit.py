"""CUDA's headers for the C++ that AOTInductor writes around its kernels: a toolkit's, or of wheels.

A build of PyTorch for CUDA 13 installs `nvidia/cu13` with most of what is included; two small
wheels hold the rest. What is linked is the driver's library, which a machine may have under no name
that a linker looks for: as a toolkit does, an empty one stands in while packages are linked.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from inception_deploy.errors import StageError

__all__ = ["compiling_for_cuda", "find_headers", "remedy"]

_FROM_WHEELS = ("cuda.h", "crt/host_defines.h", "nv/target")
"""A file of each wheel whose headers are included: nvidia-cuda-runtime, -crt and -cccl."""


def find_headers(cuda: str | None) -> Path | None:
    """The folder whose `include` holds CUDA's headers; None where there is none.

    It is the one that PyTorch finds (`_find_cuda_home` of torch/utils/cpp_extension.py), or that of
    NVIDIA's wheels where they are complete.

    Args:
        cuda: version that PyTorch was built for, e.g. "13.0"; None for GPUs of another maker.
    """
    if cuda is None:
        return None
    nvcc = shutil.which("nvcc")
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    home = Path(named) if named else Path(nvcc).parents[1] if nvcc else Path("/usr/local/cuda")
    if (home / "include" / "cuda.h").is_file():
        return home
    found = importlib.util.find_spec("nvidia")
    for place in (found.submodule_search_locations or ()) if found else ():
        wheels = Path(place, f"cu{cuda.partition('.')[0]}")
        if all((wheels / "include" / name).is_file() for name in _FROM_WHEELS):
            return wheels
    return None


def remedy(cuda: str | None) -> str:
    """The command that adds the headers."""
    if cuda is None:
        return "pip install torch (the build for CUDA; this one is for other GPUs)"
    major, _, minor = cuda.partition(".")
    if int(major) < 13:  # the wheels of CUDA 12 have a folder each
        return "apt-get install cuda-toolkit (or name its folder in the variable CUDA_HOME)"
    wheels = (f"'nvidia-cuda-{part}~={major}.{minor}.0'" for part in ("crt", "cccl"))
    return f"pip install {' '.join(wheels)} (or name a toolkit's folder in the variable CUDA_HOME)"


@contextmanager
def compiling_for_cuda(home: Path, compiler: str) -> Iterator[None]:
    """What PyTorch's builder and the C++ compiler read from the environment, as long as it lasts.

    It is the environment of the whole process.

    Args:
        home: from `find_headers`.
        compiler: of C++, which links.

    Raises:
        StageError: the compiler does not link an empty library.
    """
    # asked for once, when it is imported
    extension: Any = importlib.import_module("torch.utils.cpp_extension")
    before = extension.CUDA_HOME
    with tempfile.TemporaryDirectory() as folder:
        stub = ("-shared", "-x", "c++", os.devnull, "-Wl,-soname,libcuda.so.1")
        linking = [compiler, *stub, "-o", str(Path(folder, "libcuda.so"))]
        linked = subprocess.run(linking, capture_output=True, text=True, check=False)
        if linked.returncode:
            raise StageError(
                f"{compiler} links no library: {' '.join(linked.stderr.split())[:200]}"
            )
        searched = os.pathsep.join(filter(None, (os.environ.get("LIBRARY_PATH"), folder)))
        extension.CUDA_HOME = str(home)
        try:
            with _environment({"CUDA_HOME": str(home), "LIBRARY_PATH": searched}):
                yield
        finally:
            extension.CUDA_HOME = before


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
