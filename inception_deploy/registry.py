"""Variants found by looking into a folder: one file in the folder, one (or more) variants.

Adding a network, a fusion, a precision or an engine is adding one file. The file defines a
module-level tuple (`NETWORKS`, `FUSIONS`, …); nothing else has to be edited.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, Protocol, TypeVar

from inception_deploy.errors import UnknownName

__all__ = ["Registry"]


class Named(Protocol):
    """What a variant needs to be found: a name."""

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


@dataclass(frozen=True)
class Registry(Generic[T]):
    """The variants of one kind.

    Args:
        kind: what a variant is called in messages, e.g. "network".
        package: the folder's import path; `base.py` and files starting with `_` are skipped.
        attribute: name of the tuple that each file of the folder defines.
    """

    kind: str
    package: str
    attribute: str

    @cached_property
    def _variants(self) -> dict[str, T]:
        package = importlib.import_module(self.package)
        found: dict[str, T] = {}
        for module_info in sorted(pkgutil.iter_modules(package.__path__), key=lambda m: m.name):
            if module_info.name == "base" or module_info.name.startswith("_"):
                continue
            module = importlib.import_module(f"{self.package}.{module_info.name}")
            for variant in getattr(module, self.attribute):
                if variant.name in found:
                    raise ValueError(f"two {self.kind}s are named '{variant.name}'")
                found[variant.name] = variant
        return found

    def get(self, name: str) -> T:
        """The variant called `name`. Raises `UnknownName`, which suggests the nearest one."""
        try:
            return self._variants[name]
        except KeyError:
            raise UnknownName(self.kind, name, self._variants) from None

    def names(self) -> tuple[str, ...]:
        """All names, sorted by file and then by their order in the file."""
        return tuple(self._variants)

    def __iter__(self) -> Iterator[T]:
        return iter(self._variants.values())

    def __len__(self) -> int:
        return len(self._variants)
