"""Whether a bundle is what it says it is: checks that need no image and no label.

A gate that only measures accuracy is blind to what the images happen not to show. So the files come
first: their hashes, the history of the graph, its preprocessing and classes, its range table.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from inception_deploy.artifact import model_digest
from inception_deploy.bundle import Bundle
from inception_deploy.compare import reference_of_bundle
from inception_deploy.errors import BadInput, InceptionDeployError
from inception_deploy.gate.verdict import Check
from inception_deploy.graphs import metadata
from inception_deploy.pipeline import reference_of
from inception_deploy.preprocess import Preprocessing
from inception_deploy.ranges import Ranges
from inception_deploy.recipe import Recipe
from inception_deploy.reference import Reference
from inception_deploy.verify import verify

__all__ = ["against_reference", "of_files", "reference_or_reason"]


def reference_or_reason(bundle: Bundle) -> tuple[Reference | None, str]:
    """The PyTorch network the bundle was made from; or None, and why it cannot be had."""
    try:
        return reference_of_bundle(bundle), ""
    except InceptionDeployError as error:
        return None, str(error)


def of_files(bundle: Bundle) -> Iterator[Check]:
    """Every hash and schema; then, if they hold, whether the parts of the bundle fit together."""
    problems = [f"{check.subject} {check.problem}" for check in verify(bundle) if not check.ok]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        yield Check(
            "files", "integrity", "FAIL", f"the bundle does not verify: {problems[0]}{more}"
        )
        return
    yield Check("files", "integrity", "PASS", "every file is the one that was exported")
    model = onnx.load(bundle.model)
    yield _result(
        "history", "every stage starts from what the one before put out", _history(bundle, model)
    )
    yield _result(
        "interface",
        "graph, golden and manifest agree on inputs and outputs",
        _interface(bundle, model),
    )
    if bundle.manifest["calibration"] is not None:
        yield _result(
            "calibration",
            "the graph's grids are those of its range table",
            _calibration(bundle, model),
        )


def against_reference(bundle: Bundle, reference: Reference) -> Iterator[Check]:
    """What the bundle says of images and classes, held against the network it was made from."""
    yield _result(
        "preprocessing",
        "images are prepared as the network was trained with",
        _differences(bundle, reference),
    )
    yield _result("classes", "classes are the network's, in its order", _classes(bundle, reference))


def _result(name: str, holds: str, problem: str | None) -> Check:
    if problem is None:
        return Check(name, "integrity", "PASS", holds)
    return Check(name, "integrity", "FAIL", problem)


def _history(bundle: Bundle, model: onnx.ModelProto) -> str | None:
    """The digests of the stages form a chain from reference.onnx to model.onnx."""
    stages = bundle.manifest["stages"]
    if not stages:
        return "the manifest records no stage; export the bundle again"
    if model_digest(onnx.load(bundle.reference)) != stages[0]["after"]:
        return f"reference.onnx is not what the stage '{stages[0]['name']}' put out"
    for before, after in itertools.pairwise(stages):
        if before["after"] != after["before"]:
            return f"stage '{after['name']}' did not start from what '{before['name']}' put out"
    if model_digest(model) != stages[-1]["after"]:
        return f"model.onnx is not what the last stage, '{stages[-1]['name']}', put out"
    return None


def _interface(bundle: Bundle, model: onnx.ModelProto) -> str | None:
    golden = bundle.golden()
    outputs = [value.name for value in model.graph.output]
    if outputs[:1] != [golden.output_name]:
        return f"the graph puts out {outputs}, the manifest says '{golden.output_name}'"
    dims = [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
    width = golden.outputs.shape[1]
    if len(dims) == 2 and dims[1] and dims[1] != width:
        return f"the graph puts out {dims[1]} values, the golden has {width}"
    if bundle.head != "features" and width != bundle.manifest["weights"]["num_classes"]:
        classes = bundle.manifest["weights"]["num_classes"]
        return f"the golden has {width} outputs, the manifest says {classes} classes"
    names = bundle.class_names
    if names is not None and len(names) != bundle.manifest["weights"]["num_classes"]:
        return f"the manifest names {len(names)} classes for {width} outputs"
    size = bundle.preprocessing.size
    if golden.inputs.shape[1:] != (3, size, size):
        return f"golden inputs are {golden.inputs.shape[1:]}, the preprocessing gives {size} pixels"
    told = metadata(model).get("inception_deploy.class_names")
    if told is not None and names is not None and tuple(json.loads(told)) != names:
        return "class names in the graph's metadata differ from the manifest's"
    return None


def _calibration(bundle: Bundle, model: onnx.ModelProto) -> str | None:
    """The table is of the graph that was lowered, and no grid is narrower than the table says."""
    try:
        table = Ranges.from_dict(bundle.read_json(bundle.manifest["calibration"]["file"]))
    except BadInput as error:
        return f"calibration.json: {error}"
    lowered = [s for s in bundle.manifest["stages"] if s["name"].startswith("lower/")]
    if not lowered or table.model != lowered[-1]["before"]:
        return (
            f"the range table was made for another graph ({table.model[:12]}…) than the one that "
            "was lowered; calibrate anew"
        )
    facts = bundle.manifest["calibration"]
    for name, found in (
        ("images", table.images),
        ("data", table.data),
        ("calibrator", table.calibrator),
    ):
        if facts[name] != found:
            return f"the range table is of {name} '{found}', the manifest says '{facts[name]}'"
    for tensor, (low, high, step) in _grids(model).items():
        seen = table.tensors.get(tensor)
        if seen is not None and high - low + 2 * step < seen.maximum - max(seen.minimum, low):
            return (
                f"'{tensor}' has a grid from {low:.4g} to {high:.4g}, its calibrated range is "
                f"{seen.minimum:.4g} to {seen.maximum:.4g}"
            )
    return None


def _grids(model: onnx.ModelProto) -> Mapping[str, tuple[float, float, float]]:
    """Float tensor → lowest and highest value of its integer grid, and the step."""
    constants = {c.name: c for c in model.graph.initializer}
    found: dict[str, tuple[float, float, float]] = {}
    for node in model.graph.node:
        # the tensor keeps its name where it comes back from the integers
        if node.op_type != "DequantizeLinear" or len(node.input) < 3:
            continue
        if not {node.input[1], node.input[2]} <= set(constants):
            continue
        scale = numpy_helper.to_array(constants[node.input[1]])
        zero = numpy_helper.to_array(constants[node.input[2]])
        if scale.size != 1 or zero.dtype.kind not in "iu":
            continue
        limits = np.iinfo(zero.dtype)
        step, offset = float(scale.reshape(())), int(zero.reshape(()))
        found[node.output[0]] = (
            step * (limits.min - offset),
            step * (limits.max - offset),
            step,
        )
    return found


def _differences(bundle: Bundle, reference: Reference) -> str | None:
    told, true = bundle.preprocessing, reference.preprocessing
    if told != true:
        return f"the bundle's {_first_difference(told, true)}, the network's own"
    recipe = Recipe.from_dict(dict(bundle.manifest["recipe"]))
    overridden = recipe.mean is not None or recipe.std is not None
    if overridden and _knows_its_own(recipe):
        own = reference_of(replace(recipe, mean=None, std=None)).preprocessing
        for name in ("mean", "std"):
            if not np.allclose(getattr(own, name), getattr(told, name), atol=1e-3):
                return (
                    f"the recipe asks for {name} {getattr(told, name)}, these weights were trained "
                    f"with {getattr(own, name)}; export without --{name}"
                )
    return None


def _knows_its_own(recipe: Recipe) -> bool:
    """Embedded and published weights come with the preprocessing they were trained with."""
    source = recipe.weights_source
    return recipe.onnx is None and source.split(":")[0] in ("embedded", "pretrained")


def _first_difference(told: Preprocessing, true: Preprocessing) -> str:
    mine, theirs = told.to_dict(), true.to_dict()
    name = next(key for key in mine if mine[key] != theirs[key])
    return f"{name} is {_shown(mine[name])}, not {_shown(theirs[name])}"


def _shown(value: Any) -> str:
    return str(tuple(value)) if isinstance(value, (list, tuple)) else str(value)


def _classes(bundle: Bundle, reference: Reference) -> str | None:
    if bundle.manifest["weights"]["num_classes"] != reference.weights.num_classes:
        return (
            f"the bundle has {bundle.manifest['weights']['num_classes']} classes, the network "
            f"{reference.weights.num_classes}"
        )
    told, true = bundle.class_names, reference.class_names
    if told is None or true is None or told == true:
        return None
    index = next(k for k, (a, b) in enumerate(zip(told, true, strict=True)) if a != b)
    return f"class {index} is called '{told[index]}' in the bundle, '{true[index]}' by the network"
