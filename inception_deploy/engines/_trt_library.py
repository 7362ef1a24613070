"""The two libraries that share TensorRT's Python interface, and the NVIDIA driver below them."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from inception_deploy.errors import MissingDependency

__all__ = [
    "ERRORS",
    "RTX",
    "TENSORRT",
    "Flavour",
    "Gpu",
    "driver_problem",
    "gpus",
    "listening",
    "logger",
]

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*, cuda.h
_NO_DRIVER = "no NVIDIA driver on this machine"


@dataclass(frozen=True)
class Flavour:
    """One of the libraries.

    Args:
        name: of the engine, as asked for with --target.
        title: for messages.
        module: Python's name of it.
        oldest: the first version that is supported.
        because: what is missing from those before it.
        ahead: builds for GPUs that are not here.
    """

    name: str
    title: str
    module: str
    oldest: tuple[int, int]
    because: str
    ahead: bool

    @property
    def remedy(self) -> str:
        return f"pip install {self.name}"

    def load(self) -> Any:
        """The vendor's module.

        Raises:
            MissingDependency: it is not installed, cannot be loaded, or is too old.
        """
        try:
            module = importlib.import_module(self.module)
        except (ImportError, OSError) as error:
            raise MissingDependency(
                f"{self.title} cannot be imported; run: {self.remedy}"
            ) from error
        version = tuple(int(part) for part in str(module.__version__).split(".")[:2])
        if version < self.oldest:
            least = ".".join(map(str, self.oldest))
            raise MissingDependency(
                f"{self.title} {module.__version__} is older than {least} ({self.because}); "
                f"run: pip install '{self.name}>={least}'"
            )
        return module


_INCOMPLETE = "its strongly typed networks are incomplete"
_UNBUILT = "it does not build every INT8 graph for GPUs that are not here"
TENSORRT = Flavour("tensorrt", "TensorRT", "tensorrt", (10, 12), _INCOMPLETE, ahead=False)
RTX = Flavour("tensorrt-rtx", "TensorRT-RTX", "tensorrt_rtx", (1, 7), _UNBUILT, ahead=True)


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU; `sm` is its compute capability times ten."""

    name: str
    sm: int


@cache
def _found() -> tuple[tuple[Gpu, ...], str | None]:
    """The GPUs that the driver shows, and why there are none."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return (), _NO_DRIVER
    status = cuda.cuInit(0)
    if status:
        return (), f"the NVIDIA driver does not start (cuInit: error {status})"
    count = ctypes.c_int()
    cuda.cuDeviceGetCount(ctypes.byref(count))
    devices = []
    for index in range(count.value):
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        name = ctypes.create_string_buffer(100)
        cuda.cuDeviceGet(ctypes.byref(device), index)
        cuda.cuDeviceGetName(name, len(name), device)
        cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
        cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
        devices.append(Gpu(name.value.decode(), 10 * major.value + minor.value))
    return tuple(devices), None if devices else "the NVIDIA driver shows no GPU"


def gpus() -> tuple[Gpu, ...]:
    """The GPUs of this machine, by the driver's own interface; empty without a driver."""
    return _found()[0]


def driver_problem() -> str | None:
    """Why nothing runs on a GPU here; None where a driver shows one."""
    return _found()[1]


ERRORS = ("INTERNAL_ERROR", "ERROR")
"""Severities of what went wrong."""


def listening(library: Any) -> tuple[Any, list[str]]:
    """A logger, and the errors that it hears."""
    errors: list[str] = []

    def heard(severity: str, text: str) -> None:
        if severity in ERRORS:
            errors.append(text)

    return logger(library, heard), errors


def logger(library: Any, listener: Callable[[str, str], None]) -> Any:
    """A logger that hands each message to `listener(severity, text)`; nothing is printed.

    Args:
        listener: severity is "INTERNAL_ERROR", "ERROR", "WARNING", "INFO" or "VERBOSE". It is
            called on threads of the library's own.
    """

    class Logger(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            listener(severity.name, text)

    return Logger()
