"""What a package says of itself, readable without loading the code in it, and whether it fits here.

AOTInductor writes its user's metadata into the package, which is a zip archive, as JSON beside the
code. Kernels are compiled for the instruction sets of the machine that compiles them; loading them
elsewhere would end in an illegal instruction, so what they may use is recorded and compared.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from inception_deploy.errors import BadInput

__all__ = ["Package", "Place", "instruction_sets"]

KEY = "inception_deploy"
"""Of the metadata."""

_CPUINFO = Path("/proc/cpuinfo")
_VECTOR = re.compile(
    r"(avx|amx|fma|f16c|sse4|ssse3|bmi|abm|adx|movbe|popcnt|vaes|vpclmul|gfni|sha"
    r"|asimd|sve|sme2?$|i8mm|bf16|fp16|fphp)"
)
"""Flags of /proc/cpuinfo that name instructions a compiler may choose, not traits of the system."""


def instruction_sets(text: str | None = None) -> tuple[str, ...]:
    """Those of this CPU, by Linux' names, sorted; empty where the system does not tell.

    Args:
        text: of /proc/cpuinfo; None reads it.
    """
    if text is None:
        text = _CPUINFO.read_text(errors="replace") if _CPUINFO.exists() else ""
    line = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = line.group(1).split() if line else []
    return tuple(sorted({flag for flag in flags if _VECTOR.match(flag)}))


@dataclass(frozen=True)
class Place:
    """What a package is compiled for, or where it is to be loaded.

    Args:
        torch: PyTorch's version with its local part, "2.13.0+cpu": the code calls into it.
        device: "cpu" or "cuda".
        sm: compute capability of the GPU times ten; None for the CPU.
        isa: see `instruction_sets`; host code runs beside a GPU, too.
    """

    torch: str
    device: str
    sm: int | None
    isa: tuple[str, ...]

    @property
    def title(self) -> str:
        return "the CPU" if self.sm is None else f"SM{self.sm}"

    def misfit(self, here: Place) -> str | None:
        """Why code for this place cannot run at `here`; None where it can."""
        if self.torch != here.torch:
            return f"was compiled by PyTorch {self.torch}, this is {here.torch}"
        if (self.device, self.sm) != (here.device, here.sm):
            return f"was compiled for {self.title}, this process runs on {here.title}"
        lacking = sorted(set(self.isa) - set(here.isa))
        if lacking:
            return f"was compiled for a CPU with {', '.join(lacking[:4])}, which this one lacks"
        return None


@dataclass(frozen=True)
class Package:
    """The facts that `KEY` holds.

    Args:
        precision: what the network computes in.
        input: name, dtype and shape without the batch of what is fed.
        output: likewise of the result.
        largest: batch.
        frozen: whether weights are constants of the code, folded and laid out for its kernels.
    """

    place: Place
    precision: str
    input: tuple[str, str, tuple[int, ...]]
    output: tuple[str, str, tuple[int, ...]]
    largest: int
    frozen: bool = True

    def metadata(self) -> dict[str, str]:
        """For `aot_inductor.metadata`; `read` is the inverse."""
        return {KEY: json.dumps(asdict(self))}

    @classmethod
    def read(cls, content: bytes, where: Path) -> Self:
        """From a package's bytes.

        Raises:
            BadInput: it is no archive, or holds no such facts.
        """
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                names = [n for n in archive.namelist() if n.endswith("_metadata.json")]
                found = _facts(json.loads(archive.read(name)) for name in names)
        except (zipfile.BadZipFile, ValueError) as error:
            raise BadInput(f"{where} is no package of PyTorch's; export it again") from error
        try:
            values = json.loads(found[KEY])
            place = Place(**{**values["place"], "isa": tuple(values["place"]["isa"])})
            ends = {end: _end(values[end]) for end in ("input", "output")}
            largest, frozen = int(values["largest"]), bool(values.get("frozen", True))
            return cls(place, values["precision"], **ends, largest=largest, frozen=frozen)
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(
                f"{where} does not say what it was compiled for; export it again"
            ) from error


def _facts(files: Iterable[Any]) -> dict[str, str]:
    """The metadata that hold ours: the kernels' have a file of their own."""
    return next((f for f in files if isinstance(f, dict) and KEY in f), {})


def _end(values: list[Any]) -> tuple[str, str, tuple[int, ...]]:
    name, dtype, shape = values
    return str(name), str(dtype), tuple(map(int, shape))
