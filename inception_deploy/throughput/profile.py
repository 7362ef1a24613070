"""Where in the network the time goes: an engine's profile, summed up by architecture block."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from inception_deploy.throughput.report import BlockTime

__all__ = ["block_of", "block_times"]

_INSERTED = "InsertedPrecisionFreeCast_"
"""Around what its CPU kernels cannot run in FP16: `insert_cast_transformer.cc` of ONNX Runtime."""


def block_times(
    seconds: Mapping[str, float],
    macs: Mapping[str, int],
    blocks: Sequence[str],
    *,
    batch: int,
    peak: float | None = None,
) -> tuple[BlockTime, ...]:
    """Milliseconds and multiply-adds per query of each block, in the order of `blocks`.

    What belongs to no block — what the engine adds, or what stands between blocks — comes last,
    under the name "".

    Args:
        seconds: node name → seconds per run, as `Session.profile` gives them.
        macs: node name → multiply-adds per image.
        batch: images per run of the profile.
        peak: multiply-adds per second that count as full utilisation.
    """
    known = frozenset(blocks)
    time: dict[str, float] = {}
    work: dict[str, int] = {}
    for node, spent in seconds.items():
        block = block_of(node, known)
        time[block] = time.get(block, 0.0) + spent
    for node, count in macs.items():
        block = block_of(node, known)
        work[block] = work.get(block, 0) + batch * count
    return tuple(
        BlockTime(name, 1e3 * time[name], done, _share(done, time[name], peak))
        for name in (*blocks, "")
        if name in time
        for done in (work.get(name, 0),)
    )


def block_of(node: str, blocks: Collection[str]) -> str:
    """The innermost block that a node's name begins with, or "".

    A cast that ONNX Runtime inserts belongs to the node that it is named after.
    """
    parts = node.removeprefix(_INSERTED).split(":")[0].split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if name in blocks:
            return name
    return ""


def _share(macs: int, seconds: float, peak: float | None) -> float | None:
    if not macs or not peak or seconds <= 0:
        return None
    return macs / seconds / peak
