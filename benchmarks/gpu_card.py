"""The NVIDIA card that figures are of: what it is, and what its clocks are at the moment.

`nvidia-smi` tells; what it does not tell is missing. Nothing here identifies the card: no serial
number and no UUID.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from inception_deploy.engines._trt_library import driver_problem
from inception_deploy.errors import MissingDependency

__all__ = ["card_facts", "card_state", "require_card"]

_FACTS: Mapping[str, str] = {
    "driver": "driver_version",
    "memory_mib": "memory.total",
    "power_limit_w": "power.limit",
    "max_sm_mhz": "clocks.max.sm",
    "max_memory_mhz": "clocks.max.memory",
    "pcie_generation": "pcie.link.gen.max",
    "pcie_lanes": "pcie.link.width.max",
}
_STATE: Mapping[str, str] = {
    "sm_mhz": "clocks.sm",
    "memory_mhz": "clocks.mem",
    "power_w": "power.draw",
    "celsius": "temperature.gpu",
}
_LIMIT = 20.0
"""Seconds that `nvidia-smi` may take: without its daemon it starts the driver each time."""


def require_card() -> None:
    """Raises `MissingDependency` where there is no card, or this PyTorch cannot use it."""
    problem = driver_problem()
    advice = "run this on a machine with an NVIDIA card, or rehearse it with --device cpu"
    if problem is not None:
        raise MissingDependency(f"nothing to measure: {problem}; {advice}")
    if not torch.cuda.is_available():
        raise MissingDependency(
            f"nothing to measure: this PyTorch ({torch.__version__}) has no CUDA; run: pip install "
            "torch (the CUDA build)"
        )


def card_facts() -> dict[str, Any]:
    """Name, compute capability times ten, driver, limits, and PyTorch's CUDA libraries."""
    major, minor = torch.cuda.get_device_capability()
    return {
        "name": torch.cuda.get_device_name(),
        "sm": 10 * major + minor,
        **_asked(_FACTS),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
    }


def card_state() -> dict[str, Any]:
    """Clocks in MHz, watts and degrees, now."""
    return _asked(_STATE)


def _asked(fields: Mapping[str, str]) -> dict[str, Any]:
    """Name → what `nvidia-smi` answers for the first device of this process."""
    unique = getattr(torch.cuda.get_device_properties(0), "uuid", None)
    which = f"GPU-{unique}" if unique is not None else "0"
    command = ["nvidia-smi", "--format=csv,noheader,nounits", f"--id={which}"]
    command.append(f"--query-gpu={','.join(fields.values())}")
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=_LIMIT, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return {"nvidia_smi": f"does not answer: {type(error).__name__}"}
    return _values(tuple(fields), answer)


def _values(names: Sequence[str], answer: str) -> dict[str, Any]:
    """Numbers as numbers; what is "[N/A]" or "[Not Supported]" is left out."""
    line = next(iter(answer.splitlines()), "")
    found: dict[str, Any] = {}
    for name, word in zip(names, (part.strip() for part in line.split(",")), strict=False):
        if word and not word.startswith("["):
            number = name != "driver" and word.replace(".", "", 1).isdecimal()
            found[name] = float(word) if number else word
    return found
