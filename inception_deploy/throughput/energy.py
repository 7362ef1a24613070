"""Energy counters of the processor, where the system shows any."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["EnergyMeter", "find_meter"]

_POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class EnergyMeter:
    """The packages' RAPL counters (Linux powercap, `energy_uj`), or the reason why there are none.

    Args:
        counters: (file, microjoules at which it starts again from 0) each.
        says: what was found, in words.
    """

    counters: tuple[tuple[Path, int], ...]
    says: str

    def read(self) -> tuple[int, ...]:
        """Microjoules now, one per counter; empty without counters."""
        return tuple(int(path.read_text()) for path, _ in self.counters)

    def joules(self, before: tuple[int, ...], after: tuple[int, ...]) -> float | None:
        """Spent between two readings, a wrap of a counter taken into account; None without any."""
        if not self.counters:
            return None
        spent = 0
        for (_, span), start, stop in zip(self.counters, before, after, strict=True):
            spent += stop - start if stop >= start else stop + span - start
        return 1e-6 * spent


def find_meter(root: Path = _POWERCAP) -> EnergyMeter:
    """The counters below `root` that can be read; sub-zones (cores, DRAM) are part of a package's.

    They count the whole package, whoever uses it.
    """
    found, refused = [], False
    for zone in sorted(root.glob("intel-rapl:*")):
        if zone.name.count(":") != 1:
            continue
        counter = zone / "energy_uj"
        try:
            int(counter.read_text())
            span = int((zone / "max_energy_range_uj").read_text())
        except PermissionError:
            refused = True
            continue
        except (OSError, ValueError):
            continue
        found.append((counter, span))
    if found:
        packages = "package" if len(found) == 1 else "packages"
        return EnergyMeter(tuple(found), f"RAPL, {len(found)} {packages}")
    if refused:
        return EnergyMeter((), "not measured: the RAPL counters can be read by root only")
    return EnergyMeter((), "not measured: this machine shows no RAPL counter")
