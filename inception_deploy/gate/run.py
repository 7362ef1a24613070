"""The gate itself: integrity first, then the graphs, then the images, then speed and size."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from inception_deploy.bundle import MANIFEST, Bundle, file_digest
from inception_deploy.errors import StageError
from inception_deploy.gate import accuracy, fidelity, integrity, speed
from inception_deploy.gate.baseline import Baseline
from inception_deploy.gate.bounds import Bounds
from inception_deploy.gate.speed import Timing
from inception_deploy.gate.verdict import Check, GateVerdict, judged
from inception_deploy.images import ImageSet
from inception_deploy.locate import LocateReport
from inception_deploy.parity import ParityReport
from inception_deploy.parity.state import Resumable, images_digest, state_path
from inception_deploy.progress import Progress, SilentProgress
from inception_deploy.reference import Reference
from inception_deploy.throughput import ThroughputReport

__all__ = ["gate"]


def gate(
    bundle: Bundle,
    bounds: Bounds | None = None,
    *,
    data: str | None = None,
    data_size: int | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    baseline: Baseline | None = None,
    reference: Reference | None = None,
    located: LocateReport | None = None,
    pieces: bool = True,
    resume: bool = False,
    timing: Timing | None = None,
    progress: Progress | None = None,
) -> GateVerdict:
    """Whether a bundle may be shipped.

    A check that fails ends the gate before the more expensive ones, which it would only repeat.

    Args:
        bounds: None takes the defaults of the bundle's precision.
        data: as for `compare_bundle`; None takes what the bundle was exported with.
        data_size: most images compared; None takes all, of the endless built-in task
            `accuracy.ENDLESS_IMAGES`.
        seed: of the choice and the order of images.
        baseline: figures of an earlier build to be held to, as well.
        reference: the network the bundle was made from, where the caller has it; None loads it.
        located: what `locate` says of the bundle, where the caller has it; None asks it.
        pieces: False leaves out what `locate` finds, the most thorough check and the slowest.
        resume: remember the comparison of images in a file beside the bundle, and go on from it.
        timing: how to measure where speed is asked for; None takes the defaults.

    Raises:
        BadInput: the baseline is of another network, data set or preprocessing.
        DataError: the images cannot be used for what is asked.
    """
    started = time.perf_counter()
    progress = progress or SilentProgress()
    bounds = bounds or Bounds.asked(str(bundle.manifest["precision"]))
    if baseline is not None:
        baseline.refuse(bundle)
    found = _Found(bundle, bounds, progress)
    with progress.stage("checking files"):
        found.take(integrity.of_files(bundle))
    if not found.failed:
        found.load(reference)
        truth = found.truth
        if truth is not None:
            found.take(integrity.against_reference(bundle, truth))
            found.take(fidelity.of_inputs(bundle, truth, progress))
    if not found.failed:
        found.take(fidelity.of_graphs(bundle, found.truth, progress))
    if not found.failed and pieces:
        found.take(fidelity.of_pieces(bundle, found.truth, located, progress))
    if not found.failed:
        images = accuracy.choose(
            bundle, bounds, data=data, size=data_size, seed=seed, skip_bad=skip_bad
        )
        if baseline is not None:
            baseline.refuse_data(images.dataset.digest, images.dataset.name)
        found.compare(images, resume=resume)
    if not found.failed:
        found.measure(timing or Timing(), baseline)
    if not found.failed and baseline is not None:
        found.take(baseline.checks(bundle, bounds, found.parity, found.speed))
    outcome, reason = judged(found.checks)
    return GateVerdict(
        outcome=outcome,
        reason=reason,
        checks=tuple(found.checks),
        bundle=str(bundle.path),
        network=str(bundle.manifest["network"]["name"]),
        precision=str(bundle.manifest["precision"]),
        target=str(bundle.manifest["target"]),
        truth=found.held_to,
        images=0 if found.parity is None else found.parity.data.images,
        stopped_early=found.stopped_early,
        seconds=time.perf_counter() - started,
        warnings=tuple(found.warnings),
        parity=found.parity,
        speed=found.speed,
    )


@dataclass
class _Found:
    """What is known so far."""

    bundle: Bundle
    bounds: Bounds
    progress: Progress
    checks: list[Check] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    truth: Reference | None = None
    held_to: str = "nothing"
    parity: ParityReport | None = None
    speed: ThroughputReport | None = None
    stopped_early: bool = False

    @property
    def failed(self) -> bool:
        return any(check.failed for check in self.checks)

    def take(self, checks: Iterable[Check]) -> None:
        self.checks.extend(checks)

    def load(self, reference: Reference | None) -> None:
        """The truth: the network as PyTorch runs it, or else the plain export."""
        self.truth, why_not = reference, ""
        if reference is None:
            with self.progress.stage("load weights"):
                self.truth, why_not = integrity.reference_or_reason(self.bundle)
        self.held_to = "reference.onnx" if self.truth is None else self.truth.framework
        if self.truth is None:
            self.warnings.append(f"held to reference.onnx, not to PyTorch: {why_not}")

    def compare(self, images: ImageSet, *, resume: bool) -> None:
        """The bounds that are held on images. An output that is not finite fails the bundle."""
        bundle, truth = self.bundle, self.truth
        key = {
            "bundle": file_digest(bundle.path / MANIFEST),
            "truth": self.held_to,
            "set of images": images_digest(images),
        }
        path = state_path(bundle.path, "gate") if resume else None
        try:
            examined = accuracy.examine(
                bundle,
                self.bounds,
                images,
                truth,
                resumable=Resumable(path, key),
                progress=self.progress,
            )
        except StageError as error:
            self.checks.append(Check("outputs", "accuracy", "FAIL", str(error)))
            return
        self.take(examined.checks)
        self.parity, self.stopped_early = examined.parity, examined.stopped_early
        if images.skipped:
            self.warnings.append(
                f"{len(images.skipped)} images could not be read and were left out"
            )

    def measure(self, timing: Timing, baseline: Baseline | None) -> None:
        """Size, and speed where it is asked for or known from the baseline."""
        self.take(speed.of_size(self.bundle, self.bounds))
        asked = self.bounds.min_speedup is not None or self.bounds.max_p99_ms is not None
        if asked or timing.always or (baseline is not None and baseline.speedups):
            self.speed = speed.timed(self.bundle, self.truth, timing, self.progress)
            self.take(speed.of_speed(self.speed, self.bounds))
            if self.bounds.max_p99_ms is not None:  # ratios are measured so that noise cancels
                self.warnings.extend(self.speed.warnings)
