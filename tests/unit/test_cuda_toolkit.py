"""Where CUDA's headers are found, and what compiling with them sets for as long as it lasts."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._inductor import cpp_builder
from torch.utils import cpp_extension

from inception_deploy.engines._cuda_toolkit import compiling_for_cuda, find_headers, remedy
from inception_deploy.errors import StageError

COMPILER = shutil.which("g++")
compiles = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")

COMPLETE = ("cuda.h", "crt/host_defines.h", "nv/target")


def headers(home: Path, *names: str) -> Path:
    for name in names:
        (home / "include" / name).parent.mkdir(parents=True, exist_ok=True)
        (home / "include" / name).touch()
    return home


@pytest.fixture
def wheels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where NVIDIA's wheels are installed, on a machine without a toolkit."""
    place = tmp_path / "site-packages" / "nvidia"
    spec = SimpleNamespace(submodule_search_locations=[str(place)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "nowhere"))
    return place


def test_a_toolkit_comes_before_wheels(
    wheels: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    headers(wheels / "cu13", *COMPLETE)
    assert find_headers("13.0") == wheels / "cu13"
    toolkit = headers(tmp_path / "toolkit", "cuda.h")
    for variable in ("CUDA_PATH", "CUDA_HOME"):
        monkeypatch.delenv("CUDA_HOME", raising=False)
        monkeypatch.setenv(variable, str(toolkit))
        assert find_headers("13.0") == toolkit
    monkeypatch.delenv("CUDA_PATH")
    monkeypatch.delenv("CUDA_HOME")
    monkeypatch.setattr(shutil, "which", lambda name: str(toolkit / "bin" / name))
    assert find_headers("13.0") == toolkit


@pytest.mark.parametrize("left_out", COMPLETE)
def test_wheels_have_to_be_complete(wheels: Path, left_out: str) -> None:
    headers(wheels / "cu13", *(name for name in COMPLETE if name != left_out))
    assert find_headers("13.0") is None
    headers(wheels / "cu13", left_out)
    assert find_headers("13.2") == wheels / "cu13"
    assert find_headers("12.8") is None  # those are of another version


def test_no_wheels_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert find_headers("13.0") is None


def test_a_pytorch_for_other_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_HOME", str(headers(tmp_path, "cuda.h")))
    assert find_headers(None) is None
    assert "the build for CUDA" in remedy(None)


def test_the_remedy_is_of_the_version() -> None:
    assert remedy("13.0").startswith(
        "pip install 'nvidia-cuda-crt~=13.0.0' 'nvidia-cuda-cccl~=13.0.0'"
    )
    assert remedy("12.8").startswith("apt-get install cuda-toolkit")


@compiles
def test_the_drivers_library_links_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert COMPILER is not None
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setenv("LIBRARY_PATH", str(tmp_path / "others"))
    source, built = tmp_path / "host.cpp", tmp_path / "host.so"
    source.write_text('extern "C" int cuInit(unsigned); int main() { return cuInit(0); }\n')
    linking = [COMPILER, "-shared", "-fPIC", str(source), "-o", str(built)]
    linking += ["-Wl,--no-as-needed", "-lcuda"]
    before = dict(os.environ), cpp_extension.CUDA_HOME
    with pytest.raises(RuntimeError, match="on the way"), compiling_for_cuda(tmp_path, COMPILER):
        assert os.environ["CUDA_HOME"] == cpp_extension.CUDA_HOME == str(tmp_path)
        first, added = os.environ["LIBRARY_PATH"].split(os.pathsep)
        assert first == str(tmp_path / "others")
        subprocess.run(linking, check=True)
        raise RuntimeError("on the way")
    assert (dict(os.environ), cpp_extension.CUDA_HOME) == before
    assert not Path(added).exists()
    assert b"libcuda.so.1\0" in built.read_bytes()  # the driver's, when it is loaded


def test_a_compiler_that_does_not_link_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no linker >&2\nexit 1\n")
    broken.chmod(0o755)
    with (
        pytest.raises(StageError, match="broken links no library: no linker"),
        compiling_for_cuda(tmp_path, str(broken)),
    ):
        pass


HOST = """
#include <torch/csrc/inductor/aoti_include/cuda.h>
extern "C" int launch(CUfunction kernel, cudaStream_t stream) {
    int device;
    cudaGetDevice(&device);
    return cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, (CUstream)stream, nullptr, nullptr) + device;
}
"""


@compiles
def test_what_aotinductor_includes_is_there(tmp_path: Path) -> None:
    """Its own builder, with the flags of a package for a GPU; no GPU is needed for that."""
    home = find_headers(torch.version.cuda) if torch.version.cuda else None
    if home is None:
        pytest.skip(f"PyTorch {torch.__version__} has no headers of CUDA beside it")
    assert COMPILER is not None
    source = tmp_path / "host.cpp"
    source.write_text(HOST)
    with compiling_for_cuda(home, COMPILER):
        options: Any = cpp_builder.CppTorchDeviceOptions(device_type="cuda", aot_mode=True)
        builder = cpp_builder.CppBuilder("host", [str(source)], options, str(tmp_path))
        builder.build()
    assert Path(builder.get_target_file_path()).is_file()
