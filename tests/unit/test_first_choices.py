"""What tests on a GPU ask of FP16, asked of a graph for a GPU on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from first_choices import NETWORKS, first_choices
from numpy.typing import NDArray
from trt_builds import lowered

from inception_deploy.engines import ENGINES


@pytest.mark.parametrize("network", NETWORKS)
def test_fp16_changes_the_choice_of_near_ties_alone(network: str) -> None:
    graph = lowered(network, "fp16").model.SerializeToString()
    with ENGINES.get("onnxruntime").session(graph) as session:
        found = first_choices(network, session.run)
    assert found.clear_disagreeing == 0
    assert found.images - found.near_ties > 45
    assert found.classes == 7


def test_a_change_is_seen() -> None:
    """Golden images are right here, and all others are those of their neighbours."""
    graph = lowered("googlenet", "fp16").model.SerializeToString()
    with ENGINES.get("onnxruntime").session(graph) as session:

        def run(shown: NDArray[Any]) -> NDArray[Any]:
            outputs = session.run(shown)
            return outputs if len(shown) == 5 else np.roll(outputs, 1, axis=0)

        assert first_choices("googlenet", run).clear_disagreeing > 20
