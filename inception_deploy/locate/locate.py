"""`locate`: the first place in a bundle where something goes wrong.

Every stage is examined from the images on: preprocessing, export, rewrites, lowering, engine. A
stage is compared with the one before it, and each piece of it is given the inputs of the stage
before, so that a fault shows where it is and nowhere else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

from inception_deploy.artifact import Golden
from inception_deploy.bundle import Bundle
from inception_deploy.channel_scales import ChannelScales
from inception_deploy.compare import reference_of_bundle
from inception_deploy.deployed import open_deployed, runner
from inception_deploy.engines import ENGINES
from inception_deploy.equalise import with_scales
from inception_deploy.errors import InceptionDeployError, MissingDependency, StageError
from inception_deploy.locate.anatomy import Anatomy
from inception_deploy.locate.causes import Before
from inception_deploy.locate.cutting import CutGraph
from inception_deploy.locate.examine import Examined, examine
from inception_deploy.locate.findings import Finding, LocateReport, Place, Row, Transition
from inception_deploy.locate.inputs import check_labels_of, check_preprocessing, images_of
from inception_deploy.locate.rewritten import Rewritten, inside, rewrite_again
from inception_deploy.locate.truth import GraphTruth, RecordedTruth, TorchTruth, Truth
from inception_deploy.lowering.rounding import rounded
from inception_deploy.onnx_file import OnnxNetwork
from inception_deploy.pixels import fed
from inception_deploy.precisions import PRECISIONS
from inception_deploy.precisions.int8 import Int8
from inception_deploy.progress import Progress, SilentProgress
from inception_deploy.proof import FP32_BOUND
from inception_deploy.ranges import Ranges
from inception_deploy.reference import Reference
from inception_deploy.targets import TARGETS

__all__ = ["IMAGES", "locate"]

IMAGES = 8
"""Most images that tensors are compared on."""

LABELLED = 64
"""Images whose labels are compared with what the network makes of them."""


def locate(
    bundle: Bundle,
    *,
    data: str | None = None,
    images: int = IMAGES,
    reference: Reference | None = None,
    memory: MutableMapping[Hashable, Any] | None = None,
    progress: Progress | None = None,
) -> LocateReport:
    """Examine every stage of `bundle` that can be seen in it.

    Args:
        data: images to compare on, as for a recipe; None takes the golden inputs of the bundle.
        images: how many of them.
        reference: the PyTorch network, where it is at hand; else it is loaded as recorded, and
            without its weights the golden outputs take its place.
        memory: what was found out about stages that other bundles have too, by what they were made
            of; for who asks about many bundles of one reference. Filled and used; None forgets.

    Raises:
        BundleError: a file of the bundle is missing or changed.
        DataError: the images cannot be used.
        StageError: the reference graph cannot be run.
    """
    known = {} if memory is None else memory
    return _Search(bundle, data, images, reference, known, progress or SilentProgress()).run()


class _Search:
    """One run of `locate`."""

    def __init__(
        self,
        bundle: Bundle,
        data: str | None,
        images: int,
        reference: Reference | None,
        memory: MutableMapping[Hashable, Any],
        progress: Progress,
    ) -> None:
        self.memory = memory
        self.bundle, self.data, self.progress = bundle, data, progress
        self.transitions: list[Transition] = []
        self.findings: list[Finding] = []
        self.rows: list[Row] = []
        self.golden = self._inputs(bundle.golden(), images)
        self.blocks = _blocks(bundle)
        self.reference = reference
        self.output = bundle.head

    def _inputs(self, golden: Golden, images: int) -> Golden:
        """What the graphs are fed: the golden inputs, or images of the user's."""
        if self.data is None:
            pixels = None if golden.pixels is None else golden.pixels[:images]
            inputs, outputs = golden.inputs[:images], golden.outputs[:images]
            return replace(golden, inputs=inputs, outputs=outputs, pixels=pixels)
        (batch,) = images_of(self.bundle, self.data, images).batches(images)
        layout = self.bundle.pixel_layout
        pixels = None if layout is None else fed(batch, layout)
        return replace(golden, inputs=batch.inputs, outputs=golden.outputs[:0], pixels=pixels)

    def run(self) -> LocateReport:
        """All stages in order."""
        unknown = self._load()
        if self.data is None:
            trained = None if self.reference is None else self.reference.preprocessing
            self._took(*check_preprocessing(self.bundle, self.golden, trained))
        original = self._loaded(self.bundle.reference, "export")
        deployed = self._loaded(self.bundle.model, self.lowered)
        if original is not None:
            exported = self._export(original, unknown)
            self._labels(original, exported)
            self._rest(original, deployed)
        return LocateReport(
            network=str(self.bundle.manifest["network"]["name"]),
            precision=str(self.bundle.manifest["precision"]),
            target=str(self.bundle.manifest["target"]),
            images=len(self.golden.inputs),
            data=self.data or "golden.npz",
            transitions=tuple(self.transitions),
            findings=tuple(self.findings),
            rows=tuple(self.rows),
        )

    def _load(self) -> str:
        """Load the network unless it was given; says why it cannot be had."""
        if self.reference is None:
            try:
                self.reference = reference_of_bundle(self.bundle)
            except InceptionDeployError as error:
                return str(error)
        return ""

    @property
    def lowered(self) -> str:
        """Name of the last stage, "lower/int8"."""
        return f"lower/{self.bundle.manifest['precision']}"

    def _took(self, transition: Transition, findings: Sequence[Finding] = ()) -> None:
        self.transitions.append(transition)
        self.findings.extend(findings)

    def _loaded(self, path: Path, stage: str) -> onnx.ModelProto | None:
        """A graph of the bundle; None, and a finding, where it makes no sense."""
        model = onnx.load(path)
        try:
            CutGraph(model, path.name).values  # noqa: B018 - inferred when asked for
            # as a device rounds: ONNX Runtime's CPU has no kernels for bfloat16
            runnable = rounded(model).SerializeToString()
            with ENGINES.get("onnxruntime").session(runnable, threads=1, optimise=False):
                pass
        except StageError as error:
            place = self._named_in(str(error), model)
            self.findings.append(
                Finding(stage, place, "invalid", f"{path.name} cannot be run: {error}")
            )
            return None
        return model

    def _named_in(self, message: str, model: onnx.ModelProto) -> Place:
        """The first node that a message names; the whole graph where it names none."""
        known = sorted((n for n in model.graph.node if n.name), key=lambda n: -len(n.name))
        node = next((n for n in known if n.name in message), None)
        if node is None:
            name = str(model.graph.output[0].name)
            return Place(name, name, name, name)
        return Place.of(str(node.name), str(node.output[0]), self.blocks)

    def _examine(
        self,
        stage: str,
        between: str,
        truth: Truth,
        after: onnx.ModelProto,
        images: NDArray[Any],
        before: Before,
        table: Ranges | None = None,
    ) -> Examined | None:
        try:
            found = self._remembered(stage, between)
            if found is None:
                found = examine(
                    stage,
                    truth,
                    CutGraph(rounded(after), between.rpartition(" ")[2]),
                    after,
                    images,
                    blocks=self.blocks,
                    before=before,
                    table=table,
                    eight_bits=self._eight_bits(),
                    progress=self.progress,
                )
                self.memory[self._key(stage, between)] = found
        except StageError as error:
            self._took(
                Transition(stage, between, 0, str(error)),
                [Finding(stage, self._named_in(str(error), after), "invalid", str(error))],
            )
            return None
        self._took(Transition(stage, between, len(found.rows)), found.findings)
        self.rows.extend(found.rows)
        return found

    def _key(self, stage: str, between: str) -> Hashable:
        """What a stage is made of: the plain export, the rewrites, the images; and model.onnx."""
        manifest = self.bundle.manifest
        inputs = hashlib.sha256(self.golden.inputs.tobytes()).hexdigest()
        lowered = manifest["graph"]["sha256"] if stage.startswith("lower") else ""
        return stage, between, manifest["reference"]["sha256"], self._rewrites(), inputs, lowered

    def _rewrites(self) -> tuple[str, ...]:
        """Names of the rewrites that were run, and of what came before them."""
        names = [s["name"] for s in self.bundle.manifest["stages"]]
        preprocessing = str(self.bundle.manifest["preprocessing"]) if "pixels" in names else ""
        return (*names[:-1], preprocessing)

    def _remembered(self, stage: str, between: str) -> Examined | None:
        found: Examined | None = self.memory.get(self._key(stage, between))
        return found

    def _export(self, original: onnx.ModelProto, unknown: str) -> Examined | None:
        """PyTorch → reference.onnx, or the recorded outputs where the weights are not at hand.

        Args:
            unknown: why the network could not be loaded, where it could not.
        """
        truth: Truth
        modules: Mapping[str, nn.Module] = {}
        module = None if self.reference is None else self.reference.module
        if isinstance(module, OnnxNetwork):
            module, unknown = None, "the bundle was made from an ONNX file, not from PyTorch"
        if module is not None:
            truth = TorchTruth(module, self.golden.inputs, self.output)
            inner = module.get_submodule(module.wrapper)
            modules = {n: m for n, m in inner.named_modules() if n}
        elif len(self.golden.outputs):
            truth = RecordedTruth({self.output: self.golden.outputs})
            self.progress.note(f"PyTorch is left out: {unknown}")
        else:
            skipped = f"{unknown}; and the golden has no outputs for these images"
            self._took(Transition("export", "pytorch → reference.onnx", 0, skipped))
            return None
        return self._examine(
            "export",
            f"{truth.stage} → reference.onnx",
            truth,
            original,
            self.golden.inputs,
            Before(modules=modules),
        )

    def _labels(self, original: onnx.ModelProto, exported: Examined | None) -> None:
        """Labels, unless what comes before them explains a low accuracy."""
        if self.findings or exported is None:
            return
        try:
            images = images_of(self.bundle, self.data)
            if not images.labelled:
                return
            engine = ENGINES.get("onnxruntime")
            outputs, labels = [], []
            with engine.session(self.bundle.reference, threads=1, optimise=False) as session:
                for batch in images.spread(LABELLED).batches(16):
                    outputs.append(session.run(batch.inputs))
                    labels.append(batch.labels)
        except InceptionDeployError as error:
            self._took(Transition("labels", "labels → outputs", 0, str(error)))
            return
        if any(part is None for part in labels):
            return
        every = np.concatenate([part for part in labels if part is not None])
        self._took(*check_labels_of(self.bundle, np.concatenate(outputs), every))

    def _rest(self, original: onnx.ModelProto, deployed: onnx.ModelProto | None) -> None:
        """reference.onnx → rewritten → model.onnx → engine."""
        key = ("rewritten", *self._rewrites(), self.bundle.manifest["reference"]["sha256"])
        if key not in self.memory:
            self.memory[key] = rewrite_again(self.bundle, original, self.blocks)
        again: Rewritten = self.memory[key]
        fused = again.model
        pixels = self.golden.feed
        if fused is not None:
            graph = CutGraph(original, "reference.onnx")
            truth = GraphTruth(graph, self.golden.inputs, inside(graph, again.changed, self.blocks))
            before = Before(Anatomy(original))
            self._examine("fuse", "reference.onnx → rewritten", truth, fused, pixels, before)
        else:
            self._took(Transition("fuse", "reference.onnx → rewritten", 0, again.skipped))
        if deployed is None:
            return
        try:
            scales = ChannelScales.of(deployed)
            base = original if fused is None else with_scales(fused, scales)
        except StageError as error:
            place = self._named_in(str(error), deployed)
            self.findings.append(Finding(self.lowered, place, "invalid", f"model.onnx: {error}"))
            return
        name = "reference.onnx" if fused is None else "rewritten"
        given = self.golden.inputs if fused is None else pixels
        graph = CutGraph(base, name)
        others = frozenset[str]()
        if fused is None:  # any tensor may be another, but those that leave blocks unscaled
            others = inside(graph, frozenset(self.blocks), self.blocks).union(scales.exponents)
        found = self._examine(
            self.lowered,
            f"{name} → model.onnx",
            GraphTruth(graph, given, others),
            deployed,
            pixels,
            Before(Anatomy(base)),
            self._table(),
        )
        if found is not None and found.output is not None:
            self._engine(deployed, found.output)

    def _eight_bits(self) -> float:
        """λ·u of the precision that quantises; 0 of one that does not."""
        precision = PRECISIONS.get(str(self.bundle.manifest["precision"]))
        if not isinstance(precision, Int8):
            return 0.0
        target = TARGETS.get(str(self.bundle.manifest["target"]))
        precision = precision.at(target.placement)
        return precision.confidence * precision.unit

    def _table(self) -> Ranges | None:
        values = self.bundle.read_json("calibration.json")
        if values is None or not self._eight_bits():
            return None
        return Ranges.from_dict(values)

    def _engine(self, deployed: onnx.ModelProto, written: NDArray[Any]) -> None:
        """model.onnx as written → as its engine runs it."""
        target = str(self.bundle.manifest["target"])
        between = f"model.onnx → {target}"
        bound = self._bound()
        if not np.isfinite(written).all():
            return
        try:
            if runner(target).name != TARGETS.get(target).engine:
                skipped = f"the device of {target} is not here"
                self._took(Transition("engine", between, 0, skipped))
                return
            with open_deployed(self.bundle) as session:
                ran = session.run(self.golden.feed)
        except (MissingDependency, StageError) as error:
            findings = []
            if isinstance(error, StageError):
                place = self._named_in(str(error), deployed)
                findings = [Finding("engine", place, "invalid", str(error))]
            self._took(Transition("engine", between, 0, str(error)), findings)
            return
        scale = float(np.abs(written).max())
        error_ = float(np.abs(ran.astype(np.float64) - written).max()) / scale if scale else 0.0
        findings = []
        if not error_ <= bound:
            name = str(deployed.graph.output[0].name)
            said = f"{target} is off by {error_:.3g} from the graph as it is written"
            causes = (
                "sums that saturate 16 bits: x86 without VNNI needs 7-bit weights (--reduce-range)",
                "a fault of the engine's own rewrites",
            )
            place = Place(name, name, name, name)
            findings = [Finding("engine", place, "error", said, causes, _known(error_), bound)]
        self._took(Transition("engine", between, 1), findings)

    def _bound(self) -> float:
        """What the lowering states for a whole graph; engines differ by no more."""
        for stage in reversed(self.bundle.manifest["stages"]):
            if stage["name"].startswith("lower/") and stage["bound"] is not None:
                return float(stage["bound"])
        return FP32_BOUND


def _blocks(bundle: Bundle) -> tuple[str, ...]:
    """Names of the network's blocks, in processing order."""
    parity = bundle.read_json("parity.json") or {}
    return tuple(block["name"] for block in parity.get("blocks") or ())


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None
