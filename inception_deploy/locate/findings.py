"""What `locate` says: rows for every tensor it looked at, and findings for those that jump."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

__all__ = ["SCHEMA", "Finding", "Kind", "LocateReport", "Place", "Row", "Transition"]

SCHEMA = 1

Kind: TypeAlias = Literal[
    "error", "nonfinite", "weights", "grid", "shape", "missing", "invalid", "input", "labels"
]


@dataclass(frozen=True)
class Place:
    """Where in the network: the architecture block, the module in it, the node, its output.

    Args:
        block: "Mixed_6c"; for what stands between blocks, the module itself.
        module: "Mixed_6c.branch7x7dbl_3".
        node: "Mixed_6c.branch7x7dbl_3.conv".
        tensor: what the node puts out.
    """

    block: str
    module: str
    node: str
    tensor: str

    @classmethod
    def of(cls, node: str, tensor: str, blocks: Sequence[str]) -> Place:
        """The place of a node, by its name; `blocks` are those of the network."""
        path = node.split(":")[0].split(".")
        inner = [".".join(path[:n]) for n in range(len(path), 0, -1)]
        block = next((name for name in inner if name in blocks), None)
        module = node if node in blocks or len(path) == 1 else inner[1]
        return cls(block or module, module, node, tensor)


@dataclass(frozen=True)
class Row:
    """One tensor over one stage. Errors are relative to the largest value; None is not finite.

    Args:
        stage: "export", "fuse", "lower/int8".
        place: where.
        own, own_rms: what its piece adds by itself.
        depth, depth_rms: what has accumulated.
        allowed: what `own` may be.
        jumps: whether it is more, or something else is wrong there.
    """

    stage: str
    place: Place
    own: float | None
    own_rms: float | None
    depth: float | None
    depth_rms: float | None
    allowed: float
    jumps: bool = False


@dataclass(frozen=True)
class Finding:
    """Something that no rounding explains.

    Args:
        stage: the one that brought it in: "preprocessing", "labels", "export", "fuse",
            "lower/int8", "engine".
        place: where.
        kind: what was noticed.
        said: one line: what is wrong.
        causes: one line each, the most likely first.
        measured, allowed: the error and what it may be, where it is one; None for infinite.
    """

    stage: str
    place: Place
    kind: Kind
    said: str
    causes: tuple[str, ...] = ()
    measured: float | None = None
    allowed: float | None = None


@dataclass(frozen=True)
class Transition:
    """A stage that was looked at, or why not.

    Args:
        stage: as in `Finding`.
        between: "pytorch → reference.onnx".
        tensors: how many were compared.
        skipped: why it was not looked at; None where it was.
    """

    stage: str
    between: str
    tensors: int
    skipped: str | None = None


@dataclass(frozen=True)
class LocateReport:
    """Everything that `locate` found out about a bundle, locate.json."""

    network: str
    precision: str
    target: str
    images: int
    data: str
    transitions: tuple[Transition, ...]
    findings: tuple[Finding, ...]
    rows: tuple[Row, ...]

    @property
    def first(self) -> Finding | None:
        """The first divergence: of the earliest stage, there the earliest in the network."""
        return self.findings[0] if self.findings else None

    def to_dict(self) -> dict[str, Any]:
        """JSON values; errors that are not finite are null."""
        return {"schema": SCHEMA, **_plain(asdict(self))}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LocateReport:
        """The inverse of `to_dict`."""
        given = {k: v for k, v in values.items() if k != "schema"}
        report = cls(**given)
        return replace(
            report,
            transitions=tuple(Transition(**t) for t in given["transitions"]),
            findings=tuple(
                Finding(**{**f, "place": Place(**f["place"]), "causes": tuple(f["causes"])})
                for f in given["findings"]
            ),
            rows=tuple(Row(**{**r, "place": Place(**r["place"])}) for r in given["rows"]),
        )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
