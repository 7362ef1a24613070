"""What the manifest says: the facts of a deployment gathered into one JSON document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnx

from inception_deploy import __version__
from inception_deploy.artifact import Artifact, StageRecord, opset_of
from inception_deploy.bundle import SCHEMA, file_digest
from inception_deploy.engines import Compiled
from inception_deploy.machine import describe, library_versions
from inception_deploy.parity import ParityReport
from inception_deploy.ranges import Ranges
from inception_deploy.recipe import Recipe
from inception_deploy.reference import Reference

__all__ = ["PARITY_SUMMARY", "compose"]

PARITY_SUMMARY = (
    "max_rel_error",
    "sqnr_db",
    "top1_agreement",
    "top1_reference",
    "top1_deployed",
    "top1_drop",
    "drop_ci95",
    "verdict",
    "verdict_reason",
)
"""Fields of parity.json that the manifest repeats."""


def compose(
    recipe: Recipe,
    reference: Reference,
    artifact: Artifact,
    parity: ParityReport,
    ranges: Ranges | None,
    directory: Path,
    command: str | None,
    *,
    compiled: Compiled,
    executed: Mapping[str, str] | None,
    mixing: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The manifest of the graphs lying in `directory`, without the hashes that sealing adds.

    Args:
        compiled: what the engine made of the graph, its files lying in `directory`.
        executed: node name → the precision the engine ran it in, or was built to run it in; None
            where it does not tell.
        mixing: what `mixing.mix` says of the blocks it kept in float.
    """
    parity_fields = parity.to_dict()
    return {
        "schema": SCHEMA,
        "tool": {"name": "inception-deploy", "version": __version__},
        "versions": library_versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "recipe": recipe.to_dict(),
        "network": {
            "name": reference.name,
            "title": reference.title,
            "params": reference.module.parameter_count,
        },
        "weights": asdict(reference.weights),
        "class_names": None if reference.class_names is None else list(reference.class_names),
        "preprocessing": reference.preprocessing.to_dict(),
        "data": recipe.data or reference.default_data,
        "input": {"dtype": recipe.input, "layout": recipe.pixel_layout or "NCHW"},
        "head": recipe.head,
        "precision": recipe.precision,
        "target": recipe.target,
        "graph": graph_facts(directory / "model.onnx"),
        "reference": graph_facts(directory / "reference.onnx"),
        "stages": [stage_facts(record) for record in artifact.records],
        "calibration": None
        if ranges is None
        else {
            "images": ranges.images,
            "data": ranges.data,
            "calibrator": ranges.calibrator,
            "file": "calibration.json",
        },
        "parity": {name: parity_fields[name] for name in PARITY_SUMMARY},
        "environment": describe().to_dict(),
        "engine": _compiled_facts(compiled, directory),
        "mixing": mixing,
        "executed": None if executed is None else dict(executed),
    }


def _compiled_facts(compiled: Compiled, directory: Path) -> dict[str, Any] | None:
    """The engine's own files and what it tells of them; None where it has none.

    `not_executed` says why parity was not measured on the engine; it is None, or missing, where it
    was.
    """
    if not compiled.files:
        return None
    names = [str(file.relative_to(directory)) for file in compiled.files]
    digest = file_digest(compiled.files[0])
    return {"file": names[0], "sha256": digest, "others": names[1:], **compiled.facts}


def graph_facts(path: Path) -> dict[str, Any]:
    """Name, hash, size, opset, inputs and outputs of an ONNX file."""
    model = onnx.load(path)
    return {
        "file": path.name,
        "sha256": file_digest(path),
        "bytes": path.stat().st_size,
        "opset": opset_of(model),
        "nodes": len(model.graph.node),
        "inputs": [_value_facts(value) for value in model.graph.input],
        "outputs": [_value_facts(value) for value in model.graph.output],
    }


def _value_facts(value: onnx.ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    return {
        "name": value.name,
        "dtype": onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name,
        "shape": [d.dim_param or d.dim_value for d in tensor.shape.dim],
    }


def stage_facts(record: StageRecord) -> Mapping[str, Any]:
    """A stage record as JSON values."""
    facts = asdict(record)
    facts["applied"] = [asdict(applied) for applied in record.applied]
    facts["refused"] = [asdict(refused) for refused in record.refused]
    return facts
