"""Every error the toolkit raises on purpose, and the exit code each one carries.

InceptionDeployError
├── BadInput (2)            a request, file or option that cannot be served as given
│   ├── UnknownName         no network / fusion / engine … of that name
│   ├── RecipeError         options that contradict each other, an unreadable recipe file
│   ├── CheckpointError     weights that cannot be read, or are of another network
│   ├── DataError           images that cannot be read, an empty folder, wrong labels
│   └── BundleError         a bundle that is missing, exists already, or does not verify
├── MissingDependency (3)   an engine or optional package that is not installed
├── StageError (1)          a stage broke its own promise (a rewrite moved the output, …)
├── GateFailed (1)          the accuracy or speed gate says no
└── Inconclusive (4)        too few samples for the asked bound

Messages are one line: what is wrong, where, what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BadInput",
    "BundleError",
    "CheckpointError",
    "DataError",
    "GateFailed",
    "InceptionDeployError",
    "Inconclusive",
    "MissingDependency",
    "RecipeError",
    "StageError",
    "UnknownName",
]


class InceptionDeployError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class BadInput(InceptionDeployError):
    """The request cannot be served as given."""

    exit_code = 2


class UnknownName(BadInput):
    """No variant of that name exists; the message suggests the nearest one.

    Args:
        kind: what was looked up, e.g. "network".
        name: the name that was asked for.
        known: every name that exists.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}"
        super().__init__(f"unknown {kind} '{name}'; {hint}")


class RecipeError(BadInput):
    """Options that contradict each other, or a recipe file that cannot be read."""


class CheckpointError(BadInput):
    """Weights that cannot be read safely, or that belong to another network."""


class DataError(BadInput):
    """Images or labels that cannot be used."""


class BundleError(BadInput):
    """A bundle that is missing, in the way, or does not verify."""


class MissingDependency(InceptionDeployError):
    """An optional package is not installed; the message names the command that adds it."""

    exit_code = 3


class StageError(InceptionDeployError):
    """A stage broke its own promise: the graph is invalid, or an output moved beyond its bound."""


class GateFailed(InceptionDeployError):
    """The deployed network is worse than the asked bound allows."""


class Inconclusive(InceptionDeployError):
    """Too few samples to decide for the asked bound."""

    exit_code = 4
