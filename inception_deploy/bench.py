"""`bench`: bundles side by side, in one run, beside the PyTorch network they were made from."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from inception_deploy.bundle import Bundle
from inception_deploy.compare import reference_of_bundle
from inception_deploy.engines import ENGINES
from inception_deploy.errors import BadInput
from inception_deploy.progress import Progress
from inception_deploy.throughput import Candidate, ThroughputReport, measure
from inception_deploy.trials import filled, torch_predictor

__all__ = ["bench_bundles"]


def bench_bundles(
    bundles: Sequence[Bundle],
    *,
    batches: Sequence[int],
    seconds: float,
    threads: int | None,
    with_pytorch: bool,
    with_reference: bool,
    progress: Progress,
) -> ThroughputReport:
    """Time the deployed graphs of all bundles, alternating in blocks.

    Args:
        batches: batch sizes.
        seconds: per candidate and batch size.
        threads: of the engines; None leaves the choice to each.
        with_pytorch: also time the PyTorch network of the first bundle, where there is one.
        with_reference: also time reference.onnx of the first bundle, the plain export.

    Raises:
        BadInput: the bundles take images of different sizes.
    """
    sizes = {bundle.preprocessing.size for bundle in bundles}
    if len(sizes) > 1:
        raise BadInput(f"bundles take images of {sorted(sizes)} pixels; bench one size at a time")
    first = bundles[0]
    inputs = first.golden().inputs
    with ExitStack() as stack:
        candidates = []
        if with_pytorch and first.manifest["weights"]["layout"] != "onnx":
            module = reference_of_bundle(first).module
            candidates.append(Candidate("pytorch", "torch", "fp32", torch_predictor(module)))
        if with_reference:
            engine = ENGINES.get(first.manifest["target"])
            session = stack.enter_context(engine.session(first.reference, threads=threads))
            candidates.append(
                Candidate(engine.name, "reference.onnx", "fp32", session.run, session.load_seconds)
            )
        for bundle in bundles:
            engine = ENGINES.get(bundle.manifest["target"])
            session = stack.enter_context(engine.session(bundle.model, threads=threads))
            name = "model.onnx" if len(bundles) == 1 else f"{bundle.path.name}/model.onnx"
            precision = str(bundle.manifest["precision"])
            make_batch = partial(filled, bundle.golden().feed)
            candidates.append(
                Candidate(
                    engine.name, name, precision, session.run, session.load_seconds, make_batch
                )
            )
        return measure(
            candidates,
            lambda size: filled(inputs, size),
            batches=batches,
            seconds=seconds,
            progress=progress,
        )
