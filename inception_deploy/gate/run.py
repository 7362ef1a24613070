"""The gate itself: integrity first, then the graphs, then the images, then speed and size."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from inception_deploy.bundle import Bundle
from inception_deploy.errors import StageError
from inception_deploy.gate import accuracy, fidelity, integrity
from inception_deploy.gate.bounds import Bounds
from inception_deploy.gate.verdict import Check, GateVerdict, judged
from inception_deploy.parity import ParityReport
from inception_deploy.parity.state import Resumable
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
    reference: Reference | None = None,
    resumable: Resumable | None = None,
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
        reference: the network the bundle was made from, where the caller has it; None loads it.
        resumable: where the comparison of images is remembered; None forgets it.

    Raises:
        DataError: the images cannot be used for what is asked.
    """
    started = time.perf_counter()
    progress = progress or SilentProgress()
    bounds = bounds or Bounds.asked(str(bundle.manifest["precision"]))
    found = _Found()
    with progress.stage("checking files"):
        found.take(integrity.of_files(bundle))
    truth, why_not = reference, ""
    if not found.failed:
        if truth is None:
            with progress.stage("load weights"):
                truth, why_not = integrity.reference_or_reason(bundle)
        if truth is None:
            found.warnings.append(f"compared with reference.onnx, not with PyTorch: {why_not}")
        else:
            found.take(integrity.against_reference(bundle, truth))
            found.take(fidelity.of_inputs(bundle, truth, progress))
    if not found.failed:
        found.take(fidelity.of_graphs(bundle, truth, progress))
    if not found.failed:
        found.images(bundle, bounds, data, data_size, seed, skip_bad, truth, resumable, progress)
    outcome, reason = judged(found.checks)
    return GateVerdict(
        outcome=outcome,
        reason=reason,
        checks=tuple(found.checks),
        bundle=str(bundle.path),
        network=str(bundle.manifest["network"]["name"]),
        precision=str(bundle.manifest["precision"]),
        target=str(bundle.manifest["target"]),
        truth="reference.onnx" if truth is None else truth.framework,
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

    checks: list[Check] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    parity: ParityReport | None = None
    speed: ThroughputReport | None = None
    stopped_early: bool = False

    @property
    def failed(self) -> bool:
        return any(check.failed for check in self.checks)

    def take(self, checks: Iterable[Check]) -> None:
        self.checks.extend(checks)

    def images(
        self,
        bundle: Bundle,
        bounds: Bounds,
        data: str | None,
        data_size: int | None,
        seed: int,
        skip_bad: bool,
        truth: Reference | None,
        resumable: Resumable | None,
        progress: Progress,
    ) -> None:
        """The bounds that are held on images. An output that is not finite fails the bundle."""
        chosen = accuracy.choose(
            bundle, bounds, data=data, size=data_size, seed=seed, skip_bad=skip_bad
        )
        try:
            examined = accuracy.examine(
                bundle, bounds, chosen, truth, resumable=resumable, progress=progress
            )
        except StageError as error:
            self.checks.append(Check("outputs", "accuracy", "FAIL", str(error)))
            return
        self.take(examined.checks)
        self.parity, self.stopped_early = examined.parity, examined.stopped_early
