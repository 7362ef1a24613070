"""A correct bundle with all that planting needs, and the planting."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.faults import Planted, Site
from benchmarks.subjects import Subject
from inception_deploy.artifact import Golden, model_digest
from inception_deploy.bundle import Bundle, save_golden
from inception_deploy.calibrate import observe
from inception_deploy.calibration import informed
from inception_deploy.channel_scales import ChannelScales
from inception_deploy.compare import reference_of_bundle
from inception_deploy.engines import ENGINES, Engine
from inception_deploy.equalise import with_scales
from inception_deploy.errors import StageError
from inception_deploy.fuse import rewritings
from inception_deploy.golden import record_golden
from inception_deploy.graphs import METADATA_PREFIX
from inception_deploy.images import GOLDEN_IMAGES, ImageSet, choose_images
from inception_deploy.locate.inputs import images_of
from inception_deploy.manifest import graph_facts
from inception_deploy.observation import observed
from inception_deploy.precisions import PRECISIONS
from inception_deploy.preprocess import Preprocessing
from inception_deploy.progress import SilentProgress
from inception_deploy.ranges import Ranges
from inception_deploy.recipe import PrecisionName, Recipe
from inception_deploy.reference import Reference
from inception_deploy.targets import TARGETS
from inception_deploy.trials import parity_trial, torch_predictor, with_blocks

__all__ = ["Garden", "plant"]


@dataclass(frozen=True)
class Garden:
    """A correct bundle with all that planting needs, made once per network and precision."""

    subject: Subject
    precision: PrecisionName

    @cached_property
    def _answers(self) -> dict[bytes, NDArray[Any]]:
        return {}

    def truth(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """What PyTorch makes of images; asked for the same ones by most mutants."""
        key = hashlib.sha256(inputs.tobytes()).digest()
        if key not in self._answers:
            self._answers[key] = torch_predictor(self.reference.module)(inputs)
        return self._answers[key]

    @cached_property
    def memory(self) -> dict[Hashable, Any]:
        """What `locate` knows of the plain export, which most mutants share."""
        return {}

    @cached_property
    def bundle(self) -> Bundle:
        return self.subject.bundle(self.precision)

    @cached_property
    def reference(self) -> Reference:
        return reference_of_bundle(self.bundle)

    @cached_property
    def exported(self) -> onnx.ModelProto:
        return onnx.load(self.bundle.reference)

    @cached_property
    def deployed(self) -> onnx.ModelProto:
        return onnx.load(self.bundle.model)

    @cached_property
    def blocks(self) -> tuple[str, ...]:
        return tuple(b["name"] for b in self.bundle.read_json("parity.json")["blocks"])

    @cached_property
    def golden(self) -> Golden:
        """With the blocks, which a bundle does not keep."""
        inputs = np.asarray(self.bundle.golden().inputs)
        return record_golden(self.reference.module, inputs)

    @cached_property
    def images(self) -> ImageSet:
        return images_of(self.bundle, None)

    @cached_property
    def inputs(self) -> NDArray[np.float32]:
        return np.concatenate([batch.inputs for batch in self.images.batches()])

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        labels = self.images.dataset.labels
        assert labels is not None
        return labels[self.images.indices]

    @cached_property
    def outputs(self) -> NDArray[np.float32]:
        """Of the correct bundle on all images."""
        return self.run(self.bundle.model)

    def run(self, model: Path) -> NDArray[np.float32]:
        """A graph on all images, as its engine runs it. Raises `StageError`."""
        with ENGINES.get(str(self.bundle.manifest["target"])).session(model, threads=1) as session:
            rows = [session.run(self.inputs[i : i + 16]) for i in range(0, len(self.inputs), 16)]
        return np.concatenate(rows)

    @cached_property
    def site(self) -> Site:
        return Site(
            reference=self.exported,
            lowered=self.deployed,
            precision=self.precision,
            preprocessing=self.bundle.manifest["preprocessing"],
            table=self.bundle.read_json("calibration.json"),
            classes=int(self.bundle.manifest["weights"]["num_classes"]),
        )

    def fused(self, exported: onnx.ModelProto) -> onnx.ModelProto:
        """What the rewrites of this target make of a graph, and the bundle's factors; unproven."""
        model = exported
        rewrites = TARGETS.get(str(self.bundle.manifest["target"])).rewrites(self.precision)
        for turn in rewritings(exported, rewrites, keep=self.blocks):
            model = turn.model
        return with_scales(model, ChannelScales.of(self.deployed))

    @cached_property
    def _recipe(self) -> Recipe:
        return Recipe.from_dict(dict(self.bundle.manifest["recipe"]))

    @cached_property
    def _calibration(self) -> ImageSet:
        recipe = self._recipe
        return choose_images(
            recipe.calibration or recipe.data or self.reference.default_data,
            self.reference.preprocessing,
            count=recipe.calibration_size,
            seed=recipe.seed + 1,
            skip_bad=False,
            split="train",
        )

    def lowered(
        self, fused: onnx.ModelProto, table: Mapping[str, Any] | None = None
    ) -> onnx.ModelProto:
        """A rewritten graph in the bundle's precision, unproven, with the correct ranges.

        What else the precision has to know it finds out on this very graph, as `deploy` would.
        """
        recipe = self._recipe
        target = TARGETS.get(recipe.target)
        precision = PRECISIONS.get(self.precision)
        precision = precision.at(target.placement, reduce_range=recipe.reduce_range)
        values = table or self.site.table
        if values is None:
            return precision.lower(fused, None).model
        ranges = Ranges.from_dict(values)
        watched = precision.watched(fused)
        if any(name not in ranges.tensors for name in watched or observed(fused)):
            # a tensor that the fault brought along: its range is taken as it is
            seen = observe(
                fused, [self.inputs[:16]], engine=_onnxruntime(), data_digest="", total=1
            )
            ranges = replace(ranges, tensors={**seen.tensors, **ranges.tensors})
        if watched is not None:
            silent = SilentProgress()
            precision = informed(recipe, fused, self._calibration, precision, ranges, silent)
        return precision.lower(fused, ranges).model


