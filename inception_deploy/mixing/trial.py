"""What a graph is worth on the validation images, compared with PyTorch each time."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from inception_deploy.engines import Engine
from inception_deploy.images import ImageSet
from inception_deploy.parity import ParityReport, Predictor, compare
from inception_deploy.pixels import fed
from inception_deploy.progress import Progress
from inception_deploy.recipe import Layout

__all__ = ["Validation"]


@dataclass
class Validation:
    """The images, and the reference's outputs for them, which are computed once.

    Args:
        reference: the FP32 network.
        images: the same in every trial.
        layout: of the pixels that the graphs take; None where they take normalised images.
    """

    reference: Predictor
    images: ImageSet
    head: str
    engine: Engine
    layout: Layout | None
    progress: Progress
    names: tuple[str, str] = ("pytorch", "onnxruntime")
    outputs: list[NDArray[Any]] = field(default_factory=list)

    def try_out(self, model: bytes) -> ParityReport:
        """Compare a serialised graph with the reference on all images.

        Raises:
            DataError: the images cannot be used.
            StageError: an output is missing, misshapen or not finite.
        """
        with self.engine.session(model) as session:
            return compare(
                self._remembering(),
                session.run,
                self.images.batches(),
                head=self.head,
                feed=lambda batch: fed(batch, self.layout),
                names=self.names,
                data_name=self.images.dataset.name,
                data_digest=self.images.dataset.digest,
                total=self.images.batch_count(),
                progress=self.progress,
            )

    def _remembering(self) -> Callable[[NDArray[Any]], NDArray[Any]]:
        """The reference, asked for the batches in order; asked again, it answers from memory."""
        position = itertools.count()

        def predict(inputs: NDArray[Any]) -> NDArray[Any]:
            index = next(position)
            if index == len(self.outputs):
                self.outputs.append(self.reference(inputs))
            return self.outputs[index]

        return predict
