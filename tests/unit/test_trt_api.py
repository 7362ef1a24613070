"""No call asks for what a supported version of TensorRT lacks, or gives what it does not take.

What the bindings of TensorRT hold was asked of themselves, over empty libraries
(`benchmarks/trt_api.py`); those of TensorRT-RTX are here and asked now.
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.trt_api import CONTROL, RESULTS, Call, described, takes, used

RECORDED: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
VERSIONS: dict[str, Any] = RECORDED["versions"]

AHEAD_ONLY = {
    *("ComputeCapability", "IBuilderConfig.num_compute_capabilities"),
    *("IBuilderConfig.set_compute_capability", "IRuntimeConfig.create_runtime_cache"),
    *("IRuntimeConfig.set_runtime_cache", "IRuntimeCache.deserialize", "IRuntimeCache.serialize"),
    *("DynamicShapesKernelSpecializationStrategy",),
    *("DynamicShapesKernelSpecializationStrategy.EAGER",),
    *("IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",),
}
"""Asked for only of TensorRT-RTX: where --sm names GPUs, and of what it compiles when it runs."""


def refused(members: dict[str, list[str] | None]) -> list[tuple[str, Call]]:
    """Calls that none of the signatures takes."""
    return [
        (member, call)
        for member, calls in used().items()
        for call in calls
        if (known := members[member]) is not None
        and not any(takes(signature, call) for signature in known)
    ]


def test_everything_that_is_used_was_looked_up() -> None:
    for found in VERSIONS.values():
        assert found["members"].keys() == used().keys()
    assert used().keys() >= {
        *("Builder.build_serialized_network", "BuilderFlag.TF32", "IProgressMonitor.phase_start"),
        *("IExecutionContext.execute_async_v3", "NetworkDefinitionCreationFlag.STRONGLY_TYPED"),
    }


def test_the_versions_are_the_floor_and_what_came_after() -> None:
    assert next(iter(VERSIONS)).startswith("10.12.")
    assert {version.split(".")[0] for version in VERSIONS} == {"10", "11"}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_lacks_nothing_that_is_used(version: str) -> None:
    members = VERSIONS[version]["members"]
    assert {member for member, found in members.items() if found is None} == AHEAD_ONLY


@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_takes_every_call(version: str) -> None:
    assert refused(VERSIONS[version]["members"]) == []
    assert sum(bool(found) for found in VERSIONS[version]["members"].values()) > 40


@pytest.mark.parametrize("version", VERSIONS)
def test_loading_a_wheel_finds_what_was_removed(version: str) -> None:
    """The control: TensorRT 11 has none of these names, and TensorRT 10 all."""
    absent = set(VERSIONS[version]["control_missing"])
    assert absent == (set(CONTROL) if version.startswith("11.") else set())
    assert not absent & used().keys()


def test_rtx_has_every_name_and_takes_every_call() -> None:
    library = pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-rtx is not installed")
    members = described(library, [*used(), *CONTROL])
    assert {member for member, found in members.items() if found is None} == set(CONTROL)
    assert refused(members) == []


# ---------------------------------------------------------------- that looking finds something

SOURCE = """
class Monitor(library.IProgressMonitor):
    def __init__(self):
        library.IProgressMonitor.__init__(self)

    def step_complete(self, phase_name, step, extra):
        pass

config.set_flag(1)
config.set_timing_cache(cache, ignore_mismatch=False)
made.set_shape(name, *shapes)
config.builder_optimization_level = library.__version__
other.anything(1)
"""


def test_members_and_calls_are_read_from_source() -> None:
    assert used({"build": SOURCE}) == {
        "IProgressMonitor": set(),
        "IProgressMonitor.step_complete": {Call(3)},
        "IBuilderConfig.set_flag": {Call(1)},
        "IBuilderConfig.set_timing_cache": {Call(1, ("ignore_mismatch",))},
        "IOptimizationProfile.set_shape": set(),  # how many shapes, the source does not say
        "IBuilderConfig.builder_optimization_level": set(),
    }


@pytest.mark.parametrize(
    ("signature", "call", "fits"),
    [
        ("f(self: X) -> None", Call(0), True),
        ("f(self: X) -> None", Call(1), False),
        ("f(self: X, name: str, shape: tuple) -> bool", Call(2), True),
        ("f(self: X, name: str, shape: tuple) -> bool", Call(1), False),
        ("f(self: X, name: str, shape: tuple) -> bool", Call(1, ("shape",)), True),
        ("f(self: X, name: str, shape: tuple) -> bool", Call(1, ("form",)), False),
        ("f(self: X, name: str, shape: tuple) -> bool", Call(2, ("shape",)), False),
        ("f(self: X, how: Strategy = <Strategy.STATIC: 0>) -> Y", Call(0), True),
        ("f(self: X, how: Strategy = <Strategy.STATIC: 0>) -> ns::Y", Call(1), True),
        ("f(self: X, model: buffer, path: str = None) -> bool", Call(3), False),
        ("__init__(self: X, flags: typing.SupportsInt = 0) -> None", Call(1), True),
    ],
)
def test_a_call_fits_a_signature_or_not(signature: str, call: Call, fits: bool) -> None:
    assert takes(signature, call) is fits


def test_signatures_are_read_one_by_one() -> None:
    def method() -> None:
        """f(*args, **kwargs)
        Overloaded function.

        1. f(self: tensorrt.X, one: int) -> None

            An f(self: tensorrt.X, of: something) in prose.

        2. f(self: tensorrt.X, two: tensorrt.Y) -> None
        """

    library = SimpleNamespace(X=SimpleNamespace(f=method, value=3))
    method.__doc__ = "\n".join(line.strip() for line in (method.__doc__ or "").split("\n"))
    assert described(library, ["X.f", "X.value", "X.g", "Y.f"]) == {
        "X.f": ["f(self: X, one: int) -> None", "f(self: X, two: Y) -> None"],
        "X.value": [],
        "X.g": None,
        "Y.f": None,
    }
