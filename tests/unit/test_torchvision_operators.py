"""torchvision's operators: the compiled ones where they load, else the schemas, never both.

Each case has a process and a `torchvision` of its own, because operators are declared for good.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCHEMA = "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
COMPILED = f"""
def load_library(path):
    compiled.define("{SCHEMA}")  # twice is an error, as it is in C++
"""
OF_ANOTHER_BUILD = """
def load_library(path):
    raise OSError("undefined symbol")
"""
ASKED = """
import torch
from benchmarks.torchvision_operators import provide_operators

compiled = torch.library.Library("torchvision", "FRAGMENT")
{loading}
torch.ops.load_library = load_library
print(provide_operators(), hasattr(torch.ops.torchvision, "nms"))
"""


@pytest.mark.parametrize(
    ("loading", "said"),
    [(COMPILED, "True True"), (OF_ANOTHER_BUILD, "False True")],
    ids=["compiled", "of another build"],
)
def test_operators_are_there_once(loading: str, said: str, tmp_path: Path) -> None:
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "_C.so").touch()
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", ASKED.format(loading=loading)],
        env={"PYTHONPATH": f"{tmp_path}:{root}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == said
