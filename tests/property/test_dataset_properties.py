"""Subsets are balanced, distinct and repeatable for any labels; batches lose and invent nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from inception_deploy.dataset import Sample, batches, subset
from inception_deploy.preprocess import Preprocessing


@dataclass(frozen=True)
class Listed:
    """A data set of one-pixel images with the given labels."""

    labels: NDArray[np.int64] | None
    count: int
    name: str = "listed"
    class_names: tuple[str, ...] | None = None
    label_mapping: str | None = None
    digest: str = ""

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        label = None if self.labels is None else int(self.labels[index])
        return Sample(index, str(index), label, Image.new("RGB", (1, 1), (index, 0, 0)))


@st.composite
def listed(draw: st.DrawFn) -> Listed:
    labels = draw(st.lists(st.integers(0, 5), min_size=1, max_size=60))
    if draw(st.booleans()):
        return Listed(None, len(labels))
    return Listed(np.array(labels, np.int64), len(labels))


@given(listed(), st.integers(1, 80), st.integers(0, 5))
def test_subset(dataset: Listed, count: int, seed: int) -> None:
    chosen = subset(dataset, count, seed=seed)
    assert chosen.dtype == np.int64
    assert len(chosen) == min(count, len(dataset))
    assert (np.diff(chosen) > 0).all()
    assert 0 <= chosen[0] <= chosen[-1] < len(dataset)
    np.testing.assert_array_equal(chosen, subset(dataset, count, seed=seed))
    if dataset.labels is not None:
        taken = np.bincount(dataset.labels[chosen], minlength=6)
        left = np.bincount(dataset.labels, minlength=6) - taken
        # a class has two fewer than another only when it has no image left to give
        assert all(taken[a] >= taken.max() - 1 for a in range(6) if left[a] > 0)


@given(listed(), st.integers(1, 20))
def test_batches(dataset: Listed, batch_size: int) -> None:
    found = list(batches(dataset, Preprocessing(1, 1, mean=(0, 0, 0), std=(1, 1, 1)), batch_size))
    assert [len(batch) for batch in found[:-1]] == [batch_size] * (len(found) - 1)
    assert 1 <= len(found[-1]) <= batch_size
    indices = np.concatenate([batch.indices for batch in found])
    np.testing.assert_array_equal(indices, np.arange(len(dataset)))
    reds = np.concatenate([batch.inputs[:, 0, 0, 0] for batch in found])
    np.testing.assert_allclose(reds, indices / 255, atol=1e-6)
    for batch in found:
        if dataset.labels is None:
            assert batch.labels is None
        else:
            np.testing.assert_array_equal(batch.labels, dataset.labels[batch.indices])
