"""What an engine takes in a process of its own: memory, loading, the first inference.

In a process that has run other engines before, memory that those gave back is used again and the
libraries are warm, so these figures need a fresh one:

    python -m inception_deploy.throughput.footprint ENGINE MODEL.onnx BATCH THREADS [FILE SHA256]

THREADS 0 leaves the choice to the engine; FILE is what the engine has compiled of the model.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from inception_deploy.engines import ENGINES
from inception_deploy.errors import BadInput, StageError
from inception_deploy.throughput.report import Footprint

__all__ = ["footprint", "peak_rss"]

TIMEOUT = 120.0
_STATUS = Path("/proc/self/status")


def footprint(
    engine: str,
    model: Path,
    batch: int,
    threads: int | None,
    compiled: tuple[Path, str] | None = None,
) -> Footprint:
    """Load `model` in a fresh process and run one batch.

    Args:
        compiled: the engine's own file and its hash, to be loaded in place of the model.

    Raises:
        StageError: the process failed, or took longer than `TIMEOUT` seconds.
    """
    command = [sys.executable, "-m", __name__, engine, str(model), str(batch), str(threads or 0)]
    command += map(str, compiled or ())
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise StageError(
            f"{engine} did not load {model.name} and run it once within {TIMEOUT:g} s"
        ) from None
    lines = (done.stdout or done.stderr).strip().splitlines()
    if done.returncode or not lines:
        said = lines[-1] if lines else f"exit status {done.returncode}"
        raise StageError(f"{engine} with {model.name} in a process of its own: {said}")
    return Footprint(**json.loads(lines[-1]))


def peak_rss() -> int:
    """The most memory that this process has had resident, bytes.

    Raises:
        BadInput: the system does not tell.
    """
    return _kibibytes("VmHWM")


def _kibibytes(field: str) -> int:
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found is None:
        raise BadInput(f"this system does not tell a process's memory ({_STATUS}: {field})")
    return 1024 * int(found.group(1))


def _measured(
    engine: str, model: Path, batch: int, threads: int | None, compiled: tuple[Path, str] | None
) -> Footprint:
    """In this process."""
    found = ENGINES.get(engine)
    found.availability()  # imports the vendor's library
    before = _kibibytes("VmRSS")
    if compiled is None:
        opened = found.session(model, threads=threads)
    else:
        opened = found.deployed(*compiled, model=model, threads=threads)
    with opened as session:
        spec = session.inputs[0]
        shape = [batch, *(d if isinstance(d, int) else 1 for d in spec.shape[1:])]
        inputs = np.zeros(shape, spec.dtype)
        started = time.perf_counter()
        session.run(inputs)
        first = time.perf_counter() - started
        return Footprint(batch, session.load_seconds, 1e3 * first, peak_rss(), before)


if __name__ == "__main__":
    name, file, images, threads_asked, *rest = sys.argv[1:]
    made = (Path(rest[0]), rest[1]) if rest else None
    result = _measured(name, Path(file), int(images), int(threads_asked) or None, made)
    print(json.dumps(result.__dict__))