def _onnxruntime() -> Engine:
    return ENGINES.get("onnxruntime")


def plant(garden: Garden, planted: Planted, seed: int, folder: Path) -> tuple[Bundle, str | None]:
    """The bundle with a fault in it, in `folder`, and the data to judge it on (None: its own)."""
    shutil.copytree(garden.bundle.path, folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    golden = garden.golden
    changed: dict[str, str] = {}
    if planted.reference is not None or planted.table is not None:
        exported = planted.reference or garden.exported
        fused = garden.fused(exported)
        deployed = garden.lowered(fused, planted.table)
        last = [s for s in manifest["stages"] if s["name"].startswith("lower/")][-1]
        changed[last["before"]] = model_digest(fused)
        if planted.reference is not None and seed == 0:
            changed[manifest["stages"][0]["after"]] = model_digest(exported)
            onnx.save(exported, folder / "reference.onnx")
    else:
        deployed = planted.lowered or garden.deployed
    table = planted.table or garden.site.table
    if table is not None and changed:
        # a table is of the graph that was lowered, and says so
        text = json.dumps({**table, "model": changed.get(table["model"], table["model"])}, indent=2)
        (folder / "calibration.json").write_text(text, encoding="utf-8")
    if deployed is not garden.deployed:
        changed[manifest["stages"][-1]["after"]] = model_digest(deployed)
        onnx.save(deployed, folder / "model.onnx")
    if planted.preprocessing is not None:
        wrong = Preprocessing.from_dict(planted.preprocessing)
        manifest["preprocessing"] = dict(planted.preprocessing)
        for model in (garden.exported, garden.deployed):
            changed[model_digest(model)] = model_digest(_saying(model, wrong))
        onnx.save(_saying(garden.exported, wrong), folder / "reference.onnx")
        onnx.save(_saying(garden.deployed, wrong), folder / "model.onnx")
        if seed == 0:
            golden = _prepared(garden, wrong)
            save_golden(folder / "golden.npz", golden)
    for stage in manifest["stages"]:
        for end in ("before", "after"):
            stage[end] = changed.get(stage[end], stage[end])
    manifest["graph"] = graph_facts(folder / "model.onnx")
    manifest["reference"] = graph_facts(folder / "reference.onnx")
    data = None
    if planted.labels is not None:
        file = folder.with_name(f"{folder.name}-data.npz")
        labels = planted.labels(garden.labels)
        np.savez(file, images=_pictures(garden.images), labels=labels)
        data = str(file)
    bundle = Bundle.seal(folder, manifest)
    return (bundle if planted.labels is not None else _measured(garden, bundle, golden)), data


def _saying(model: onnx.ModelProto, preprocessing: Preprocessing) -> onnx.ModelProto:
    """The graph with another preprocessing in its metadata."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for entry in copy.metadata_props:
        if entry.key == f"{METADATA_PREFIX}preprocessing":
            entry.value = preprocessing.to_json()
    return copy


def _prepared(garden: Garden, preprocessing: Preprocessing) -> Golden:
    """The golden of an export that prepared its images in another way."""
    images = replace(garden.images, preprocessing=preprocessing)
    (batch,) = images.spread(GOLDEN_IMAGES).batches(GOLDEN_IMAGES)
    return record_golden(garden.reference.module, batch.inputs)


def _measured(garden: Garden, bundle: Bundle, golden: Golden) -> Bundle:
    """With the parity.json that the export of this very bundle would have written.

    A graph that does not run, or puts out NaN, has none; it keeps that of the correct bundle.
    """
    engine, silent = ENGINES.get(str(bundle.manifest["target"])), SilentProgress()
    try:
        with engine.session(bundle.model, threads=1) as session:
            report = parity_trial(
                garden.truth,
                session,
                images_of(bundle, None),
                golden,
                head=bundle.head,
                names=(garden.reference.framework, engine.name),
                layout=bundle.pixel_layout,
                progress=silent,
            )
        report = with_blocks(report, onnx.load(bundle.model), golden, engine, silent)
    except StageError:
        return bundle
    return bundle.with_parity(report.to_dict())


def _pictures(images: ImageSet) -> NDArray[np.uint8]:
    """uint8 (N, H, W, 3), as they are before preprocessing."""
    return np.stack([np.asarray(s.image, np.uint8) for s in images.samples()])
