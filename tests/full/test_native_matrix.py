"""Every network at native width and size through the whole way: `make test-full`.

`benchmarks.family` measures each in a process of its own and states the margin rule.
"""

from __future__ import annotations

from functools import cache

import pytest

from benchmarks.family import BOUND, CLEAR, IMAGES, Row, in_a_process
from inception_deploy.networks import NETWORKS

pytestmark = [pytest.mark.full, pytest.mark.parametrize("name", NETWORKS.names())]

MOST_GIB = 6.0


@cache
def row(name: str) -> Row:
    return in_a_process(name)


def test_fp32_is_pytorch(name: str) -> None:
    found = row(name)
    assert found.fp32_error <= BOUND
    assert found.fp32_block_error <= BOUND, found.worst_block


def test_fp16_changes_no_first_choice_but_of_near_ties(name: str) -> None:
    found = row(name)
    assert found.fp16_error <= found.fp16_bound
    assert found.fp16.error <= found.fp16_bound
    assert found.fp16.images == IMAGES
    assert found.fp16.near_ties <= IMAGES - CLEAR
    assert found.fp16.clear_disagreeing == 0
    assert found.fp16.classes > IMAGES // 4


def test_the_deployed_network_is_the_published_one(name: str) -> None:
    found, spec = row(name), NETWORKS.get(name)
    assert (found.size, found.params, found.macs) == (spec.input_size, spec.params, spec.macs)


def test_both_bundles_verify(name: str) -> None:
    assert row(name).problems == ()


def test_memory_stays_small(name: str) -> None:
    assert row(name).peak_gib < MOST_GIB
