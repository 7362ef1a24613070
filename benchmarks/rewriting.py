"""How long the rewrites take and how much memory they need, network by network, without proofs.

    python -m benchmarks.rewriting                all networks, full width → results/rewriting.json
    python -m benchmarks.rewriting inception_v3   one network, printed only

Every network has two processes of its own, so that the figures do not depend on what ran before.
All registered fusions run, whatever a target's profile says: the most that can be asked for.
`seconds` is the processor time of one thread. `extra` is, for the hungriest single rewrite, the
peak of the resident memory above what was there before it, in units of the model's size: the new
model is in it, the old one is not. In the process that measures it, the allocator maps every block
above 64 KiB by itself and unmaps it when it is freed; otherwise resident memory would count holes
that earlier work has left in the heap.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import re
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np

from inception_deploy.machine import describe, library_versions
from inception_deploy.networks import NETWORKS

__all__ = ["main", "measure"]

RESULTS = Path(__file__).parent / "results" / "rewriting.json"
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_MAPPED = "MALLOC_MMAP_THRESHOLD_"  # of glibc, read when a process starts


def measure(name: str) -> dict[str, Any]:
    """A network's row: seconds as users have them, memory as it is in use."""
    row = _in_a_process(name)
    os.environ[_MAPPED] = str(64 << 10)
    try:
        return {**row, "extra": _in_a_process(name)["extra"]}
    finally:
        del os.environ[_MAPPED]


def _in_a_process(name: str) -> dict[str, Any]:
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawned) as executor:
        return executor.submit(_measure, name).result()


def _measure(name: str) -> dict[str, Any]:
    """Export a network with random weights, rewrite it, and say what that took."""
    import torch

    from inception_deploy.export import export
    from inception_deploy.fuse import rewritings
    from inception_deploy.fusions import FUSIONS
    from inception_deploy.golden import record_golden

    torch.set_num_threads(1)
    torch.manual_seed(0)
    spec = NETWORKS.get(name)
    module = spec.build().eval()
    side = spec.min_size  # the graph has the same nodes as at any size
    noise = np.random.default_rng(0).standard_normal((1, 3, side, side)).astype(np.float32)
    golden = record_golden(module, noise)
    preprocessing = spec.preprocessing.with_size(side)
    model = export(module, golden, network=name, preprocessing=preprocessing, class_names=()).model
    blocks, before, size = golden.blocks, len(model.graph.node), model.ByteSize()
    del module

    seconds, extra, after = 0.0, 0, before
    applied: dict[str, int] = {}
    turns = rewritings(model, sorted(FUSIONS, key=lambda fusion: fusion.phase), keep=blocks)
    del model  # the graph before a turn is not in `extra`
    while True:
        gc.collect()
        _CLEAR.write_text("5")  # the peak starts anew
        started, resident = time.process_time(), _memory("VmRSS")
        turn = next(turns, None)
        seconds += time.process_time() - started
        extra = max(extra, _memory("VmHWM") - resident)
        if turn is None:
            break
        after = len(turn.model.graph.node)
        if turn.applied:
            name = turn.fusion.name
            applied[name] = applied.get(name, 0) + len(turn.applied)
    return {
        "bytes": size,
        "nodes": {"before": before, "after": after},
        "applied": applied,
        "seconds": round(seconds, 3),
        "extra": round(extra / size, 3),
    }


def _memory(field: str) -> int:
    """A figure of this process, bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    assert found is not None, f"{_STATUS} has no {field}: this benchmark needs Linux"
    return int(found.group(1)) * 1024


@click.command()
@click.argument("networks", nargs=-1)
def main(networks: tuple[str, ...]) -> None:
    """Measure NETWORKS; all of them where none is named, and then write the results."""
    rows = {}
    for name in networks or NETWORKS.names():
        row = rows[name] = measure(name)
        nodes = row["nodes"]
        click.echo(
            f"{name:24s} {row['bytes'] / 1e6:6.1f} MB"
            f"  {nodes['before']:4d} → {nodes['after']:4d} nodes"
            f"  {row['seconds']:6.2f} s  {row['extra']:5.2f} × its size"
        )
    if not networks:
        facts = {
            "command": "python -m benchmarks.rewriting",
            "networks": rows,
            "machine": describe().to_dict(),
            "versions": library_versions(),
        }
        RESULTS.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
