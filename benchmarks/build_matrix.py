"""Networks built with TensorRT-RTX for GPUs that are not here.

    python -m benchmarks.build_matrix [NETWORK...]

Writes benchmarks/results/build_matrix.json: network × precision × compute capability, at native
size, with the seconds of parsing and building, the engine's size, and what its convolutions run in
by the builder's description of its kernels. Rows of networks that are not named stay. No engine is
executed. `pool_projection` counts what that rewrite leaves to the pools to read: the evidence of
`targets/tensorrt.py` until there are times.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from inception_deploy.build_options import BatchProfile, BuildOptions, unsupported
from inception_deploy.bundle import write_json
from inception_deploy.calibrate import observe
from inception_deploy.engines import ENGINES
from inception_deploy.engines._executed import by_node
from inception_deploy.engines._trt_build import build
from inception_deploy.engines._trt_inspect import kernels_of_log, precisions, reformats
from inception_deploy.engines._trt_library import RTX
from inception_deploy.errors import InceptionDeployError
from inception_deploy.export import export
from inception_deploy.fuse import rewrite
from inception_deploy.fusions import FUSIONS, Phase
from inception_deploy.golden import record_golden
from inception_deploy.machine import describe, library_versions
from inception_deploy.precisions import PRECISIONS, Lowering, Precision
from inception_deploy.progress import SilentProgress
from inception_deploy.recipe import PrecisionName
from inception_deploy.reference import load_reference
from inception_deploy.targets import TARGETS

__all__ = ["RESULTS", "main", "measured", "pooled_values", "summary"]

RESULTS = Path(__file__).parent / "results" / "build_matrix.json"
NETWORKS = ("googlenet", "inception_v3", "inception_v4", "inception_resnet_v2", "xception")
FORMATS: tuple[PrecisionName, ...] = ("fp32", "fp16", "bf16", "int8", "fp8")
SMS = (80, 86, 89, 120)
BATCH = BatchProfile(1, 8, 32)
TARGET = TARGETS.get("tensorrt-rtx")


def exported(network: str) -> onnx.ModelProto:
    """A network of native width and size with random weights, as exported."""
    reference = load_reference(network, "random:0")
    size = reference.preprocessing.size
    images = np.random.default_rng(0).standard_normal((2, 3, size, size)).astype(np.float32)
    golden = record_golden(reference.module, images)
    return export(
        reference.module,
        golden,
        network=network,
        preprocessing=reference.preprocessing,
        class_names=(),
    ).model


def lowered(model: onnx.ModelProto, name: PrecisionName) -> Lowering:
    """The graph as it is made for TensorRT, with ranges taken on noise."""
    for fusion in TARGET.rewrites(name):
        model, _, _ = rewrite(model, fusion)
    precision: Precision = PRECISIONS.get(name).at(TARGET.placement)
    ranges = None
    if precision.needs_ranges:
        dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:]]
        images = np.random.default_rng(1).standard_normal((2, *dims)).astype(np.float32)
        engine = ENGINES.get("onnxruntime")
        ranges = observe(model, [images], engine=engine, data_digest="noise", total=1)
    return precision.lower(model, ranges)


def measured(network: str, name: PrecisionName, lowering: Lowering, sm: int) -> dict[str, Any]:
    """One row of the matrix; `ok` is False where the engine could not be built, with the reason."""
    row: dict[str, Any] = {"network": network, "precision": name, "sm": sm}
    graph = lowering.model.SerializeToString()
    started = time.perf_counter()
    try:
        done = build(RTX, graph, [BATCH], BuildOptions(sm=(sm,)), SilentProgress())
    except InceptionDeployError as error:
        return {**row, "ok": False, "reason": str(error)}
    kernels = kernels_of_log(done.layers)
    told = by_node(lowering.model, precisions(kernels))
    contractions = [n.name for n in lowering.model.graph.node if n.op_type in ("Conv", "Gemm")]
    asked = {a.node for a in lowering.applied if a.rewrite == name}
    return {
        **row,
        "ok": True,
        "seconds": round(time.perf_counter() - started, 2),
        "engine_mb": round(len(done.plan) / 1e6, 2),
        "kernels": len(kernels),
        "reformats": reformats(kernels),
        "contractions": dict(Counter(told.get(node, "not told") for node in contractions)),
        "asked": sum(node in asked for node in contractions),
    }


def pooled_values(model: onnx.ModelProto) -> int:
    """Values per image that average pools read, global ones apart."""
    shapes = {v.name: v.type.tensor_type.shape.dim for v in model.graph.value_info}
    return sum(
        math.prod(d.dim_value for d in shapes[node.input[0]][1:])
        for node in model.graph.node
        if node.op_type == "AveragePool"
    )


def counted(model: onnx.ModelProto) -> dict[str, int]:
    """What the pools read before and after `pool_projection`."""
    for fusion in FUSIONS:
        if fusion.phase <= Phase.FOLD:
            model, _, _ = rewrite(model, fusion)
    after, _, _ = rewrite(model, FUSIONS.get("pool_projection"))
    return {"before": pooled_values(model), "after": pooled_values(after)}


def summary(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """How many engines of each precision were built, and how many contractions ran as asked."""
    ran = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "int8", "fp8": "fp8"}
    found: dict[str, Counter[str]] = {}
    for row in rows:
        tally = found.setdefault(row["precision"], Counter())
        tally["built" if row["ok"] else "failed"] += 1
        if row["ok"]:
            tally["asked"] += row["asked"]
            tally["ran as asked"] += row["contractions"].get(ran[row["precision"]], 0)
            tally["contractions"] += sum(row["contractions"].values())
    return {name: dict(tally) for name, tally in found.items()}


def main(networks: Iterable[str]) -> None:
    """Measure `networks`, keep the other rows, and write the file after each network."""
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    rows: list[dict[str, Any]] = known.get("rows", [])
    pools: dict[str, Any] = known.get("pool_projection", {})
    for network in networks:
        model = exported(network)
        pools[network] = counted(model)
        rows = [row for row in rows if row["network"] != network]
        for name in FORMATS:
            lowering = lowered(model, name)
            for sm in SMS:
                if unsupported(name, sm) is None:
                    rows.append(measured(network, name, lowering, sm))
                    print(json.dumps(rows[-1]), flush=True)
        write_json(
            RESULTS,
            {
                "command": "python -m benchmarks.build_matrix",
                "executed": False,
                "batch": str(BATCH),
                "weights": "random:0, native width and size",
                "pool_projection": pools,
                "summary": summary(rows),
                "machine": describe().to_dict(),
                "versions": {**library_versions(), "tensorrt-rtx": RTX.load().__version__},
                "rows": rows,
            },
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="NETWORK")
    main(parser.parse_args().networks)
