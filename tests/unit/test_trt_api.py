"""No call asks for a name that a supported version of TensorRT lacks.

What the bindings of TensorRT hold was read from their wheels (`benchmarks/trt_api.py`); those of
TensorRT-RTX are here and asked themselves.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.trt_api import CONTROL, RESULTS, used_names

RECORDED: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
VERSIONS: dict[str, Any] = RECORDED["versions"]

AHEAD_ONLY = {
    *("ComputeCapability", "num_compute_capabilities", "set_compute_capability"),
    *("create_runtime_cache", "set_runtime_cache", "deserialize"),
    *("DynamicShapesKernelSpecializationStrategy", "EAGER"),
    "dynamic_shapes_kernel_specialization_strategy",
}
"""Asked for only of TensorRT-RTX: where --sm names GPUs, and of what it compiles when it runs."""


def test_every_name_that_is_used_was_looked_up() -> None:
    assert used_names() == set(RECORDED["names"])
    assert {"build_serialized_network", "execute_async_v3", "STRONGLY_TYPED"} <= used_names()


def test_the_versions_are_the_floor_and_what_came_after() -> None:
    assert next(iter(VERSIONS)).startswith("10.12.")
    assert {version.split(".")[0] for version in VERSIONS} == {"10", "11"}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_lacks_nothing_that_is_used(version: str) -> None:
    assert set(VERSIONS[version]["missing"]) <= AHEAD_ONLY


@pytest.mark.parametrize("version", VERSIONS)
def test_reading_a_wheel_finds_what_was_removed(version: str) -> None:
    """The control: TensorRT 11 has none of these names, and TensorRT 10 all."""
    absent = set(VERSIONS[version]["control_missing"])
    assert absent == (set(CONTROL) if version.startswith("11.") else set())
    assert not absent & used_names()


def test_rtx_has_every_name() -> None:
    library = pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-rtx is not installed")
    present = set(dir(library))
    for name in dir(library):
        present |= set(dir(getattr(library, name)))
    assert used_names() <= present
