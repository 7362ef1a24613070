"""What the rewrites make of the whole family, counted on narrow networks, for tests.

After a change of a network or a rewrite, `python tests/family_rewrites.py` writes
`tests/golden/op_counts.json` anew; the difference belongs into the same commit.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import onnx
from small_networks import exported

from inception_deploy.artifact import Artifact
from inception_deploy.fuse import fuse
from inception_deploy.fusions import FUSIONS, Phase
from inception_deploy.networks import NETWORKS
from inception_deploy.throughput.macs import macs_per_node

__all__ = ["GOLDEN", "counts", "folded", "multiply_adds", "rewritten"]

GOLDEN = Path(__file__).parent / "golden" / "op_counts.json"


@cache
def folded(name: str) -> Artifact:
    """The network after what runs for every target: canonical forms and folding."""
    always = [fusion for fusion in FUSIONS if fusion.phase <= Phase.FOLD]
    return fuse(exported(name), sorted(always, key=lambda fusion: fusion.phase))


@cache
def rewritten(name: str) -> Artifact:
    """The network after every rewrite there is."""
    chosen = [fusion for fusion in FUSIONS if fusion.phase > Phase.FOLD]
    return fuse(folded(name), sorted(chosen, key=lambda fusion: fusion.phase))


def counts(name: str) -> dict[str, Any]:
    """Operators before, after folding, and after everything; multiply-adds; places per rewrite."""
    stages = {"exported": exported(name), "folded": folded(name), "rewritten": rewritten(name)}
    applied = {r.name.removeprefix("fuse/"): len(r.applied) for r in rewritten(name).records[1:]}
    return {
        "operators": {
            stage: dict(sorted(Counter(n.op_type for n in artifact.model.graph.node).items()))
            for stage, artifact in stages.items()
        },
        "multiply_adds": {stage: multiply_adds(a.model) for stage, a in stages.items()},
        "applied": {name: count for name, count in sorted(applied.items()) if count},
    }


def multiply_adds(model: onnx.ModelProto) -> int:
    """Of convolutions, linear layers and average pools, for one image.

    An average pool counts as the depthwise convolution it is.
    """
    graph = model.graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.value_info}
    pools = 0
    for node in graph.node:
        if node.op_type == "AveragePool":
            window = next(a.ints for a in node.attribute if a.name == "kernel_shape")
            pools += math.prod(shapes[node.output[0]][1:]) * math.prod(window)
    return sum(macs_per_node(model).values()) + pools


def main() -> None:
    table = {name: counts(name) for name in NETWORKS.names()}
    GOLDEN.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(f"{GOLDEN}: {len(table)} networks")


if __name__ == "__main__":
    main()
