"""Runs `inception-deploy` in this process, as a user would meet it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from inception_deploy.cli.main import main

__all__ = ["Outcome", "invoked"]


@dataclass(frozen=True)
class Outcome:
    """Exit code and what was printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as one document."""
        return json.loads(self.out)


def invoked(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> Outcome:
    """The outcome of one command, which must end by an exit code."""
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    captured = capfd.readouterr()
    assert isinstance(stop.value.code, int)
    return Outcome(stop.value.code, captured.out, captured.err)
