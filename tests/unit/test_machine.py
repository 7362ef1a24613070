"""Facts of the machine: parsed from the system's own texts, never identifying it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import numpy as np
import pytest
import torch

from inception_deploy import machine
from inception_deploy.machine import Machine, describe, library_versions

XEON = """\
processor\t: 0
model name\t: Intel(R) Xeon(R)   Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu avx2 f16c avx512f avx512_vnni amx_int8 amx_tile avx512_bf16 avx512_fp16
processor\t: 1
model name\t: another
flags\t\t: fpu
"""
GRAVITON = "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp i8mm bf16 sve\n"


def test_x86_model_and_flags():
    name, flags = machine._parse_cpuinfo(XEON)
    assert name == "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"
    assert flags == (
        *("avx2", "f16c", "avx512f", "avx512_vnni"),
        *("avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8"),
    )


def test_aarch64_has_flags_but_no_model_name():
    assert machine._parse_cpuinfo(GRAVITON) == (
        "",
        ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve"),
    )


def test_no_cpuinfo_gives_no_flags():
    assert machine._parse_cpuinfo("") == ("", ())


@pytest.mark.parametrize(
    ("text", "cores"),
    [("max 100000\n", None), ("200000 100000\n", 2), ("150000 100000\n", 2), ("5000 100000\n", 1)],
)
def test_container_quota(text, cores):
    assert machine._parse_quota(text) == cores


def test_container_quota_limits_the_cores(tmp_path, monkeypatch):
    quota = tmp_path / "cpu.max"
    quota.write_text("100000 100000\n")
    monkeypatch.setattr(machine, "_CGROUP_QUOTA", quota)
    assert describe().cores == 1


def test_this_machine():
    facts = describe()
    assert facts.cpu
    assert 1 <= facts.cores <= (os.cpu_count() or 1)
    assert facts.threads == torch.get_num_threads()
    assert facts.memory_gib is None or facts.memory_gib > 0
    assert facts.python == platform.python_version()
    assert (facts.gpu is not None) == torch.cuda.is_available()


def test_round_trip_through_json():
    facts = describe()
    assert Machine.from_dict(json.loads(json.dumps(facts.to_dict()))) == facts


def test_host_and_kernel_are_not_named():
    written = json.dumps(describe().to_dict())
    assert platform.release() not in written
    host = platform.node()
    # a host called "x86_64" or "a" would be found in any text; only a telling name is tested
    if len(host) > 6 and host not in platform.platform():
        assert host not in written


def test_versions_are_those_of_the_installed_libraries():
    versions = library_versions()
    assert versions["numpy"] == np.__version__
    assert torch.__version__.startswith(versions["torch"])  # "+cu130" is not in every build's


def test_versions_leave_out_what_is_missing():
    assert library_versions(["numpy", "no-such-distribution"]) == {"numpy": np.__version__}


def test_nothing_heavy_is_imported():
    script = (
        "import sys; from inception_deploy import machine; machine.describe(); "
        "machine.library_versions(); "
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'numpy', 'openvino'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("siblings", "usable", "wanted"),
    [
        ({0: "0\n", 1: "1\n"}, {0, 1}, 2),
        ({0: "0,2\n", 1: "1,3\n", 2: "0,2\n", 3: "1,3\n"}, {0, 1, 2, 3}, 2),
        ({0: "0,2\n", 1: "1,3\n", 2: "0,2\n", 3: "1,3\n"}, {0, 2}, 1),
        ({0: "0-1\n"}, {0, 1}, None),
    ],
    ids=["one thread each", "two threads each", "confined to one", "not told"],
)
def test_hardware_threads_of_a_core_count_once(tmp_path, monkeypatch, siblings, usable, wanted):
    for cpu, text in siblings.items():
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(text)
    monkeypatch.setattr(machine, "_CPUS", tmp_path)
    monkeypatch.setattr(machine, "_CGROUP_QUOTA", tmp_path / "none")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: usable, raising=False)
    assert machine.physical_cores() == wanted


def test_cores_are_not_more_than_a_container_may_use(tmp_path, monkeypatch):
    quota = tmp_path / "cpu.max"
    quota.write_text("100000 100000\n")
    monkeypatch.setattr(machine, "_CGROUP_QUOTA", quota)
    assert machine.physical_cores() in (1, None)


def test_a_system_without_affinities_does_not_tell_its_cores(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert machine.physical_cores() is None
