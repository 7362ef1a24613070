"""Facts of this machine, for manifests and results: a figure without its machine says little.

Nothing here identifies the machine: no host name, no user, no path, no kernel build.
"""

from __future__ import annotations

import math
import os
import platform
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Self

__all__ = [
    "ISA_FLAGS",
    "LIBRARIES",
    "Machine",
    "clocks",
    "describe",
    "library_versions",
    "physical_cores",
]

ISA_FLAGS = (
    *("avx2", "f16c", "avx512f", "avx512_vnni", "avx_vnni"),
    *("avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)
"""Instruction sets that decide how fast a precision is, by Linux' names: x86, then AArch64.

f16c only converts FP16; avx512_fp16 and asimdhp (AArch64) compute in it. avx512_vnni, avx_vnni,
asimddp and i8mm are the INT8 dot products.
"""

LIBRARIES = (
    *("torch", "onnx", "onnxruntime", "onnxruntime-gpu", "onnx-graphsurgeon", "numpy"),
    *("openvino", "tensorrt", "tensorrt-rtx", "timm", "torchvision", "pillow", "safetensors"),
)
"""Distributions whose versions can change a figure; those not installed are left out."""

_CPUINFO = Path("/proc/cpuinfo")
_CPUFREQ = Path("/sys/devices/system/cpu/cpu0/cpufreq")
_CPUS = Path("/sys/devices/system/cpu")
_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Machine:
    """What a figure was measured on.

    Args:
        cpu: the model as the processor names itself, e.g. "AMD EPYC 9B14".
        cores: logical CPUs this process may use (affinity and container quota respected).
        threads: intra-op threads of PyTorch where it is loaded, else `cores`.
        isa: those of `ISA_FLAGS` that the CPU has, in that order.
        memory_gib: physical memory, GiB, to one decimal; None where the system does not tell.
        platform: operating system, architecture and C library, e.g. "Linux x86_64 glibc 2.36".
        python: e.g. "3.11.9".
        gpu: name of the first CUDA device where PyTorch is loaded and sees one.
    """

    cpu: str
    cores: int
    threads: int
    isa: tuple[str, ...]
    memory_gib: float | None
    platform: str
    python: str
    gpu: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "isa": list(self.isa)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        return cls(**{**values, "isa": tuple(values["isa"])})


def describe() -> Machine:
    """The facts of this machine; imports nothing heavy and runs no other program."""
    text = _CPUINFO.read_text(encoding="utf-8", errors="replace") if _CPUINFO.exists() else ""
    cpu, isa = _parse_cpuinfo(text)
    cores = _usable_cores()
    threads, gpu = _torch_facts()
    return Machine(
        cpu=cpu or platform.processor() or platform.machine(),
        cores=cores,
        threads=threads or cores,
        isa=isa,
        memory_gib=_memory_gib(),
        platform=" ".join(filter(None, (platform.system(), platform.machine(), _libc()))),
        python=platform.python_version(),
        gpu=gpu,
    )


def clocks() -> dict[str, Any]:
    """What changes from moment to moment: "mhz" (mean over the CPUs), "governor", "load_average".

    What the system does not tell is missing. The load average is of the last minute.
    """
    found: dict[str, Any] = {}
    if _CPUINFO.exists():
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
        rates = [float(rate) for rate in re.findall(r"^cpu MHz\s*:\s*([\d.]+)", text, re.MULTILINE)]
        if rates:
            found["mhz"] = round(sum(rates) / len(rates))
    governor = _CPUFREQ / "scaling_governor"
    if governor.exists():
        found["governor"] = governor.read_text().strip()
    if hasattr(os, "getloadavg"):
        found["load_average"] = round(os.getloadavg()[0], 2)
    return found


def library_versions(names: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """Installed versions by distribution name, read from their metadata without importing them."""
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def physical_cores() -> int | None:
    """Cores this process may use (affinity and container quota respected), not the hardware threads
    of which a core may have several; None where the system does not tell."""
    affinity = getattr(os, "sched_getaffinity", None)
    if affinity is None:
        return None
    siblings = [_CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list" for cpu in affinity(0)]
    try:
        cores = {path.read_text() for path in siblings}
    except OSError:  # /sys is not there, or tells no topology
        return None
    return min(len(cores), _usable_cores())


def _parse_cpuinfo(text: str) -> tuple[str, tuple[str, ...]]:
    """Model name ("" where none is given) and the relevant flags of /proc/cpuinfo's text."""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    present = set(flags.group(1).split()) if flags else set()
    name = " ".join(model.group(1).split()) if model else ""
    return name, tuple(flag for flag in ISA_FLAGS if flag in present)


def _usable_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = _parse_quota(_CGROUP_QUOTA.read_text()) if _CGROUP_QUOTA.exists() else None
    return count if quota is None else min(count, quota)


def _parse_quota(text: str) -> int | None:
    """CPUs granted by a cgroup's `cpu.max` ("200000 100000" is two; "max 100000" is no limit)."""
    quota, period = text.split()
    return None if quota == "max" else max(1, math.ceil(int(quota) / int(period)))


def _memory_gib() -> float | None:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system, or an unknown name
        return None
    return round(total / 2**30, 1)


def _libc() -> str:
    return " ".join(platform.libc_ver()).strip()


def _torch_facts() -> tuple[int | None, str | None]:
    """Threads and GPU of PyTorch if something else has imported it; loading it is not worth it."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None, None
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return torch.get_num_threads(), gpu
